"""The torch side of the contract: what a backbone and a head are, and what passes between them.

Plugin authors reach these names through :mod:`medtl_monai.plugin`, which imports this module on first use.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from medtl_monai.specs import InputSpec, Stage


class Backbone(nn.Module):
    """An ordered list of named stages; stage *i* maps state *i - 1* to state *i*.

    Subclasses fill ``stages``; every parameter belongs to exactly one stage. A state is one tensor ``[B, C, *spatial]``
    (or tokens); :meth:`tap` turns it into the feature map a head sees, identity by default.

    Attributes:
        stages: The stages by name, in order.
        stage_specs: Channels and strides of the stages as built, where a parameter changes what the backbone's spec
            declares for the defaults; None means the spec's ``stages`` hold.
        input_spec: What this instance wants to see, where a parameter changes it (fewer levels need less divisible
            sizes); None means the spec's ``input`` holds.
        dialects: How other files name this backbone's tensors: key maps (see :class:`WeightsSpec`) by name. A user's
            file that is written in one of them is loaded without further ado, and the run says so.
    """

    stages: nn.ModuleDict
    stage_specs: tuple[Stage, ...] | None = None
    input_spec: InputSpec | None = None
    dialects: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({})

    def tap(self, name: str, state: Tensor) -> Tensor:
        """Return the feature map ``[B, channels, *spatial]`` of stage ``name`` from its state."""
        return state

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run stages ``start`` to ``stop`` (exclusive).

        Args:
            x: The image for ``start=0``, otherwise the state before stage ``start``.
            start: First stage to run.
            stop: Stage to stop before; None runs to the end.

        Returns:
            The last state, and the taps of the stages that ran.
        """
        taps = []
        for name, stage in list(self.stages.items())[start:stop]:
            x = stage(x)
            taps.append(self.tap(name, x))
        return x, taps

    def forward(self, x: Tensor, start: int = 0) -> list[Tensor]:
        """Return the taps of the stages from ``start`` on; ``x`` is the state before stage ``start``."""
        return self.run(x, start)[1]


class Adapter(nn.Module, ABC):
    """A layer with a small trainable addition to it, such as LoRA; the host puts it in the layer's place.

    The layer as it was is ``base``; every parameter outside it belongs to the addition. The addition must start as
    nothing: an adapted model first computes what the pretrained one does.

    Args:
        base: The layer.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer gives, and the addition."""

    @abstractmethod
    def merged(self) -> Mapping[str, Tensor]:
        """Return the base layer's tensors by name, with the addition folded in: what checkpoints hold and others load.

        The plain layer with these tensors must compute what :meth:`forward` does in eval mode, to about 1e-5.
        """


@dataclasses.dataclass(kw_only=True)
class Prefix:
    """What a backbone's first stages made of a batch, computed earlier.

    Attributes:
        start: The stage that is still to run.
        state: The state before it; None if every stage has run.
        taps: Feature maps of the stages that have run; None for those that the head does not look at.
    """

    start: int
    state: Tensor | None
    taps: tuple[Tensor | None, ...]

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(tensor.device for tensor in (self.state, *self.taps) if tensor is not None)

    def map(self, function: Callable[[Tensor], Tensor]) -> Prefix:
        """Return the prefix with a function applied to each of its tensors."""
        taps = tuple(tap if tap is None else function(tap) for tap in self.taps)
        return Prefix(start=self.start, state=self.state if self.state is None else function(self.state), taps=taps)


@dataclasses.dataclass(kw_only=True)
class Batch:
    """One batch as heads see it.

    Attributes:
        image: ``[B, C, *spatial]``. With a prefix it is on the device ``meta``: it has a shape and no voxels, and
            whatever asks for them raises.
        spatial_size: Size of the image, which stays known when features come from a cache.
        target: ``[B]`` class indices, ``[B, L]`` zeros and ones (NaN = not labelled), ``[B, N]`` numbers
            (NaN = not labelled) or ``[B, *spatial]`` label indices; None in prediction.
        case_ids: Pseudonymous case ids.
        covariates: ``[B, K]`` tabular values, or None.
        bag_lengths: ``[B]`` instances per bag, or None.
        prefix: What the frozen stages made of the images, where that was computed before; heads need not look at it.
    """

    image: Tensor
    spatial_size: tuple[int, ...]
    target: Tensor | None = None
    case_ids: tuple[str, ...] = ()
    covariates: Tensor | None = None
    bag_lengths: Tensor | None = None
    prefix: Prefix | None = None

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.image.device if self.prefix is None else self.prefix.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch with its tensors in pinned memory (called by the data loader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        tensors: dict[str, Any] = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and not value.is_meta
        }
        prefix = self.prefix if self.prefix is None else self.prefix.map(function)
        return dataclasses.replace(self, **tensors, prefix=prefix)

    def labels(self) -> Tensor:
        """Return the target, or raise if the batch has none."""
        if self.target is None:
            raise ValueError("this batch has no target: a loss or metric needs one")
        return self.target


@dataclasses.dataclass(kw_only=True)
class Prediction:
    """What a head says of a batch, in the terms a user reads.

    Attributes:
        probabilities: ``[B, K]`` per class or label; for masks ``[B, K, *spatial]``.
        classes: ``[B]`` class indices, or ``[B, L]`` zeros and ones.
        values: ``[B, N]`` numbers in the units of the labels.
        mask: ``[B, *spatial]`` label indices.
    """

    probabilities: Tensor | None = None
    classes: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None


class Cumulative(Protocol):
    """What a metric function must offer; every ``monai.metrics.CumulativeIterationMetric`` does."""

    def __call__(self, y_pred: Any, y: Any) -> Any:
        """Take in one batch."""

    def aggregate(self) -> Any:
        """Return the value over all batches since the last reset."""

    def reset(self) -> None:
        """Forget all batches."""


@dataclasses.dataclass(kw_only=True)
class Metric:
    """A metric of a head: a MONAI metric and how to feed it.

    Attributes:
        fn: A ``monai.metrics.CumulativeIterationMetric``, or anything with its three methods.
        inputs: Makes ``(y_pred, y)`` for ``fn`` from a prediction and its batch.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is. There is no second switch anywhere.
        components: Names for the entries when ``fn`` aggregates to a vector; their mean is the metric's value.
    """

    fn: Cumulative
    inputs: Callable[[Prediction, Batch], tuple[Any, Any]]
    mode: Literal["max", "min"] = "max"
    components: tuple[str, ...] = ()


class Head(nn.Module, ABC):
    """A task head: features in, task output out, with its own loss, prediction and metrics.

    Modules placed in ``necks`` are stages of their own (a decoder that may be pretrained and frozen); everything else
    is the stage ``"head"``, which is never pretrained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.necks = nn.ModuleDict()

    @abstractmethod
    def forward(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Map the backbone's taps (finest first) to the raw output, for example logits ``[B, K]``."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the scalar loss of ``output`` against ``batch.target``."""

    @abstractmethod
    def predict(self, output: Tensor, batch: Batch) -> Prediction:
        """Turn the raw output into probabilities, classes, values or masks."""

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Return the metrics by name; the first one chooses the best checkpoint and stops early."""

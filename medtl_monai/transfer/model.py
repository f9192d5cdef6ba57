"""Backbone and head as one network that stays frozen where its rules say so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, Self

import torch
from torch import Tensor, nn

from medtl_monai.errors import PolicyError
from medtl_monai.modules import Backbone, Batch, Head, Prediction, Prefix
from medtl_monai.specs import Rule
from medtl_monai.transfer.stages import ModelStage, collect, frozen_statistics
from medtl_monai.transfer.taps import not_kept

Precision = Literal["fp32", "bf16"]


class TransferModel(nn.Module):
    """A backbone and a head, called on a :class:`~medtl_monai.modules.Batch`.

    Frozen stages stay in eval mode through every ``.train()`` call, and leading frozen stages run without autograd.

    Args:
        backbone: The backbone.
        head: The head built for it.
        precision: ``"bf16"`` computes the forward pass under autocast; parameters and output stay float32.

    Raises:
        SpecError: If the stages of backbone and head do not divide its tensors among them.
    """

    def __init__(self, backbone: Backbone, head: Head, *, precision: Precision = "fp32") -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.precision: str = precision
        self.stages: tuple[ModelStage, ...] = collect(backbone, head)
        self.rules: dict[str, Rule] = {stage.name: Rule() for stage in self.stages}
        # Every module and the mode it should be in: looking is many times cheaper than setting.
        self._modes: list[tuple[nn.Module, bool]] = []

    @property
    def frozen_prefix(self) -> int:
        """How many leading backbone stages are frozen at the moment."""
        count = 0
        for stage in self.stages:
            if stage.role != "backbone" or not self.rules[stage.name].frozen:
                break
            count += 1
        return count

    def set_rules(self, rules: Mapping[str, Rule]) -> None:
        """Make the model obey one row of a policy table: what trains, in which mode; idempotent.

        Gradients of everything that does not train are dropped, so that no optimizer step, weight decay or momentum
        reaches it and it does not count in gradient clipping.

        Args:
            rules: A rule for every stage.

        Raises:
            PolicyError: If the rules are not for this model's stages.
        """
        names = [stage.name for stage in self.stages]
        if set(rules) != set(names):
            raise PolicyError(
                f"rules are for stages {sorted(rules)}, the model has {names}", mend="Plan for this model"
            )
        self.rules = {name: rules[name] for name in names}
        self._modes = []
        for stage in self.stages:
            self._set_trainable(stage, self.rules[stage.name])
        self._drop_gradients()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; frozen stages and frozen normalisation layers stay in eval mode.

        MONAI's trainer calls this in every iteration, which would otherwise wake frozen normalisation layers.
        """
        if mode == self.training and self._modes and all(module.training is is_on for module, is_on in self._modes):
            return self
        super().train(mode)
        if mode:
            self._hold_still()
        self._modes = [(module, module.training) for module in self.modules()]
        return self

    def features(self, batch: Batch) -> list[Tensor]:
        """Return the backbone's taps, finest first; the frozen leading stages run without autograd.

        Stages that the batch brings the results of do not run again. A tap that was not kept is a
        :class:`~medtl_monai.transfer.taps.NotKept`.

        Raises:
            RuntimeError: If one of those stages trains, so that its results are no longer true.
        """
        boundary = self.frozen_prefix
        start, state, taps = _given(batch)
        if start > boundary:
            raise RuntimeError(f"the batch brings results of {start} stages, of which {boundary} are frozen")
        with self.autocast(batch.device):
            # Only the prefix: below a stage that trains, autograd must see everything above it.
            if state is not None and start < boundary:
                with torch.no_grad():
                    state, more = self.backbone.run(state, start, boundary)
                taps += more
            if state is not None and boundary < len(self.backbone.stages):
                taps += self.backbone.run(state, boundary)[1]
            return taps

    def prefix(self, batch: Batch, stop: int, keep: Collection[int] | None = None) -> Prefix:
        """Return what the first ``stop`` stages, which must be frozen, make of a batch's images.

        Args:
            batch: With images, on the model's device and in its memory format.
            stop: How many stages to run.
            keep: Which of their taps are wanted; None for all.

        Raises:
            RuntimeError: If one of the stages trains.
        """
        if not 0 < stop <= self.frozen_prefix:
            raise RuntimeError(f"{stop} stages cannot be computed once: {self.frozen_prefix} are frozen")
        with torch.inference_mode(), self.autocast(batch.device):
            state, taps = self.backbone.run(batch.image, 0, stop)
        kept = tuple(tap if keep is None or n in keep else None for n, tap in enumerate(taps))
        return Prefix(start=stop, state=state if stop < len(self.backbone.stages) else None, taps=kept)

    def forward(self, batch: Batch) -> Tensor:
        """Return the head's raw output in float32."""
        features = self.features(batch)
        with self.autocast(batch.device):
            output: Tensor = self.head(features, batch)
        return output.float() if output.is_floating_point() else output

    def predict(self, batch: Batch) -> Prediction:
        """Return the head's prediction, computed in eval mode and without autograd."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self.head.predict(self(batch), batch)
        finally:
            self.train(training)

    def _set_trainable(self, stage: ModelStage, rule: Rule) -> None:
        for entry in stage.parameters:
            entry.parameter.requires_grad_(entry.chosen_by(rule.params))

    def _drop_gradients(self) -> None:
        for parameter in self.parameters():
            if not parameter.requires_grad:
                parameter.grad = None

    def _hold_still(self) -> None:
        for stage in self.stages:
            rule = self.rules[stage.name]
            if rule.frozen:
                stage.set_mode(False)
            elif frozen_statistics(rule):
                stage.set_mode(True, norm="eval")

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the arithmetic of the forward pass as a context."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def _given(batch: Batch) -> tuple[int, Tensor | None, list[Tensor]]:
    """Return where the backbone starts, the state there, and the taps before."""
    if batch.prefix is None:
        return 0, batch.image, []
    names = enumerate(batch.prefix.taps)
    return batch.prefix.start, batch.prefix.state, [not_kept(n) if tap is None else tap for n, tap in names]

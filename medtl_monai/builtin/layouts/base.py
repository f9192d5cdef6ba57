"""What every layout shares: options as dataclass fields, from which specs and built networks both derive."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from medtl_monai.errors import ConfigError, did_you_mean
from medtl_monai.specs import BackboneSpec, InputSpec, Parameter, Stage

KeyMap = tuple[tuple[str, str], ...]
"""``(prefix in a MONAI checkpoint, prefix in Backbone.state_dict())`` pairs, usable as ``WeightsSpec.key_map``."""

DIMS: tuple[Literal[2, 3], ...] = (2, 3)
NORMS = ("batch", "instance", "group")
NORM_GROUPS = 8
"""Groups of every group normalisation; channel counts are multiples of it."""


def option(default: bool | int | float | str | tuple[str, ...], text: str) -> Any:
    """Declare a layout field that the user may set."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout(ABC):
    """The shape of one backbone under given options.

    A layout is the single source of a backbone's options: the spec's parameters and stages, and the network itself
    are all made from it, so they cannot disagree.

    Attributes:
        spatial_dims: 2 or 3.
    """

    family: ClassVar[str]
    spatial_dims: Literal[2, 3]

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Return name, channels and cumulative stride of each stage."""

    @abstractmethod
    def key_map(self) -> KeyMap:
        """Return the map from the keys of the MONAI network to those of the backbone."""

    def dialects(self) -> dict[str, KeyMap]:
        """Return the names under which files of other programs know the tensors, as key maps."""
        return {"monai": self.key_map()}

    @abstractmethod
    def check(self) -> None:
        """Raise ConfigError where the options make no network."""

    def needs_several_voxels(self) -> bool:
        """Whether the deepest stage must keep more than one voxel (instance normalisation)."""
        return getattr(self, "norm", "").startswith("instance")

    def input(self) -> InputSpec:
        """Return what the network wants to see: sizes divisible by the deepest stride."""
        stride = tuple(max(s) for s in zip(*(stage.stride for stage in self.stages()), strict=True))
        twice = tuple(2 * s if s > 1 else 1 for s in stride)
        return InputSpec(
            spatial_dims=self.spatial_dims,
            divisible_by=stride,
            min_size=twice if self.needs_several_voxels() else (),
        )

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """Return the options as spec parameters."""
        fields = [f for f in dataclasses.fields(cls) if "help" in f.metadata]
        defaults: list[Any] = [f.default for f in fields]
        return tuple(
            Parameter(name=f.name, default=default, help=f.metadata["help"])
            for f, default in zip(fields, defaults, strict=True)
        )

    @classmethod
    def make(cls, options: Mapping[str, Any], **fixed: Any) -> Self:
        """Return the checked layout of a named network under a user's options.

        Args:
            options: Values of :meth:`parameters`; a tuple may be given as one value.
            **fixed: What the name of the network settles, such as ``spatial_dims`` and ``depth``.

        Raises:
            ConfigError: If an option is unknown, has another type than its default, or makes no network.
        """
        known = {p.name: p.default for p in cls.parameters()}
        for name, value in options.items():
            if name not in known:
                raise ConfigError(f"unknown option {name!r}", where=cls.family, mend=did_you_mean(name, known))
            _check_type(value, known[name], f"{cls.family}:{name}")
        layout = cls(**fixed, **options)
        layout.check()
        return layout

    def spec(self, name: str, *, build: str, summary: str, citations: tuple[str, ...]) -> BackboneSpec:
        """Return the spec of this layout; ``build`` is relative to ``medtl_monai.builtin.networks``."""
        return BackboneSpec(
            name=name,
            summary=summary,
            build=f"medtl_monai.builtin.networks.{build}",
            stages=self.stages(),
            input=self.input(),
            parameters=self.parameters(),
            license="Apache-2.0",
            citations=citations,
        )

    def require(self, ok: bool, option: str, mend: str) -> None:
        """Raise ConfigError about ``option`` unless ``ok``."""
        if not ok:
            value = getattr(self, option)
            raise ConfigError(f"{option} is {value!r}", where=f"{self.family}:{option}", mend=mend)

    def require_norm(self, norms: tuple[str, ...] = NORMS) -> None:
        """Raise ConfigError unless ``norm`` is one of ``norms``."""
        self.require(getattr(self, "norm", None) in norms, "norm", f"Choose from: {', '.join(norms)}")


def _check_type(value: Any, default: Any, where: str) -> None:
    kinds: tuple[type, ...] = (type(default),)
    if isinstance(default, float):
        kinds = (float, int)
    if isinstance(default, tuple):
        kinds = (tuple, list, int, str)
    wrong_bool = isinstance(value, bool) and not isinstance(default, bool)
    if not isinstance(value, kinds) or wrong_bool:
        shown = kinds[0].__name__
        raise ConfigError(f"{value!r} is not of type {shown}", where=where, mend=f"The default is {default!r}")


def axis_levels(levels: Any, spatial_dims: int, where: str) -> tuple[int, ...]:
    """Read the levels of each axis from ``5``, ``"5"``, ``("5",)`` or ``("5", "5", "3")``.

    Raises:
        ConfigError: If they are not one or ``spatial_dims`` whole numbers of at least 1.
    """
    parts = list(levels) if isinstance(levels, (tuple, list)) else [levels]
    mend = f"Give one whole number, or {spatial_dims} joined by '+', such as {'+'.join('553'[:spatial_dims])}"
    if len(parts) not in (1, spatial_dims) or not all(str(p).isdecimal() and int(p) >= 1 for p in parts):
        raise ConfigError(f"levels is {levels!r}", where=where, mend=mend)
    numbers = [int(p) for p in parts]
    return tuple(numbers * spatial_dims if len(numbers) == 1 else numbers)


def level_strides(levels: tuple[int, ...], first: int, last: int) -> tuple[tuple[int, ...], ...]:
    """Return the stride of each level against the one above, per axis.

    Levels ``first`` to ``last`` halve the size. An axis with fewer levels than the deepest one starts to be halved
    later: coarse slices keep their resolution until the in-plane resolution has come near theirs (Isensee et al.,
    nnU-Net, 2021).
    """
    depth = max(levels)
    return tuple(tuple(2 if first + depth - own <= j <= last else 1 for own in levels) for j in range(depth))


def pyramid(names: Iterable[str], channels: Iterable[int], strides: Iterable[tuple[int, ...]]) -> tuple[Stage, ...]:
    """Return stages from per-stage strides, which are multiplied up."""
    stages: list[Stage] = []
    for name, width, stride in zip(names, channels, strides, strict=True):
        above = stages[-1].stride if stages else (1,) * len(stride)
        total = tuple(a * s for a, s in zip(above, stride, strict=True))
        stages.append(Stage(name=name, channels=width, stride=total))
    return tuple(stages)

"""The encoder of DynUNet, MONAI's nnU-Net."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import DIMS, KeyMap, Layout, axis_levels, level_strides, option, pyramid
from medtl_monai.specs import Stage

CITATIONS = (
    "Isensee et al.: nnU-Net: A Self-Configuring Method for Deep Learning-Based Biomedical Image Segmentation. "
    "Nature Methods 18, 2021",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynUNetLayout(Layout):
    """Shape of the encoder of MONAI's DynUNet at strides 1, 2, 4, 8, 16."""

    family = "dynunet"
    levels: tuple[str, ...] = option(
        ("5",),
        "Number of levels; one per axis (5+5+3) keeps coarse slices longer at full resolution, with flat kernels",
    )
    features: int = option(32, "Channels of the first level, doubled at each further one; a multiple of 8")
    max_features: int = option(0, "Channels are never more than this; 0 for nnU-Net's own 320 in 3D and 512 in 2D")
    res_block: bool = option(False, "Residual blocks")
    norm: str = option("instance", "instance, batch or group")
    dropout: float = option(0.0, "Dropout in each convolution")

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        self.require(3 <= max(self.axes) <= 8, "levels", "Choose 3 to 8")
        self.require(self.features >= 8 and self.features % 8 == 0, "features", "Choose a multiple of 8")
        ok = self.max_features >= 0 and self.max_features % 8 == 0
        self.require(ok, "max_features", "Choose a multiple of 8, or 0")
        self.require_norm()
        self.require(0 <= self.dropout < 1, "dropout", "Choose at least 0 and less than 1")

    @property
    def axes(self) -> tuple[int, ...]:
        """Levels of each axis."""
        return axis_levels(self.levels, self.spatial_dims, f"{self.family}:levels")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        limit = self.max_features or (320 if self.spatial_dims == 3 else 512)
        return tuple(min(self.features * 2**i, limit) for i in range(max(self.axes)))

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Stride of each level against the one above."""
        return level_strides(self.axes, first=1, last=max(self.axes) - 1)

    @property
    def kernels(self) -> tuple[tuple[int, ...], ...]:
        """Kernel of each level: flat along an axis that is still at full resolution while others are halved."""
        depth = max(self.axes)
        return tuple(tuple(1 if i < depth - own else 3 for own in self.axes) for i in range(depth))

    def stages(self) -> tuple[Stage, ...]:
        """Return ``level0``, ``level1`` and so on."""
        return pyramid((f"level{i}" for i in range(max(self.axes))), self.channels, self.strides)

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.DynUNet``.

        A DynUNet checkpoint lists every block a second time under ``skip_layers.``; those keys are left over.
        """
        bottom = max(self.axes) - 1
        downs = ((f"downsamples.{i - 1}.", f"stages.level{i}.") for i in range(1, bottom))
        return (("input_block.", "stages.level0."), *downs, ("bottleneck.", f"stages.level{bottom}."))


SPECS = tuple(
    DynUNetLayout(spatial_dims=dims).spec(
        f"dynunet-{dims}d",
        build=f"dynunet:dynunet_{dims}d",
        summary=f"Encoder of DynUNet (nnU-Net) in {dims}D, from full resolution",
        citations=CITATIONS,
    )
    for dims in DIMS
)

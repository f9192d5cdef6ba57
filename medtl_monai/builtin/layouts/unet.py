"""The contraction path of MONAI's UNet."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import DIMS, NORMS, KeyMap, Layout, axis_levels, level_strides, option, pyramid
from medtl_monai.specs import Stage

CITATIONS = (
    "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015",
    "Kerfoot et al.: Left-Ventricle Quantification Using Residual U-Net. STACOM, MICCAI 2018",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetLayout(Layout):
    """Shape of the contraction path of MONAI's UNet at strides 1, 2, 4, 8, 8.

    The bottom has the stride of the level above it, as in MONAI. With ``first_stride=2`` (strides 2, 4, 8, 16, 16)
    the shape is that of MONAI's tutorials and bundles.
    """

    family = "unet"
    levels: tuple[str, ...] = option(
        ("5",), "Number of levels, bottom included; one per axis (5+5+3) keeps coarse slices longer at full resolution"
    )
    features: int = option(16, "Channels of the first level, doubled at each further one; a multiple of 8")
    first_stride: int = option(1, "Stride of the first level, 1 or 2")
    num_res_units: int = option(2, "Convolutions of each residual unit; 0 for single convolutions without residual")
    norm: str = option("instance", "instance, batch, group, or instance-plain without scale and shift, as in MONAI")
    dropout: float = option(0.0, "Dropout in each convolution unit")

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        self.require(2 <= max(self.axes) <= 8, "levels", "Choose 2 to 8")
        self.require(self.features >= 8 and self.features % 8 == 0, "features", "Choose a multiple of 8")
        self.require(self.first_stride in (1, 2), "first_stride", "Choose 1 or 2")
        self.require(self.num_res_units >= 0, "num_res_units", "Choose 0 or more")
        self.require_norm((*NORMS, "instance-plain"))
        self.require(0 <= self.dropout < 1, "dropout", "Choose at least 0 and less than 1")

    @property
    def axes(self) -> tuple[int, ...]:
        """Levels of each axis."""
        return axis_levels(self.levels, self.spatial_dims, f"{self.family}:levels")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.features * 2**i for i in range(max(self.axes)))

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Stride of each level against the one above; the bottom's is 1."""
        return level_strides(self.axes, first=0 if self.first_stride == 2 else 1, last=max(self.axes) - 2)

    def stages(self) -> tuple[Stage, ...]:
        """Return ``level0``, ``level1`` and so on."""
        return pyramid((f"level{i}" for i in range(max(self.axes))), self.channels, self.strides)

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.UNet``, whose levels are nested in one another."""
        bottom = max(self.axes) - 1
        nested = ["model." + "1.submodule." * i + "0." for i in range(bottom)]
        nested.append("model." + "1.submodule." * bottom)
        return tuple((old, f"stages.level{i}.") for i, old in enumerate(nested))


SPECS = tuple(
    UNetLayout(spatial_dims=dims).spec(
        f"unet-{dims}d",
        build=f"unet:unet_{dims}d",
        summary=f"Encoder of MONAI's residual U-Net in {dims}D, from full resolution",
        citations=CITATIONS,
    )
    for dims in DIMS
)

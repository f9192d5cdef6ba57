"""The encoder of SegResNet: residual blocks from full resolution down."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import DIMS, KeyMap, Layout, option, pyramid
from medtl_monai.specs import Stage

BLOCKS_DOWN = (1, 2, 2, 4, 4, 4)
"""Residual blocks of each level; the first four are MONAI's default."""

CITATIONS = ("Myronenko: 3D MRI Brain Tumor Segmentation Using Autoencoder Regularization. BrainLes, MICCAI 2018",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegResNetLayout(Layout):
    """Shape of the encoder of MONAI's SegResNet at strides 1, 2, 4, 8."""

    family = "segresnet"
    levels: int = option(4, "Number of levels, 2 to 6; each halves the size")
    init_filters: int = option(16, "Channels of the first level, doubled at each further one; a multiple of 8")
    norm: str = option("group", "group, batch or instance")

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        self.require(2 <= self.levels <= len(BLOCKS_DOWN), "levels", f"Choose 2 to {len(BLOCKS_DOWN)}")
        ok = self.init_filters >= 8 and self.init_filters % 8 == 0
        self.require(ok, "init_filters", "Choose a multiple of 8")
        self.require_norm()

    def stages(self) -> tuple[Stage, ...]:
        """Return ``level0``, ``level1`` and so on."""
        names = [f"level{i}" for i in range(self.levels)]
        channels = [self.init_filters * 2**i for i in range(self.levels)]
        return pyramid(names, channels, ((2 if i else 1,) * self.spatial_dims for i in range(self.levels)))

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.SegResNet``."""
        first = (("convInit.", "stages.level0.convInit."), ("down_layers.0.", "stages.level0.down_layer."))
        return (*first, *((f"down_layers.{i}.", f"stages.level{i}.") for i in range(1, self.levels)))


SPECS = tuple(
    SegResNetLayout(spatial_dims=dims).spec(
        f"segresnet-{dims}d",
        build=f"segresnet:segresnet_{dims}d",
        summary=f"SegResNet encoder in {dims}D, from full resolution",
        citations=CITATIONS,
    )
    for dims in DIMS
)

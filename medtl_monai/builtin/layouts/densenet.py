"""DenseNet-121: a stem at half resolution, then four dense blocks."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import DIMS, KeyMap, Layout, option, pyramid
from medtl_monai.specs import Stage

BLOCK_CONFIG = (6, 12, 24, 16)
CITATIONS = ("Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks. CVPR 2017",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetLayout(Layout):
    """Shape of MONAI's DenseNet121 at strides 2, 4, 8, 16, 32."""

    family = "densenet121"
    features: int = option(64, "Channels of the stem")
    growth_rate: int = option(32, "Channels that each dense layer adds")
    norm: str = option("batch", "batch, instance or group")
    dropout: float = option(0.0, "Dropout after each dense layer")

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        self.require(self.features >= 8 and self.features % 8 == 0, "features", "Choose a multiple of 8")
        self.require(self.growth_rate >= 8 and self.growth_rate % 8 == 0, "growth_rate", "Choose a multiple of 8")
        self.require_norm()
        self.require(0 <= self.dropout < 1, "dropout", "Choose at least 0 and less than 1")

    def stages(self) -> tuple[Stage, ...]:
        """Return ``stem``, ``block1`` … ``block4``."""
        channels = [self.features]
        width = self.features
        for layers in BLOCK_CONFIG:
            channels.append(width + layers * self.growth_rate)
            width = channels[-1] // 2
        names = ("stem", *(f"block{i}" for i in range(1, 5)))
        return pyramid(names, channels, ((2,) * self.spatial_dims for _ in names))

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.DenseNet121``."""
        owners = {"conv0": "stem", "norm0": "stem", "denseblock1": "block1"}
        for i in (2, 3, 4):
            owners |= {f"transition{i - 1}": f"block{i}", f"denseblock{i}": f"block{i}"}
        owners["norm5"] = "block4"
        return tuple((f"features.{part}.", f"stages.{stage}.{part}.") for part, stage in owners.items())


SPECS = tuple(
    DenseNetLayout(spatial_dims=dims).spec(
        f"densenet121-{dims}d",
        build=f"densenet:densenet121_{dims}d",
        summary=f"DenseNet-121 in {dims}D",
        citations=CITATIONS,
    )
    for dims in DIMS
)

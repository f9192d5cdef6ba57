"""ResNet: a stem at half resolution, then four residual layers."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import DIMS, KeyMap, Layout, option, pyramid
from medtl_monai.specs import Stage

BLOCKS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
}
"""Kind of block and blocks per layer for each depth."""

CITATIONS = (
    "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016",
    "Hara, Kataoka, Satoh: Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet? CVPR 2018",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetLayout(Layout):
    """Shape of MONAI's ResNet; the default strides are those of ``ResNetFeatures``: 2, 4, 8, 16, 32.

    The defaults fit torchvision's 2D checkpoints. MedicalNet's fit with ``shortcut_type=A`` at depths 18 and 34.
    """

    family = "resnet"
    depth: int
    levels: int = option(5, "Stages kept, 2 to 5: the stem and the residual layers; fewer suit small images")
    features: int = option(64, "Channels of the stem; the layers have 1, 2, 4 and 8 times as many (×4 at depth 50)")
    norm: str = option("batch", "batch, instance or group, in every layer")
    shortcut_type: str = option("B", "B projects the shortcut, A subsamples it and pads channels with zeros")
    bias_downsample: bool = option(False, "Whether the projections of shortcut B have a bias")
    conv1_t_size: int = option(7, "Kernel size of the stem")
    conv1_t_stride: int = option(2, "Stride of the stem, 1 or 2")
    no_max_pool: bool = option(False, "Leave out the pooling after the stem: strides 2, 2, 4, 8, 16")

    @property
    def widths(self) -> tuple[int, ...]:
        """Base channels of the four layers."""
        return tuple(self.features * 2**i for i in range(4))

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        self.require(2 <= self.levels <= 5, "levels", "Choose 2 to 5")
        self.require(self.features >= 8 and self.features % 8 == 0, "features", "Choose a multiple of 8")
        self.require_norm()
        self.require(self.shortcut_type in ("A", "B"), "shortcut_type", "Choose A or B")
        self.require(self.conv1_t_size >= 1 and self.conv1_t_size % 2 == 1, "conv1_t_size", "Choose an odd number")
        self.require(self.conv1_t_stride in (1, 2), "conv1_t_stride", "Choose 1 or 2")

    def stages(self) -> tuple[Stage, ...]:
        """Return ``stem``, ``layer1`` … ``layer4``."""
        expansion = 4 if BLOCKS[self.depth][0] == "bottleneck" else 1
        names = ("stem", "layer1", "layer2", "layer3", "layer4")
        channels = (self.features, *(expansion * width for width in self.widths))
        strides = (self.conv1_t_stride, 1 if self.no_max_pool else 2, 2, 2, 2)
        every = pyramid(names, channels, ((s,) * self.spatial_dims for s in strides))
        return every[: self.levels]

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.ResNet``."""
        stem = (("conv1.", "stages.stem.conv1."), ("bn1.", "stages.stem.bn1."))
        layers = (("layer1.", "stages.layer1.layer1."), *((f"layer{i}.", f"stages.layer{i}.") for i in (2, 3, 4)))
        return (*stem, *layers[: self.levels - 1])


SPECS = tuple(
    ResNetLayout(depth=depth, spatial_dims=dims).spec(
        f"resnet{depth}-{dims}d",
        build=f"resnet:resnet{depth}_{dims}d",
        summary=f"ResNet-{depth} in {dims}D",
        citations=CITATIONS,
    )
    for depth in BLOCKS
    for dims in DIMS
)

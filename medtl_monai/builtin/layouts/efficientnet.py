"""EfficientNet-B0: five stages of inverted residual blocks and the last projection."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import KeyMap, Layout, option, pyramid
from medtl_monai.specs import Stage

STACKS: dict[str, tuple[int, ...]] = {
    "stage1": (0,),
    "stage2": (1,),
    "stage3": (2,),
    "stage4": (3, 4),
    "stage5": (5, 6),
}
"""Which stacks of MONAI's ``_blocks`` each stage holds: the five maps of ``EfficientNetBNFeatures``."""

CITATIONS = ("Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetLayout(Layout):
    """Shape of MONAI's EfficientNet-B0 at strides 2, 4, 8, 16, 32, and the projection to 1280 channels at 32.

    MONAI pads for a fixed image size of 224: other sizes get the same padding only where they are multiples of 32.
    """

    family = "efficientnet-b0"
    norm: str = option("batch", "batch, instance or group")

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        self.require_norm()

    def stages(self) -> tuple[Stage, ...]:
        """Return ``stage1`` … ``stage5`` and ``projection``."""
        names = (*STACKS, "projection")
        strides = (2, 2, 2, 2, 2, 1)
        return pyramid(names, (16, 24, 40, 112, 320, 1280), ((s,) * self.spatial_dims for s in strides))

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.EfficientNetBN``."""
        stem = tuple((f"{part}.", f"stages.stage1.{part}.") for part in ("_conv_stem", "_bn0"))
        blocks = tuple((f"_blocks.{i}.", f"stages.{name}.blocks{i}.") for name, own in STACKS.items() for i in own)
        last = tuple((f"{part}.", f"stages.projection.{part}.") for part in ("_conv_head", "_bn1"))
        return (*stem, *blocks, *last)


SPECS = (
    EfficientNetLayout(spatial_dims=2).spec(
        "efficientnet-b0-2d",
        build="efficientnet:efficientnet_b0_2d",
        summary="EfficientNet-B0 in 2D",
        citations=CITATIONS,
    ),
)

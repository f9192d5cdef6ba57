"""The Swin transformer that is the encoder of SwinUNETR."""

from __future__ import annotations

import dataclasses

from medtl_monai.builtin.layouts.base import DIMS, KeyMap, Layout, option, pyramid
from medtl_monai.specs import Stage

DEPTHS = (2, 2, 2, 2)
HEADS = (3, 6, 12, 24)
CITATIONS = (
    "Hatamizadeh et al.: Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images. "
    "BrainLes, MICCAI 2021",
    "Tang et al.: Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis. CVPR 2022",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinUNETRLayout(Layout):
    """Shape of SwinUNETR's encoder at strides 2, 4, 8, 16, 32."""

    family = "swinunetr"
    feature_size: int = option(24, "Channels of the embedding, a multiple of 12; published weights have 48")
    window_size: int = option(7, "Voxels along each side of an attention window")
    use_v2: bool = option(False, "A residual convolution before each layer (SwinUNETR-V2)")
    drop_path: float = option(0.0, "Largest rate of stochastic depth")

    def check(self) -> None:
        """Raise ConfigError where the options make no network."""
        ok = self.feature_size >= 12 and self.feature_size % 12 == 0
        self.require(ok, "feature_size", "Choose a multiple of 12")
        self.require(self.window_size >= 2, "window_size", "Choose 2 or more")
        self.require(0 <= self.drop_path < 1, "drop_path", "Choose at least 0 and less than 1")

    def needs_several_voxels(self) -> bool:
        """Whether the deepest stage needs more than one voxel: never, attention and layer norm do not.

        The last instance-normed convolution of V2 works one stride above it, on at least two voxels per axis.
        """
        return False

    def stages(self) -> tuple[Stage, ...]:
        """Return ``embed``, ``layer1`` … ``layer4``."""
        names = ("embed", *(f"layer{i}" for i in range(1, 5)))
        channels = (self.feature_size * 2**i for i in range(5))
        return pyramid(names, channels, ((2,) * self.spatial_dims for _ in names))

    def key_map(self) -> KeyMap:
        """Return the map from ``monai.networks.nets.SwinUNETR``."""
        return self.transformer_key_map("swinViT.")

    def dialects(self) -> dict[str, KeyMap]:
        """Return MONAI's names, and those of the self-supervised checkpoints."""
        return {"monai": self.key_map(), "self-supervised": self.ssl_key_map()}

    def transformer_key_map(self, root: str) -> KeyMap:
        """Return the map from a ``SwinTransformer`` whose keys start with ``root``."""
        pairs = [(f"{root}patch_embed.", "stages.embed.patch_embed.")]
        for i in range(1, 5):
            pairs.append((f"{root}layers{i}.0.", f"stages.layer{i}.layer."))
            if self.use_v2:
                pairs.append((f"{root}layers{i}c.0.", f"stages.layer{i}.conv."))
        return tuple(pairs)

    def ssl_key_map(self, root: str = "module.") -> KeyMap:
        """Return the map from the self-supervised checkpoints of Tang et al., whose MLPs have other names."""
        mlp = tuple(
            (f"{root}layers{i}.0.blocks.{b}.mlp.fc{n}.", f"stages.layer{i}.layer.blocks.{b}.mlp.linear{n}.")
            for i, depth in enumerate(DEPTHS, start=1)
            for b in range(depth)
            for n in (1, 2)
        )
        return mlp + self.transformer_key_map(root)


SPECS = tuple(
    SwinUNETRLayout(spatial_dims=dims).spec(
        f"swinunetr-{dims}d",
        build=f"swinunetr:swinunetr_{dims}d",
        summary=f"Swin transformer encoder of SwinUNETR in {dims}D",
        citations=CITATIONS,
    )
    for dims in DIMS
)

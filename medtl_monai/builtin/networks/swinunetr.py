"""The encoder of SwinUNETR as stages: ``embed``, ``layer1`` … ``layer4``.

States run on un-normalised, taps are layer-normalised, as MONAI's ``SwinTransformer(normalize=True)`` gives them.
Keys: ``swinViT.patch_embed`` is in ``embed``, ``swinViT.layersN.0`` is ``layer`` of stage ``layerN`` and, in V2,
``swinViT.layersNc.0`` is its ``conv``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import einops  # noqa: F401 - MONAI misses it at the first forward pass only
import torch.nn.functional as F  # noqa: N812
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from medtl_monai.builtin.layouts.swinunetr import DEPTHS, HEADS, SwinUNETRLayout
from medtl_monai.builtin.networks.base import LayoutBackbone, chain


class SwinLayer(nn.Module):
    """One layer of the transformer, with the convolution that V2 puts before it.

    Args:
        layer: MONAI's ``BasicLayer``, patch merging included.
        conv: The convolution block of V2, or None.
    """

    def __init__(self, layer: nn.Module, conv: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, 2C, *spatial / 2]``."""
        x = x.contiguous()
        if self.conv is not None:
            x = self.conv(x).contiguous()
        result: Tensor = self.layer(x)
        return result


class SwinBackbone(LayoutBackbone):
    """Swin transformer whose taps are normalised over channels; the normalisation has no parameters."""

    def tap(self, name: str, state: Tensor) -> Tensor:
        """Return the state ``[B, channels, *spatial]``, layer-normalised over channels at each voxel."""
        return F.layer_norm(state.movedim(1, -1), (state.shape[1],)).movedim(-1, 1)


def build(in_channels: int, *, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build the encoder of a SwinUNETR.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        **options: Options of :class:`SwinUNETRLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = SwinUNETRLayout.make(options, spatial_dims=spatial_dims)
    net = SwinTransformer(
        in_chans=in_channels,
        embed_dim=layout.feature_size,
        window_size=(layout.window_size,) * spatial_dims,
        patch_size=(2,) * spatial_dims,
        depths=DEPTHS,
        num_heads=HEADS,
        drop_path_rate=layout.drop_path,
        spatial_dims=spatial_dims,
        use_v2=layout.use_v2,
    )
    stages: dict[str, nn.Module] = {"embed": chain({"patch_embed": net.patch_embed})}
    for i in range(1, 5):
        conv = getattr(net, f"layers{i}c")[0] if layout.use_v2 else None
        stages[f"layer{i}"] = SwinLayer(getattr(net, f"layers{i}")[0], conv)
    return SwinBackbone(layout, stages)


swinunetr_2d = partial(build, spatial_dims=2)
swinunetr_3d = partial(build, spatial_dims=3)

"""The contraction path of MONAI's UNet as stages: ``level0``, ``level1`` … down to the bottom.

MONAI nests each level in the one above; here they stand side by side. Keys: ``model.0`` is ``level0``,
``model.1.submodule.0`` is ``level1``, and so on.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from monai.networks.nets.unet import UNet
from torch import nn

from medtl_monai.builtin.layouts.unet import UNetLayout
from medtl_monai.builtin.networks.base import NORM_LAYERS, LayoutBackbone


def build(in_channels: int, *, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build the contraction path of a UNet.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        **options: Options of :class:`UNetLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = UNetLayout.make(options, spatial_dims=spatial_dims)
    net = UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=1,
        channels=layout.channels,
        strides=layout.strides[:-1],
        num_res_units=layout.num_res_units,
        norm=NORM_LAYERS[layout.norm],
        dropout=layout.dropout,
    )
    return LayoutBackbone(layout, {f"level{i}": module for i, module in enumerate(_levels(net))})


def _levels(net: UNet) -> list[nn.Module]:
    levels = []
    block: nn.Module = net.model
    # A level is Sequential(down, SkipConnection(next level), up); the bottom is its down part alone.
    for _ in range(len(net.channels) - 1):
        down, skip, _up = block.children()
        levels.append(down)
        block = skip.submodule  # type: ignore[assignment]
    return [*levels, block]


unet_2d = partial(build, spatial_dims=2)
unet_3d = partial(build, spatial_dims=3)

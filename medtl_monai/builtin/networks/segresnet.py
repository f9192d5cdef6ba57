"""The encoder of SegResNet as stages: ``level0`` (full resolution), ``level1`` and so on.

Keys: ``convInit`` and ``down_layers.0`` are in ``level0``; ``down_layers.N`` is the stage ``levelN``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from monai.networks.nets.segresnet import SegResNet
from torch import nn

from medtl_monai.builtin.layouts.segresnet import BLOCKS_DOWN, SegResNetLayout
from medtl_monai.builtin.networks.base import NORM_LAYERS, LayoutBackbone, chain


def build(in_channels: int, *, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build a SegResNet encoder.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        **options: Options of :class:`SegResNetLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = SegResNetLayout.make(options, spatial_dims=spatial_dims)
    net = SegResNet(
        spatial_dims=spatial_dims,
        init_filters=layout.init_filters,
        in_channels=in_channels,
        norm=NORM_LAYERS[layout.norm],
        blocks_down=BLOCKS_DOWN[: layout.levels],
        blocks_up=(1,) * (layout.levels - 1),
    )
    levels = list(net.down_layers)
    stages: dict[str, nn.Module] = {"level0": chain({"convInit": net.convInit, "down_layer": levels[0]})}
    stages |= {f"level{i}": level for i, level in enumerate(levels[1:], start=1)}
    return LayoutBackbone(layout, stages)


segresnet_2d = partial(build, spatial_dims=2)
segresnet_3d = partial(build, spatial_dims=3)

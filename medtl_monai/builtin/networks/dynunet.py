"""The encoder of DynUNet as stages: ``level0`` (full resolution), ``level1`` … down to the bottleneck.

MONAI registers every block twice, as a list and nested in ``skip_layers``; here each is registered once. Keys:
``input_block`` is ``level0``, ``downsamples.N`` is ``level(N+1)``, ``bottleneck`` is the last level.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from monai.networks.nets.dynunet import DynUNet

from medtl_monai.builtin.layouts.dynunet import DynUNetLayout
from medtl_monai.builtin.networks.base import NORM_LAYERS, LayoutBackbone


def build(in_channels: int, *, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build the encoder of a DynUNet.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        **options: Options of :class:`DynUNetLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = DynUNetLayout.make(options, spatial_dims=spatial_dims)
    net = DynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=1,
        kernel_size=layout.kernels,
        strides=layout.strides,
        upsample_kernel_size=layout.strides[1:],
        filters=layout.channels,
        dropout=layout.dropout or None,
        norm_name=NORM_LAYERS[layout.norm],
        res_block=layout.res_block,
    )
    levels = [net.input_block, *net.downsamples, net.bottleneck]
    return LayoutBackbone(layout, {f"level{i}": level for i, level in enumerate(levels)})


dynunet_2d = partial(build, spatial_dims=2)
dynunet_3d = partial(build, spatial_dims=3)

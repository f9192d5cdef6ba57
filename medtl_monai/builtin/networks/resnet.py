"""ResNet as stages: ``stem``, ``layer1`` … ``layer4``.

Keys: MONAI's ``conv1`` and ``bn1`` are in ``stem``, its ``layerN`` is the stage ``layerN``, except that the first one
follows the pooling: ``stages.layer1.layer1``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from medtl_monai.builtin.layouts.resnet import BLOCKS, ResNetLayout
from medtl_monai.builtin.networks.base import NORM_LAYERS, LayoutBackbone, chain


class ZeroPadShortcut(nn.Module):
    """Shortcut of type A: subsample, then pad the missing channels with zeros (He et al., 2016, option A).

    MONAI's own version computes the same values but cuts the gradient of the shortcut, and ties each block to the
    whole network by a bound method.

    Args:
        channels: Channels of the result.
        stride: Subsampling along each axis.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, *spatial]`` to ``[B, channels, *ceil(spatial / stride)]``."""
        step = slice(None, None, self.stride)
        x = x[(slice(None), slice(None), *(step,) * (x.ndim - 2))]
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, self.channels - x.shape[1]))


def build(in_channels: int, *, depth: int, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build a ResNet backbone.

    Args:
        in_channels: Channels of the image.
        depth: 10, 18, 34 or 50.
        spatial_dims: 2 or 3.
        **options: Options of :class:`ResNetLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = ResNetLayout.make(options, depth=depth, spatial_dims=spatial_dims)
    net = _monai_resnet(in_channels, layout)
    stem = chain({"conv1": net.conv1, "bn1": net.bn1, "act": net.act})
    first = {"layer1": net.layer1} if layout.no_max_pool else {"maxpool": net.maxpool, "layer1": net.layer1}
    every = {"stem": stem, "layer1": chain(first), "layer2": net.layer2, "layer3": net.layer3, "layer4": net.layer4}
    return LayoutBackbone(layout, {stage.name: every[stage.name] for stage in layout.stages()})


def _monai_resnet(in_channels: int, layout: ResNetLayout) -> ResNet:
    block, layers = BLOCKS[layout.depth]
    net = ResNet(
        block=block,
        layers=list(layers),
        block_inplanes=list(layout.widths),
        spatial_dims=layout.spatial_dims,
        n_input_channels=in_channels,
        conv1_t_size=layout.conv1_t_size,
        conv1_t_stride=layout.conv1_t_stride,
        no_max_pool=layout.no_max_pool,
        shortcut_type=layout.shortcut_type,
        bias_downsample=layout.bias_downsample,
        feed_forward=False,
    )
    if layout.norm != "batch":
        _replace_norms(net, NORM_LAYERS[layout.norm], layout.spatial_dims)
    if layout.shortcut_type == "A":
        _replace_shortcuts(net)
    return net


def _replace_norms(net: nn.Module, norm: tuple[str, dict[str, Any]], spatial_dims: int) -> None:
    # MONAI's own argument reaches the first norm only.
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, get_norm_layer(norm, spatial_dims=spatial_dims, channels=child.num_features))


def _replace_shortcuts(net: nn.Module) -> None:
    for module in net.modules():
        shortcut = getattr(module, "downsample", None)
        if isinstance(shortcut, partial):
            module.downsample = ZeroPadShortcut(shortcut.keywords["planes"], shortcut.keywords["stride"])


resnet10_2d = partial(build, depth=10, spatial_dims=2)
resnet10_3d = partial(build, depth=10, spatial_dims=3)
resnet18_2d = partial(build, depth=18, spatial_dims=2)
resnet18_3d = partial(build, depth=18, spatial_dims=3)
resnet34_2d = partial(build, depth=34, spatial_dims=2)
resnet34_3d = partial(build, depth=34, spatial_dims=3)
resnet50_2d = partial(build, depth=50, spatial_dims=2)
resnet50_3d = partial(build, depth=50, spatial_dims=3)

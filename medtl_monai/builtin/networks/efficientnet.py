"""EfficientNet-B0 as stages: the five maps of MONAI's features, and the last projection.

Keys: ``_conv_stem`` and ``_bn0`` are in ``stage1``; ``_blocks.N`` is ``blocksN`` of its stage; ``_conv_head`` and
``_bn1`` are the stage ``projection``, which ``EfficientNetBNFeatures`` leaves out and a checkpoint would lose.

Two defaults differ from MONAI's, because with them an untrained network is dead in evaluation (features of 1e-15) until
thousands of steps have moved its running statistics: depthwise convolutions are initialised by their own fan-out, as
in the reference implementation, and the statistics have PyTorch's momentum of 0.1 instead of 0.01.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from monai.networks.layers.factories import Act
from monai.networks.nets.efficientnet import EfficientNetBN
from torch import nn

from medtl_monai.builtin.layouts.efficientnet import STACKS, EfficientNetLayout
from medtl_monai.builtin.networks.base import NORM_LAYERS, LayoutBackbone, chain

# The published network's epsilon.
_NORMS = NORM_LAYERS | {"batch": ("batch", {"eps": 1e-3})}


def build(in_channels: int, *, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build an EfficientNet-B0 backbone.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        **options: Options of :class:`EfficientNetLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = EfficientNetLayout.make(options, spatial_dims=spatial_dims)
    net = EfficientNetBN(
        "efficientnet-b0",
        pretrained=False,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        norm=_NORMS[layout.norm],
    )
    _scale_depthwise(net)
    stacks = dict(net._blocks.named_children())
    stages: dict[str, nn.Module] = {}
    for name, own in STACKS.items():
        blocks = {f"blocks{i}": stacks[str(i)] for i in own}
        stages[name] = chain(_stem(net) | blocks if name == "stage1" else blocks)
    stages["projection"] = chain(
        {"padding": net._conv_head_padding, "_conv_head": net._conv_head, "_bn1": net._bn1, "swish": Act["memswish"]()}
    )
    return LayoutBackbone(layout, stages)


def _scale_depthwise(net: nn.Module) -> None:
    # Each output channel of a depthwise convolution is fed by kernel-size weights, not kernel-size × channels.
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.groups > 1:
            with torch.no_grad():
                module.weight.mul_(module.groups**0.5)


def _stem(net: EfficientNetBN) -> dict[str, nn.Module]:
    return {
        "padding": net._conv_stem_padding,
        "_conv_stem": net._conv_stem,
        "_bn0": net._bn0,
        "swish": Act["memswish"](),
    }


efficientnet_b0_2d = partial(build, spatial_dims=2)

"""DenseNet-121 as stages: ``stem``, ``block1`` … ``block4``; each transition opens the block after it.

Keys: every child of MONAI's ``features`` keeps its name inside its stage.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from monai.networks.nets.densenet import DenseNet
from torch import Tensor

from medtl_monai.builtin.layouts.densenet import BLOCK_CONFIG, DenseNetLayout
from medtl_monai.builtin.networks.base import NORM_LAYERS, LayoutBackbone, chain

_CHILDREN: dict[str, tuple[str, ...]] = {
    "stem": ("conv0", "norm0", "relu0"),
    "block1": ("pool0", "denseblock1"),
    "block2": ("transition1", "denseblock2"),
    "block3": ("transition2", "denseblock3"),
    "block4": ("transition3", "denseblock4", "norm5"),
}


class DenseNetBackbone(LayoutBackbone):
    """DenseNet whose last tap is rectified, as what MONAI's classifier pools is; its state is not."""

    def tap(self, name: str, state: Tensor) -> Tensor:
        """Return the state, rectified after the last stage, ``[B, channels, *spatial]``."""
        return F.relu(state) if name == "block4" else state


def build(in_channels: int, *, spatial_dims: Literal[2, 3], **options: Any) -> LayoutBackbone:
    """Build a DenseNet-121 backbone.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        **options: Options of :class:`DenseNetLayout`.

    Raises:
        ConfigError: If an option is unknown or makes no network.
    """
    layout = DenseNetLayout.make(options, spatial_dims=spatial_dims)
    net = DenseNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=1,
        init_features=layout.features,
        growth_rate=layout.growth_rate,
        block_config=BLOCK_CONFIG,
        norm=NORM_LAYERS[layout.norm],
        dropout_prob=layout.dropout,
    )
    children = dict(net.features.named_children())
    stages = {name: chain({child: children[child] for child in own}) for name, own in _CHILDREN.items()}
    return DenseNetBackbone(layout, stages)


densenet121_2d = partial(build, spatial_dims=2)
densenet121_3d = partial(build, spatial_dims=3)

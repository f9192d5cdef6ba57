"""What the built-in networks share: a backbone made from a layout and the modules of a MONAI network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from medtl_monai.builtin.layouts.base import NORM_GROUPS, KeyMap, Layout
from medtl_monai.modules import Backbone

NORM_LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("batch", {}),
    "instance": ("instance", {"affine": True}),
    "instance-plain": ("instance", {"affine": False}),
    "group": ("group", {"num_groups": NORM_GROUPS}),
}
"""MONAI's normalisation arguments for each name a user may give."""


class LayoutBackbone(Backbone):
    """A backbone whose stages, channels and strides are those of a layout.

    The stages hold the very modules that MONAI built, so layers and initialisation are MONAI's own; what the network
    has beside them (decoder, classifier) is left behind.

    Args:
        layout: The shape; it stays available as ``layout``.
        stages: The stages by name, in order.
    """

    def __init__(self, layout: Layout, stages: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layout = layout
        self.stages = nn.ModuleDict(stages)
        self.stage_specs = layout.stages()
        self.input_spec = layout.input()
        self.dialects = layout.dialects()

    @property
    def monai_key_map(self) -> KeyMap:
        """Pairs (prefix in a checkpoint of the MONAI network, prefix in this backbone's ``state_dict``)."""
        return self.layout.key_map()


def chain(modules: Mapping[str, nn.Module]) -> nn.Sequential:
    """Return the modules in order, under their own names."""
    return nn.Sequential(OrderedDict(modules))

"""The built-in backbones: MONAI's networks as ordered stages, untrained."""

from __future__ import annotations

from medtl_monai.builtin.layouts import densenet, dynunet, efficientnet, resnet, segresnet, swinunetr, unet
from medtl_monai.specs import BackboneSpec

SPECS: tuple[BackboneSpec, ...] = (
    *resnet.SPECS,
    *densenet.SPECS,
    *efficientnet.SPECS,
    *segresnet.SPECS,
    *unet.SPECS,
    *dynunet.SPECS,
    *swinunetr.SPECS,
)
"""Specs of all built-in backbones. Weights come with plugins and runs."""

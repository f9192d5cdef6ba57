"""Everything a plugin author imports, and nothing heavy.

A plugin is a distribution with an entry point in the group ``medtl_monai`` that names a *tiny* module; that module
implements one or more of the three hooks and yields specs::

    # pyproject.toml
    [project.entry-points.medtl_monai]
    swin = "medtl_swin.medtl_plugin"

    # medtl_swin/medtl_plugin.py
    from medtl_monai.plugin import BackboneSpec, InputSpec, Stage, hookimpl

    @hookimpl
    def medtl_backbones():
        yield BackboneSpec(name="swin-ct-ssl", build="medtl_swin.model:build", ...)

The heavy part lives in another module and is named by a reference string; there, ``Backbone`` and ``Head`` may be
imported from here too: the names that need torch are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from medtl_monai.adapters import AdapterSpec
from medtl_monai.errors import MedtlError, PluginError, PolicyError
from medtl_monai.hookspecs import hookimpl
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import (
    CONTRACT,
    FROZEN,
    At,
    BackboneSpec,
    HeadContext,
    HeadSpec,
    InputSpec,
    Intensity,
    Parameter,
    PolicySpec,
    Rule,
    Stage,
    StageInfo,
    TargetInfo,
    WeightsSpec,
)

if TYPE_CHECKING:
    from medtl_monai.modules import Adapter, Backbone, Batch, Head, Metric, Prediction

_TORCH_SIDE = frozenset({"Adapter", "Backbone", "Batch", "Head", "Metric", "Prediction"})

__all__ = [
    "CONTRACT",
    "FROZEN",
    "Adapter",
    "AdapterSpec",
    "At",
    "Backbone",
    "BackboneSpec",
    "Batch",
    "FreezePolicy",
    "Head",
    "HeadContext",
    "HeadSpec",
    "InputSpec",
    "Intensity",
    "MedtlError",
    "Metric",
    "Parameter",
    "PluginError",
    "PolicyError",
    "PolicySpec",
    "Prediction",
    "Rule",
    "Stage",
    "StageInfo",
    "TargetInfo",
    "WeightsSpec",
    "hookimpl",
]


def __getattr__(name: str) -> object:
    # Resolved late so that naming a spec never costs an import of torch.
    if name in _TORCH_SIDE:
        return getattr(importlib.import_module("medtl_monai.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

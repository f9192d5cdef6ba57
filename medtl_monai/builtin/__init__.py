"""The plugin that comes with the host: it offers its parts through the very same hooks as any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from medtl_monai.hookspecs import hookimpl
from medtl_monai.specs import BackboneSpec, HeadSpec, PolicySpec


@hookimpl
def medtl_backbones() -> Iterable[BackboneSpec]:
    """Offer the built-in backbones."""
    from medtl_monai.builtin import backbones

    yield from backbones.SPECS


@hookimpl
def medtl_heads() -> Iterable[HeadSpec]:
    """Offer the built-in heads."""
    from medtl_monai.builtin import heads

    yield from heads.SPECS


@hookimpl
def medtl_freeze_policies() -> Iterable[PolicySpec]:
    """Offer the built-in freeze policies."""
    from medtl_monai.builtin import policies

    yield from policies.SPECS

"""The three hooks. Each returns an iterable of specs; none takes an argument."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from medtl_monai.specs import BackboneSpec, HeadSpec, PolicySpec

PROJECT = "medtl_monai"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def medtl_backbones() -> Iterable[BackboneSpec]:  # type: ignore[empty-body]
    """Offer backbones.

    Example::

        @hookimpl
        def medtl_backbones():
            yield BackboneSpec(
                name="swin-ct-ssl",
                summary="SwinViT, self-supervised on CT",
                build="medtl_swin.model:build",
                stages=(Stage(name="embed", channels=48, stride=(2, 2, 2)), ...),
                input=InputSpec(spatial_dims=3, modality=("CT",)),
                license="Apache-2.0",
            )
    """


@hookspec
def medtl_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """Offer task heads.

    Example::

        @hookimpl
        def medtl_heads():
            yield HeadSpec(
                name="cox",
                summary="Cox proportional hazards",
                build="medtl_survival.head:build",
                task="survival",
                target="number",
                license="MIT",
            )
    """


@hookspec
def medtl_freeze_policies() -> Iterable[PolicySpec]:  # type: ignore[empty-body]
    """Offer freeze policies.

    Example::

        @hookimpl
        def medtl_freeze_policies():
            yield PolicySpec(
                name="thaw-slowly",
                summary="One more stage every k epochs",
                build="my_policies:build_thaw",
                parameters=(Parameter(name="k", default=3),),
                license="MIT",
            )
    """

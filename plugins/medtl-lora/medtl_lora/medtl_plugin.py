"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Iterable

from medtl_monai.plugin import Parameter, PolicySpec, hookimpl

CONTRACT = 1


@hookimpl
def medtl_freeze_policies() -> Iterable[PolicySpec]:
    """Offer ``lora``."""
    yield PolicySpec(
        name="lora",
        summary="Low-rank additions to linear and convolution layers train, and the head; pretrained weights stay",
        build="medtl_lora.policy:lora",
        license="Apache-2.0",
        parameters=(
            Parameter(name="rank", default=8, help="Rank of the additions."),
            Parameter(name="alpha", default=16.0, help="Additions are scaled by alpha / rank."),
            Parameter(name="dropout", default=0.0, help="Dropout in front of the additions."),
            Parameter(name="stages", default=(), help="Stages that get them. Default: all that received weights."),
            Parameter(
                name="targets",
                default=(),
                help="Layers that get them, by the end of their names: qkv+proj. Default: all.",
            ),
            Parameter(name="lr", default=1.0, help="Learning-rate factor of the additions."),
        ),
        citations=("Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models. arXiv:2106.09685",),
    )

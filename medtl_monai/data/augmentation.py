"""Random changes in training: one affine resampling, flips, contrast, brightness, noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medtl_monai.config import AugmentationConfig
from medtl_monai.specs import TargetKind


def augmentation(
    config: AugmentationConfig,
    kind: TargetKind,
    spatial_dims: int,
    *,
    spacing_mm: Sequence[float] | None = None,
) -> Any:
    """MONAI ``Compose`` on ``{"image": [C, *S], "mask": [1, *S]}`` (mask optional), or None when switched off."""
    raise NotImplementedError

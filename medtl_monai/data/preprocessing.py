"""Preprocessing generated from a backbone's input spec, the configuration and the training images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from medtl_monai.config import PreprocessingConfig
from medtl_monai.data.channel_plans import plan_channels
from medtl_monai.data.grid import Grid
from medtl_monai.data.image_info import ImageInfo, image_info
from medtl_monai.data.intensity import resolve_intensity, statistics_for
from medtl_monai.data.pipeline import SPACING_TOLERANCE, Fit, Preprocessing, check_dims, plain_grid, respaced, round_up
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.specs import InputSpec, Intensity, TargetKind

__all__ = ["ImageInfo", "Preprocessing", "image_info", "plan_preprocessing"]

WHOLE_IMAGE = {2: 1024**2, 3: 128**3}
"""Largest image, in pixels or voxels, that segmentation trains on as a whole."""

PATCH = {2: 512**2, 3: 96**3}
"""Largest training patch, in pixels or voxels."""

_LARGE = {2: 1024**2, 3: 192**3}
_LONGEST_2D = 512
_UNEVEN = 1.5


def plan_preprocessing(
    spec: InputSpec,
    config: PreprocessingConfig,
    kind: TargetKind,
    images: Sequence[ImageInfo],
    learnt: Mapping[str, Intensity] | None = None,
) -> Preprocessing:
    """Resolve everything that preprocessing needs.

    Three-dimensional images always come to one orientation (RAS where neither spec nor config names one), so that the
    network and augmentation see one anatomy. Where no spacing is asked for, it is the median of the training images.

    Args:
        spec: What the backbone wants to see.
        config: The user's changes.
        kind: What the targets are.
        images: The training images.
        learnt: How the weights have learnt to see channels, by name: instead of the spec's intensity.

    Raises:
        ConfigError: If a value of the configuration does not fit the backbone.
        DataError: If there is no image, or their dimensions or channels do not fit the backbone or one another.
    """
    if not images:
        raise DataError("there is no training image", mend="Check labels and splits")
    for image in images:
        check_dims(image.shape, spec.spatial_dims, "training images")
    channels, repeat = _channels(spec, images)
    channel_plans, notes = plan_channels(spec, config, images, learnt or {}, channels)
    # With named channels this is only what they have in common.
    intensity = (
        resolve_intensity(spec.intensity, config) if channel_plans else _intensity(spec, config, channels, images)
    )
    plan = Preprocessing(
        spatial_dims=spec.spatial_dims,
        kind=kind,
        channels=channels,
        repeat_channels=repeat,
        modality=tuple(sorted({image.modality for image in images} - {""})),
        orientation=_orientation(spec, config),
        divisible_by=tuple(spec.divisible_by) or (1,) * spec.spatial_dims,
        intensity=intensity,
        channel_plans=channel_plans,
        on_gap=config.on_gap,
        notes=(*_foreign_modality(spec, images), *notes),
    )
    plan = _with_spacing(plan, spec, config, images)
    shapes = _shapes(plan, images)
    return _for_masks(plan, spec, config, shapes) if kind == "mask" else _for_vectors(plan, spec, config, shapes)


def _noted(plan: Preprocessing, *notes: str, **changes: object) -> Preprocessing:
    return dataclasses.replace(plan, notes=(*plan.notes, *notes), **changes)  # type: ignore[arg-type]


def _channels(spec: InputSpec, images: Sequence[ImageInfo]) -> tuple[int, bool]:
    found = {image.channels for image in images}
    if len(found) > 1:
        what = f"the training images have {' and '.join(map(str, sorted(found)))} channels"
        raise DataError(what, mend="Keep grey and colour images apart")
    have, wanted = found.pop(), len(spec.channels)
    if spec.variable_channels or have == wanted:
        return have, False
    if have == 1:
        return wanted, True
    what = f"the images have {have} channels, and the backbone takes {wanted}"
    raise DataError(what, mend="Choose a backbone with variable channels: 'medtl backbones'")


def _foreign_modality(spec: InputSpec, images: Sequence[ImageInfo]) -> tuple[str, ...]:
    foreign = sorted({modality for image in images for modality in image.modalities} - {"", *spec.modality})
    if not spec.modality or not foreign:
        return ()
    return (f"the backbone was made for {' and '.join(spec.modality)}; the images are {' and '.join(foreign)}",)


def _intensity(spec: InputSpec, config: PreprocessingConfig, channels: int, images: Sequence[ImageInfo]) -> Intensity:
    intensity = resolve_intensity(spec.intensity, config)
    units = {image.unit for image in images}
    if intensity.unit == "any" and config.unit is None and len(units) == 1:
        # What the model learns on is what it is for: values in another unit are refused later.
        intensity = dataclasses.replace(intensity, unit=units.pop())
    return statistics_for(intensity, channels)


def _orientation(spec: InputSpec, config: PreprocessingConfig) -> str | None:
    codes = config.orientation
    if spec.spatial_dims == 2:
        if codes is not None:
            mend = "Leave it out: 2D images stay as they are"
            raise ConfigError("orientation is for volumes", where="preprocessing.orientation", mend=mend)
        return None
    if codes is None:
        return spec.orientation or "RAS"
    if len(codes) != 3 or not all(sum(c in pair for c in codes) == 1 for pair in ("LR", "PA", "IS")):
        mend = "For example RAS"
        raise ConfigError(f"{codes!r} is not three axis codes", where="preprocessing.orientation", mend=mend)
    return codes


def _with_spacing(
    plan: Preprocessing, spec: InputSpec, config: PreprocessingConfig, images: Sequence[ImageInfo]
) -> Preprocessing:
    if config.spacing_mm is not None:
        return _noted(plan, spacing_mm=_per_axis(config.spacing_mm, spec, "spacing_mm"))
    if spec.spacing_mm is not None:
        return _noted(plan, spacing_mm=tuple(spec.spacing_mm))
    dims = plan.spatial_dims
    if dims == 2 and (plan.kind != "mask" or not all(image.spacing_known for image in images)):
        # Photographs and radiographs of one kind are alike in pixels, not in millimetres.
        return plan
    steps = np.array([plain_grid(image.grid, dims, plan.orientation).spacing_mm[:dims] for image in images])
    median = tuple(float(s) for s in np.median(steps, axis=0))
    if (np.abs(steps / median - 1) <= SPACING_TOLERANCE).all():
        return _noted(plan, spacing_mm=median)
    note = f"images are resampled to {_by(median)} mm, the median of the training images"
    return _noted(plan, note, spacing_mm=median)


def _shapes(plan: Preprocessing, images: Sequence[ImageInfo]) -> np.ndarray:
    def shape(grid: Grid) -> tuple[int, ...]:
        return respaced(plain_grid(grid, plan.spatial_dims, plan.orientation), plan.spacing_mm).shape

    return np.array([shape(image.grid)[: plan.spatial_dims] for image in images])


def _for_vectors(
    plan: Preprocessing, spec: InputSpec, config: PreprocessingConfig, shapes: np.ndarray
) -> Preprocessing:
    """Choose the one size of all images (classification, regression)."""
    if isinstance(config.patch_size, list):
        mend = "Set preprocessing.size instead"
        raise ConfigError("patches are for segmentation", where="preprocessing.patch_size", mend=mend)
    size = _asked_size(spec, config)
    by_pixels = plan.spatial_dims == 2 and plan.spacing_mm is None
    fit: Fit = ("resize" if size else "shrink") if by_pixels else "crop"
    size = size or _typical_size(plan, spec, shapes)
    plan = _noted(plan, size=size, fit=fit)
    return _note_size(plan, shapes)


def _typical_size(plan: Preprocessing, spec: InputSpec, shapes: np.ndarray) -> tuple[int, ...]:
    largest, median = shapes.max(axis=0), np.median(shapes, axis=0)
    # One giant among the images must not set the size of all.
    size = np.where(largest <= _UNEVEN * median, largest, np.ceil(np.percentile(shapes, 90, axis=0)))
    if plan.spatial_dims == 2 and plan.spacing_mm is None:
        size = np.minimum(size, _LONGEST_2D)
    return round_up([int(s) for s in size], plan.divisible_by, spec.min_size)


def _note_size(plan: Preprocessing, shapes: np.ndarray) -> Preprocessing:
    size = plan.size or ()
    larger = int((shapes > np.array(size)).any(axis=1).sum())
    if larger:
        done = "cropped about their centre" if plan.fit == "crop" else "made smaller"
        plan = _noted(plan, f"{larger} of {len(shapes)} training images are larger than {_by(size)} and are {done}")
    if math.prod(size) > _LARGE[plan.spatial_dims]:
        plan = _noted(plan, f"images of {_by(size)} are large: preprocessing.spacing_mm or size makes training faster")
    return plan


def _for_masks(plan: Preprocessing, spec: InputSpec, config: PreprocessingConfig, shapes: np.ndarray) -> Preprocessing:
    """Choose the patches of segmentation; images keep their size but for padding."""
    if config.size is not None:
        size = _asked_size(spec, config)
        return _note_size(_noted(plan, size=size, patch_size=size), shapes)
    if spec.size is not None:
        return _noted(plan, patch_size=tuple(spec.size), min_size=tuple(spec.size))
    least = round_up((1,) * plan.spatial_dims, plan.divisible_by, spec.min_size)
    if config.patch_size == "none":
        return _noted(plan, min_size=least)
    if isinstance(config.patch_size, list):
        patch = _checked_size(config.patch_size, spec, "patch_size")
    else:
        patch = _auto_patch(plan, least, shapes)
    note = "" if (shapes <= np.array(patch)).all() else f"training on patches of {_by(patch)}"
    return _noted(plan, *([note] if note else []), patch_size=patch, min_size=patch)


def _auto_patch(plan: Preprocessing, least: tuple[int, ...], shapes: np.ndarray) -> tuple[int, ...]:
    whole = round_up([int(n) for n in shapes.max(axis=0)], plan.divisible_by, least)
    if math.prod(whole) <= WHOLE_IMAGE[plan.spatial_dims]:
        return whole
    patch = list(round_up([int(n) for n in np.median(shapes, axis=0)], plan.divisible_by, least))
    while math.prod(patch) > PATCH[plan.spatial_dims]:
        # The longest side that may still shrink gives way: patches become as cubic as the image allows.
        free = [axis for axis, step in enumerate(plan.divisible_by) if patch[axis] - step >= least[axis]]
        if not free:
            break
        axis = max(free, key=lambda a: patch[a])
        patch[axis] -= plan.divisible_by[axis]
    return tuple(patch)


def _asked_size(spec: InputSpec, config: PreprocessingConfig) -> tuple[int, ...] | None:
    if config.size is None:
        return tuple(spec.size) if spec.size is not None else None
    size = _checked_size(config.size, spec, "size")
    if spec.size is not None and size != tuple(spec.size):
        what = f"the backbone takes images of {_by(spec.size)} only"
        raise ConfigError(what, where="preprocessing.size", mend="Leave it out, or choose another backbone")
    return size


def _checked_size(values: Sequence[int], spec: InputSpec, key: str) -> tuple[int, ...]:
    size = tuple(int(n) for n in _per_axis(values, spec, key))
    fitting = round_up(size, spec.divisible_by, spec.min_size)
    if fitting != size:
        what = f"{_by(size)} is not what the backbone takes"
        raise ConfigError(what, where=f"preprocessing.{key}", mend=f"Use {list(fitting)}, for example")
    return size


def _per_axis(values: Sequence[float], spec: InputSpec, key: str) -> tuple[float, ...]:
    if len(values) != spec.spatial_dims or min(values) <= 0:
        what = f"{list(values)} is not {spec.spatial_dims} positive numbers"
        raise ConfigError(what, where=f"preprocessing.{key}", mend="Give one for each axis of the image")
    return tuple(values)


def _by(values: Sequence[float]) -> str:
    return "×".join(f"{v:.4g}" for v in values)

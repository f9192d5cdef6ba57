"""Random changes in training: one affine resampling, flips, contrast, brightness, noise."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    EnsureTyped,
    MapTransform,
    RandFlipd,
    RandGaussianNoised,
    RandomizableTransform,
    RandScaleIntensityFixedMeand,
    RandStdShiftIntensityd,
)
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from medtl_monai.config import AugmentationConfig
from medtl_monai.errors import ConfigError
from medtl_monai.specs import TargetKind

POSE_PROBABILITY = 0.8
"""How often an image is rotated, scaled and shifted; otherwise it stays sharp as it is."""

_HALF = 0.5


def augmentation(
    config: AugmentationConfig,
    kind: TargetKind,
    spatial_dims: int,
    *,
    spacing_mm: Sequence[float] | None = None,
) -> Compose | None:
    """Return random changes of ``{"image": [C, *S], "mask": [1, *S]}``, or None where all are switched off.

    The mask is optional and follows the image with nearest neighbours. All randomness comes from
    ``set_random_state(seed)``.

    Args:
        config: Ranges; zero switches one off.
        kind: What the targets are; the changes keep the meaning of every kind.
        spatial_dims: 2 or 3.
        spacing_mm: Voxel size, so that rotations stay rotations in flat voxels; None means cubic voxels.

    Raises:
        ConfigError: If a flip axis is not an axis of the image.
    """
    if any(not 0 <= axis < spatial_dims for axis in config.flip_axes):
        what = f"{config.flip_axes} are not axes of a {spatial_dims}D image"
        raise ConfigError(what, where="augmentation.flip_axes", mend=f"Use 0 to {spatial_dims - 1}")
    if not config.enabled:
        return None
    keys = ("image", "mask") if kind == "mask" else ("image",)
    steps: list[Any] = []
    if config.rotate_deg or config.scale or config.translate:
        steps.append(RandPosed(keys, config, spatial_dims, spacing_mm))
    steps += [RandFlipd(keys, prob=_HALF, spatial_axis=axis, allow_missing_keys=True) for axis in config.flip_axes]
    if config.intensity:
        steps.append(RandScaleIntensityFixedMeand("image", factors=config.intensity, prob=_HALF))
        steps.append(RandStdShiftIntensityd("image", factors=config.intensity, prob=_HALF))
    if config.noise:
        steps.append(RandGaussianNoised("image", std=config.noise, prob=_HALF))
    if not steps:
        return None
    return Compose([*steps, EnsureTyped(keys, track_meta=False, allow_missing_keys=True)])


class RandPosed(RandomizableTransform, MapTransform):
    """Rotate, scale and shift at random about the image's centre, in one resampling.

    Rotation and scale happen in millimetres. What comes in from outside repeats the image's border, so that neither
    new edges nor foreign values arise.

    Args:
        keys: ``image`` is interpolated linearly, every other key by nearest neighbours.
        config: Ranges of rotation, scale and shift.
        spatial_dims: 2 or 3.
        spacing_mm: Voxel size; None means cubic voxels.
    """

    def __init__(
        self,
        keys: Sequence[str],
        config: AugmentationConfig,
        spatial_dims: int,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, POSE_PROBABILITY)
        self.config = config
        self.dims = spatial_dims
        self.spacing = np.array(spacing_mm if spacing_mm is not None else (1.0,) * spatial_dims, float)
        self.linear = np.eye(spatial_dims)
        self.shift = np.zeros(spatial_dims)

    def randomize(self, data: Any = None) -> None:
        """Draw angles, scale and shift."""
        super().randomize(None)
        angles = np.deg2rad(self.config.rotate_deg) * self.R.uniform(-1, 1, 1 if self.dims == 2 else 3)
        scale = 1 + self.config.scale * self.R.uniform(-1, 1)
        self.shift = self.config.translate * self.R.uniform(-1, 1, self.dims)
        self.linear = _rotation(angles) / scale

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return the data with image and mask moved alike."""
        out = dict(data)
        self.randomize()
        if not self._do_transform:
            return out
        grid = self._grid(next(out[key] for key in self.key_iterator(out)).shape)
        for key in self.key_iterator(out):
            mode = "bilinear" if key == "image" else "nearest"
            moved = grid_sample(out[key][None].float(), grid, mode=mode, padding_mode="border", align_corners=False)
            out[key] = moved[0].to(out[key].dtype)
        return out

    def _grid(self, shape: Sequence[int]) -> Tensor:
        to_mm = np.diag(self.spacing * np.array(shape[1:], float) / 2)
        # From normalised output to normalised input coordinates; torch counts axes from the last one.
        linear = np.linalg.solve(to_mm, self.linear @ to_mm)
        theta = np.concatenate([linear[::-1, ::-1], 2 * self.shift[::-1, None]], axis=1)
        return affine_grid(torch.tensor(theta[None], dtype=torch.float32), [1, *shape], align_corners=False)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a 2×2 rotation for one angle, or the product of rotations about each axis for three (radians)."""
    if len(angles) == 1:
        return _planar(angles[0])
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        plane = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[np.ix_(plane, plane)] = _planar(angle)
        out = out @ turn
    return out


def _planar(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])

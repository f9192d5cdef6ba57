"""The preprocessing of a run, resolved: the same for training, evaluation, prediction and export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtl_monai.data.grid import Grid, move, move_labels
from medtl_monai.data.intensity import check_unit, normalise
from medtl_monai.dicom.geometry import FloatArray, Volume
from medtl_monai.errors import DataError, RunError
from medtl_monai.specs import Intensity, TargetKind, to_json

SPACING_TOLERANCE = 0.01
"""Relative difference of voxel sizes up to which an image is not resampled."""

Fit = Literal["crop", "shrink", "resize"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing with nothing left open; inert, comparable, written to JSON and back without loss.

    Images are brought to one orientation and spacing, then to one size (classification, regression) or to a multiple
    of ``divisible_by`` (segmentation), in a single resampling at most. Padding has the value of the image's
    background (see :func:`medtl_monai.data.intensity.normalise`).

    Attributes:
        spatial_dims: 2 or 3; two-dimensional images are given as (rows, columns).
        kind: What the targets are.
        channels: Channels that the network sees.
        repeat_channels: Whether grey images are repeated to ``channels``.
        modality: Modalities that are accepted; empty accepts all, images of unknown modality always pass.
        orientation: Axis codes (3D), or None (2D).
        spacing_mm: Voxel size; images within one per cent of it stay as they are. None for 2D images by pixels.
        size: Fixed size, or None.
        fit: How images come to ``size``: ``crop`` and pad, or first made smaller where larger (``shrink``), or made
            smaller or larger (``resize``), both with their proportions kept.
        divisible_by: Sizes are a multiple of this, where ``size`` is None.
        min_size: Sizes are at least this, where ``size`` is None.
        patch_size: Segmentation: size of training patches and of the windows in inference; None for whole images.
        intensity: What is done to the values.
        on_gap: What reading does about missing slices.
        notes: Decisions that were made from the data.
    """

    spatial_dims: int
    kind: TargetKind
    channels: int = 1
    repeat_channels: bool = False
    modality: tuple[str, ...] = ()
    orientation: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    fit: Fit = "crop"
    divisible_by: tuple[int, ...] = ()
    min_size: tuple[int, ...] = ()
    patch_size: tuple[int, ...] | None = None
    intensity: Intensity = dataclasses.field(default_factory=Intensity)
    on_gap: Literal["error", "interpolate", "split"] = "error"
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value: dict[str, Any] = to_json(self)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` gave.

        Raises:
            RunError: If it has entries that this version does not know.
        """
        try:
            fields = {key: _tuples(item) for key, item in value.items() if key != "intensity"}
            intensity = {key: _tuples(item) for key, item in value.get("intensity", {}).items()}
            return cls(**fields, intensity=Intensity(**intensity))
        except TypeError as error:
            mend = "Use the version of medtl-monai that made the run"
            raise RunError("the stored preprocessing is not understood", where="preprocessing", mend=mend) from error

    def image(self, volume: Volume, *, where: str = "") -> Tensor:
        """Return the image as the network sees it: float32 ``[C, *S]``.

        Args:
            volume: The image as read.
            where: How errors name it, such as ``"case 0123…"``.

        Raises:
            DataError: If dimensions, channels, modality or unit do not fit, or the image is constant.
        """
        return self.image_and_background(volume, where=where)[0]

    def image_and_background(self, volume: Volume, *, where: str = "") -> tuple[Tensor, tuple[float, ...]]:
        """Return the image, and the value per channel that padding has."""
        self.check(volume, where=where)
        array = volume.array if volume.array.ndim == 4 else volume.array[None]
        values, background = normalise(array, self.intensity, where)
        moved = move(values, Grid.of(volume), self.grid(volume), background)
        image = torch.from_numpy(moved if self.spatial_dims == 3 else moved[..., 0])
        if self.repeat_channels:
            return image.repeat(self.channels, *(1 for _ in image.shape[1:])), background * self.channels
        return image, background

    def pair(self, volume: Volume, mask: NDArray[np.int16], *, where: str = "") -> tuple[Tensor, Tensor]:
        """Return the image float32 ``[C, *S]`` and its mask int16 ``[*S]`` on the same grid.

        Args:
            volume: The image as read.
            mask: Label indices ``[i, j, k]`` on the volume's grid.
            where: How errors name the image.

        Raises:
            DataError: As :meth:`image` does.
        """
        return self.image(volume, where=where), self.mask(volume, mask)

    def mask(self, volume: Volume, mask: NDArray[np.int16]) -> Tensor:
        """Return a mask ``[i, j, k]`` of the volume as int16 ``[*S]``; background where there was no image."""
        moved = move_labels(mask, Grid.of(volume), self.grid(volume))
        return torch.from_numpy(moved if self.spatial_dims == 3 else moved[..., 0])

    def restore(self, probabilities: Tensor | FloatArray, volume: Volume) -> FloatArray:
        """Bring per-voxel probabilities back onto the volume's own grid.

        Exact where preprocessing did not resample, linear interpolation elsewhere. Voxels that were cropped away are
        background with probability 1.

        Args:
            probabilities: ``[K, *S]``, background first, on the grid of :meth:`image`.
            volume: The image they are of.

        Returns:
            float32 ``[K, i, j, k]``.
        """
        array = np.asarray(probabilities, np.float32)
        array = array if self.spatial_dims == 3 else array[..., None]
        source = self.grid(volume)
        if array.shape[1:] != source.shape:
            raise ValueError(f"probabilities have size {array.shape[1:]}, the preprocessed image {source.shape}")
        outside = [1.0, *(0.0 for _ in array[1:])] if len(array) > 1 else [0.0]
        return move(array, source, Grid.of(volume), outside)

    def check(self, volume: Volume, *, where: str = "") -> None:
        """Refuse an image that does not fit the run.

        Raises:
            DataError: If dimensions, channels, modality, spacing or unit do not fit.
        """
        check_dims(volume.shape, self.spatial_dims, where)
        wanted = 1 if self.repeat_channels else self.channels
        if volume.channels != wanted:
            what = f"the image has {volume.channels} channels, and {wanted} are needed"
            raise DataError(what, where=where, mend="Use images like those of the training")
        if self.modality and volume.modality and volume.modality not in self.modality:
            what = f"the modality is {volume.modality}, and {' or '.join(self.modality)} is needed"
            raise DataError(what, where=where, mend="Use studies of the modality that the model was made for")
        if self.spacing_mm is not None and not volume.spacing_known:
            mend = "Set preprocessing.spacing_mm to null in a run for such images, or leave out the case"
            raise DataError("the image does not tell its pixel spacing, which is needed", where=where, mend=mend)
        check_unit(volume, self.intensity.unit, where)

    def grid(self, volume: Volume) -> Grid:
        """Return the grid of the preprocessed image."""
        grid = respaced(plain_grid(Grid.of(volume), self.spatial_dims, self.orientation), self.spacing_mm)
        if self.size is not None:
            return _fitted(grid, self.size, self.fit)
        shape = round_up(grid.shape[: self.spatial_dims], self.divisible_by, self.min_size)
        return grid.fitted((*shape, *grid.shape[self.spatial_dims :]))

    def lost(self, volume: Volume) -> float:
        """Return the share of the volume's field that cropping takes away, 0 to 1."""
        kept = 1.0
        grid = respaced(plain_grid(Grid.of(volume), self.spatial_dims, self.orientation), self.spacing_mm)
        if self.size is None or self.fit != "crop":
            return 0.0
        for have, wanted in zip(grid.shape, self.size, strict=False):
            kept *= min(1.0, wanted / have)
        return 1.0 - kept


def check_dims(shape: Sequence[int], spatial_dims: int, where: str) -> None:
    """Refuse a volume for a two-dimensional network and a single slice for a three-dimensional one.

    Raises:
        DataError: That names the other dimensionality.
    """
    if spatial_dims == 2 and shape[2] != 1:
        what = f"the image is a volume of {shape[2]} slices, and the backbone is two-dimensional"
        raise DataError(what, where=where, mend="Choose a 3D backbone: 'medtl backbones --dims 3'")
    if spatial_dims == 3 and shape[2] == 1:
        what = "the image is a single slice, and the backbone is three-dimensional"
        raise DataError(what, where=where, mend="Choose a 2D backbone: 'medtl backbones --dims 2'")


def plain_grid(grid: Grid, spatial_dims: int, orientation: str | None) -> Grid:
    """Return an image's grid in the network's order of axes: perpendicular and oriented (3D), or rows first (2D)."""
    if spatial_dims == 2:
        return grid.rows_first()
    straight = grid.straightened() if grid.sheared else grid
    return straight if orientation is None else straight.oriented(orientation)


def respaced(grid: Grid, spacing_mm: Sequence[float] | None) -> Grid:
    """Return the grid at another spacing; axes within one per cent of it are left alone."""
    if spacing_mm is None:
        return grid
    wanted = [*spacing_mm, *grid.spacing_mm[len(spacing_mm) :]]
    pairs = zip(wanted, grid.spacing_mm, strict=True)
    steps = [have if abs(have / want - 1) <= SPACING_TOLERANCE else want for want, have in pairs]
    return grid if steps == list(grid.spacing_mm) else grid.respaced(steps)


def round_up(shape: Sequence[int], divisible_by: Sequence[int], min_size: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest size that holds ``shape``, is at least ``min_size`` and a multiple of ``divisible_by``."""
    ones = (1,) * len(shape)
    rows = zip(shape, divisible_by or ones, min_size or ones, strict=True)
    return tuple(-(-max(n, least) // step) * step for n, step, least in rows)


def _fitted(grid: Grid, size: Sequence[int], fit: Fit) -> Grid:
    factor = max(have / wanted for have, wanted in zip(grid.shape, size, strict=False))
    if (fit == "shrink" and factor > 1) or (fit == "resize" and factor != 1):
        dims = len(size)
        steps = [s * factor for s in grid.spacing_mm[:dims]]
        grid = grid.respaced([*steps, *grid.spacing_mm[dims:]])
    return grid.fitted((*size, *grid.shape[len(size) :]))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value

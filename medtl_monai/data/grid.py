"""Voxel grids in the patient, and moving images between them: exactly where that is possible, else by resampling.

Everything that preprocessing does to geometry (turn, resample, crop, pad) is one step from a source grid to a target
grid, and undoing it is the same step back. Nothing is interpolated twice.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import NDArray

from medtl_monai.dicom.geometry import SHEAR_TOLERANCE, Affine, FloatArray, Volume, grid_distance, shear, spacing

Shape = tuple[int, int, int]
ScalarT = TypeVar("ScalarT", bound=np.generic)

_EXACT = 1e-3
"""Largest deviation, in voxels, of two grids whose voxel centres still count as coinciding."""

_MANY_LABELS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """A regular arrangement of voxels.

    Attributes:
        shape: Voxels along each axis; a 2D image has one along the third.
        affine: Voxel indices to RAS millimetres, float64 4×4.
    """

    shape: Shape
    affine: Affine

    @classmethod
    def of(cls, volume: Volume) -> Self:
        """Return the grid of a volume."""
        return cls(volume.shape, np.asarray(volume.affine))

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape))
        step = "×".join(f"{s:.4g}" for s in self.spacing_mm)
        first = ", ".join(f"{x:.4g}" for x in self.affine[:3, 3])
        return f"{size} voxels of {step} mm from ({first}), axes {''.join(nib.aff2axcodes(self.affine))}"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along each axis in millimetres."""
        return spacing(self.affine)

    @property
    def sheared(self) -> bool:
        """Whether the axes are not perpendicular."""
        return shear(self.affine) > SHEAR_TOLERANCE

    def distance_mm(self, other: Grid) -> float:
        """Return the largest distance between equal voxels of two grids of one shape."""
        return grid_distance(self.affine, other.affine, self.shape)

    def straightened(self) -> Grid:
        """Return a perpendicular grid that covers this one: i and j stay, k becomes the normal of the slices.

        Spacing along k is the distance between the slice planes, not that along the tilted axis.
        """
        i, j, k = self.affine[:3, :3].T
        u = i / np.linalg.norm(i)
        v = j - (j @ u) * u
        v /= np.linalg.norm(v)
        w = np.cross(u, v) * np.sign(np.cross(u, v) @ k)
        axes = np.stack([u, v, w], axis=1)
        steps = np.array([np.linalg.norm(i), j @ v, k @ w])
        corners = (axes.T @ self.affine[:3] @ self._corners()) / steps[:, None]
        low, high = corners.min(axis=1), corners.max(axis=1)
        shape = np.ceil(high - low - _EXACT).astype(int) + 1
        return Grid(_shape(shape), _affine(axes * steps, axes @ (low * steps)))

    def oriented(self, codes: str) -> Grid:
        """Return this grid with axes permuted and flipped to point nearest to ``codes``, such as ``"RAS"``."""
        now = nib.orientations.io_orientation(self.affine)
        change = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(codes))
        shape = [0, 0, 0]
        for source, target in enumerate(change[:, 0].astype(int)):
            shape[target] = self.shape[source]
        return Grid(_shape(shape), self.affine @ nib.orientations.inv_ornt_aff(change, self.shape))

    def rows_first(self) -> Grid:
        """Return this grid with its first two axes swapped: rows, then columns, as two-dimensional networks see."""
        i, j, k = self.shape
        return Grid((j, i, k), self.affine[:, [1, 0, 2, 3]])

    def respaced(self, spacing_mm: Sequence[float]) -> Grid:
        """Return a grid with other voxel sizes about the same centre, covering the same field to half a voxel."""
        factor = np.asarray(spacing_mm, float) / self.spacing_mm
        shape = np.maximum(1, np.rint(np.array(self.shape) / factor)).astype(int)
        linear = self.affine[:3, :3] * factor
        centre = self.affine[:3, :3] @ ((np.array(self.shape) - 1) / 2) + self.affine[:3, 3]
        return Grid(_shape(shape), _affine(linear, centre - linear @ ((shape - 1) / 2)))

    def fitted(self, shape: Sequence[int]) -> Grid:
        """Return this grid cropped and padded to ``shape`` about its centre, by whole voxels."""
        offset = (np.array(self.shape) - np.array(shape)) // 2
        return Grid(_shape(shape), _affine(self.affine[:3, :3], self.affine[:3] @ [*offset, 1]))

    def contains(self, other: Grid) -> bool:
        """Whether the voxel centres of ``other`` all lie within this grid's voxels."""
        corners = (np.linalg.solve(self.affine, other.affine) @ other._corners())[:3]
        return bool((corners > -0.5 - _EXACT).all() and (corners < np.array(self.shape)[:, None] - 0.5 + _EXACT).all())

    def _corners(self) -> NDArray[np.float64]:
        return np.array([[*c, 1.0] for c in itertools.product(*((0, n - 1) for n in self.shape))]).T


@dataclasses.dataclass(frozen=True)
class Turn:
    """How a target grid's voxels coincide with a source grid's.

    Attributes:
        axes: Source axis that each target axis runs along.
        signs: 1, or -1 where it runs backwards.
        starts: Source index of target index 0, per target axis; may lie outside.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    starts: tuple[int, int, int]


def coincidence(source: Grid, target: Grid, tolerance: float = _EXACT) -> Turn | None:
    """Return how target voxels coincide with source voxels, or None where they do not.

    Args:
        source: Grid of the data at hand.
        target: Grid wanted.
        tolerance: Largest deviation of voxel centres in source voxels, over the target's whole extent.
    """
    exact = np.linalg.solve(source.affine, target.affine)
    rounded = np.rint(exact)
    linear = np.abs(rounded[:3, :3])
    if not ((linear.sum(axis=0) == 1).all() and (linear.sum(axis=1) == 1).all()):
        return None
    if np.abs((exact - rounded)[:3] @ target._corners()).max() > tolerance:
        return None
    axes = [int(a) for a in linear.argmax(axis=0)]
    signs = [int(rounded[a, n]) for n, a in enumerate(axes)]
    starts = [int(rounded[a, 3]) for a in axes]
    return Turn((axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2]), (starts[0], starts[1], starts[2]))


def take(array: NDArray[ScalarT], turn: Turn, shape: Shape, fill: Any = 0) -> NDArray[ScalarT]:
    """Return ``array [C, *source]`` on the coinciding target grid: a contiguous copy, ``fill`` outside the source.

    Args:
        array: Channels first.
        turn: From :func:`coincidence`.
        shape: Shape of the target grid.
        fill: A number, or one per channel.
    """
    turned = array.transpose(0, *(1 + a for a in turn.axes))
    turned = turned[(slice(None), *(slice(None, None, s) for s in turn.signs))]
    size = turned.shape[1:]
    offsets = [start if s > 0 else n - 1 - start for start, s, n in zip(turn.starts, turn.signs, size, strict=True)]
    if tuple(size) == shape and not any(offsets):
        return np.array(turned, order="C")
    out = np.empty((array.shape[0], *shape), array.dtype)
    out[:] = np.asarray(fill).reshape(-1, 1, 1, 1)
    inside, outside = [slice(None)], [slice(None)]
    for offset, n, wanted in zip(offsets, size, shape, strict=True):
        low, high = max(0, -offset), min(wanted, n - offset)
        outside.append(slice(low, max(low, high)))
        inside.append(slice(low + offset, max(low, high) + offset))
    out[tuple(outside)] = turned[tuple(inside)]
    return out


def move(array: FloatArray, source: Grid, target: Grid, fill: Sequence[float]) -> FloatArray:
    """Return ``array [C, *source]`` on the target grid: exactly where voxels coincide, else by linear interpolation.

    Args:
        array: float32, channels first.
        source: Its grid.
        target: The grid wanted.
        fill: Value outside the source's field, one per channel.
    """
    turn = coincidence(source, target)
    if turn is not None:
        return take(array, turn, target.shape, fill)
    out = _resample(array, source, target, "bilinear", "border")
    if not source.contains(target):
        # Within half a voxel of the last voxel centre the image goes on; beyond, there is nothing but background.
        field = _resample(np.ones((1, *source.shape), np.float32), source, target, "nearest", "zeros")
        out = np.where(field > 0.5, out, np.asarray(fill, np.float32).reshape(-1, 1, 1, 1))
    return out


def move_labels(labels: NDArray[ScalarT], source: Grid, target: Grid) -> NDArray[ScalarT]:
    """Return label values ``[i, j, k]`` on the target grid, 0 outside the source.

    Where interpolation is needed, each label's membership is interpolated linearly and the strongest wins, which
    keeps outlines smoother than nearest neighbours do; with more than 16 labels, where that would take long, nearest
    neighbours it is.
    """
    turn = coincidence(source, target)
    if turn is not None:
        return take(labels[None], turn, target.shape)[0]
    values = np.unique(labels)
    if len(values) > _MANY_LABELS:
        nearest = _resample(labels.astype(np.float32)[None], source, target, "nearest", "zeros")[0]
        return np.rint(nearest).astype(labels.dtype)
    best = np.zeros(target.shape, np.float32)
    out = np.zeros(target.shape, labels.dtype)
    for value in values:
        outside = 1.0 if value == 0 else 0.0
        share = move((labels == value).astype(np.float32)[None], source, target, [outside])[0]
        out[share > best] = value
        np.maximum(best, share, out=best)
    return out


def nearest_labels(
    labels: NDArray[np.int16], source: Grid, target: Grid
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Return label values ``[i, j, k]`` on the target grid by nearest neighbours, and where the source's field is."""
    # One more than the label inside the source: 0 is left for what is outside.
    raised = labels.astype(np.float32)[None] + 1
    moved = np.rint(_resample(raised, source, target, "nearest", "zeros")[0]).astype(np.int16)
    field = moved > 0
    return np.where(field, moved - 1, 0).astype(np.int16), field


def _resample(array: FloatArray, source: Grid, target: Grid, mode: str, padding: str) -> FloatArray:
    image = MetaTensor(torch.as_tensor(np.ascontiguousarray(array)), affine=torch.as_tensor(source.affine.copy()))
    transform = SpatialResample(mode=mode, padding_mode=padding, align_corners=False, dtype=np.float32)
    moved = transform(image, dst_affine=torch.as_tensor(target.affine.copy()), spatial_size=target.shape)
    return np.asarray(moved.numpy(), np.float32)


def _shape(values: Sequence[int] | NDArray[np.int_]) -> Shape:
    i, j, k = values
    return int(i), int(j), int(k)


def _affine(linear: NDArray[np.float64], origin: NDArray[np.float64]) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = origin
    return affine

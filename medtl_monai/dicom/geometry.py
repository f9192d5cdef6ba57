"""A volume and where its voxels are in the patient."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Geometry = Literal["regular", "sheared"]
FloatArray = NDArray[np.float32]
Affine = NDArray[np.float64]

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes of a volume that still counts as perpendicular."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelInfo:
    """One channel of a volume whose channels have names.

    Attributes:
        name: What it is called.
        modality: DICOM Modality; empty where unknown.
        unit: What its values are; ``"any"`` for arbitrary units.
        filled: Whether the image is missing and the channel stands in for it: it holds zeros.
    """

    name: str
    modality: str = ""
    unit: str = "any"
    filled: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """An image with its voxel-to-patient mapping. Two-dimensional images have one slice.

    Attributes:
        array: float32 ``[i, j, k]``, or ``[c, i, j, k]`` for colour; i runs along the columns of a DICOM slice (to its
            right), j along its rows (downwards), k along the slice normal. May be a strided view.
        affine: float64 4×4, voxel indices to RAS millimetres.
        modality: DICOM Modality, such as ``"CT"``; empty where unknown.
        unit: What the values are: ``"HU"``, ``"BQML"``, ``"SUVbw"``, …, or ``"any"`` for arbitrary units.
        geometry: ``"sheared"`` when the axes are not perpendicular (gantry tilt): resample before use.
        spacing_known: False for a 2D image whose file does not tell its pixel spacing (the affine then says 1 mm).
        notes: What was done to the data beyond plain reading, one sentence each; free of identifiers and file names.
        series_uid: SeriesInstanceUID the volume came from, for checking references; never written or shown.
        frame_of_reference: FrameOfReferenceUID, which says whose positions are comparable; never written or shown.
        channel_info: One entry a channel where channels have names; modality and unit are then those of the first.
    """

    array: FloatArray
    affine: Affine
    modality: str = ""
    unit: str = "any"
    geometry: Geometry = "regular"
    spacing_known: bool = True
    notes: tuple[str, ...] = ()
    series_uid: str = dataclasses.field(default="", repr=False)
    frame_of_reference: str = dataclasses.field(default="", repr=False)
    channel_info: tuple[ChannelInfo, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4) or self.array.dtype != np.float32:
            raise ValueError(f"array must be float32 with 3 or 4 axes, not {self.array.dtype} {self.array.shape}")
        if self.channel_info and len(self.channel_info) != self.channels:
            raise ValueError(f"{len(self.channel_info)} channels are described, and there are {self.channels}")
        affine = np.asarray(self.affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise ValueError("affine must be a finite 4×4 matrix whose last row is 0 0 0 1")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("affine is singular")
        if (self.geometry == "sheared") != (shear(affine) > SHEAR_TOLERANCE):
            raise ValueError(f"geometry is {self.geometry!r} but the axes' largest cosine is {shear(affine):.2g}")
        affine = affine.copy()
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    def __repr__(self) -> str:
        spacing = "×".join(f"{s:.4g}" for s in self.spacing_mm)
        size = "×".join(map(str, self.array.shape))
        return f"Volume({self.modality or '?'} {size}, {spacing} mm, {self.unit}, {self.geometry})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Spatial size (i, j, k)."""
        i, j, k = self.array.shape[-3:]
        return int(i), int(j), int(k)

    @property
    def channels(self) -> int:
        """Number of channels: 1 without a channel axis."""
        return int(self.array.shape[0]) if self.array.ndim == 4 else 1

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j and k in millimetres."""
        return spacing(self.affine)

    def same_grid(self, other: Volume, tol_mm: float = 1e-3) -> bool:
        """Whether both volumes have the same shape and every voxel centre agrees within ``tol_mm``."""
        return self.shape == other.shape and grid_distance(self.affine, other.affine, self.shape) <= tol_mm

    def replace(self, **changes: Any) -> Volume:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def spacing(affine: Affine) -> tuple[float, float, float]:
    """Return the voxel size along each index axis, in millimetres."""
    i, j, k = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return float(i), float(j), float(k)


def shear(affine: Affine) -> float:
    """Return the largest absolute cosine between two index axes: 0 for perpendicular axes."""
    axes = np.asarray(affine)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    gram = np.abs(axes.T @ axes)
    return float(max(gram[0, 1], gram[0, 2], gram[1, 2]))


def grid_distance(first: Affine, second: Affine, shape: tuple[int, int, int]) -> float:
    """Return the largest distance in millimetres between equal indices of two grids of one shape.

    The distance is convex in the index, so the eight corners suffice.
    """
    corners = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= np.array(shape) - 1
    difference = (np.asarray(first) - np.asarray(second)) @ corners.T
    return float(np.linalg.norm(difference[:3], axis=0).max())

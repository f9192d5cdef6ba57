"""Anatomy-like volumes with one lesion of two kinds, computed in patient coordinates (mm).

The two kinds have the same distribution of size and of mean contrast, so neither total intensity nor volume tells them
apart: a ``solid`` lesion is smooth, round and homogeneous, a ``ring`` lesion has an enhancing rim, a darker core and a
lobulated outline. Bright vessels, calcifications and bone and dark cysts are in every volume, so the brightest or
darkest voxel does not give the kind away either.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Kind = Literal["solid", "ring"]
Modality = Literal["CT", "MR"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Value of each tissue: Hounsfield units, and arbitrary MR signal (T1-weighted after contrast, fat suppressed).
TISSUES: dict[Modality, dict[str, float]] = {
    "CT": {
        "air": -1000,
        "fat": -90,
        "muscle": 45,
        "organ": 75,
        "bone": 330,
        "vessel": 300,
        "cyst": -40,
        "calcium": 400,
    },
    "MR": {"air": 0, "fat": 190, "muscle": 330, "organ": 400, "bone": 90, "vessel": 900, "cyst": 150, "calcium": 60},
}
# Mean contrast of the lesion against the organ (low, high), difference between rim and core, noise.
CONTRAST: dict[Modality, tuple[float, float]] = {"CT": (60, 210), "MR": (130, 400)}
RIM_TO_CORE: dict[Modality, float] = {"CT": 320, "MR": 620}
NOISE: dict[Modality, float] = {"CT": 16, "MR": 24}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A voxel grid in patient coordinates (DICOM's LPS+, mm).

    Attributes:
        shape: Slices, rows, columns.
        spacing: Between slices, between rows, between columns, in mm.
        row_cosine: Direction of increasing column index.
        column_cosine: Direction of increasing row index.
        centre: Middle of the grid, in mm.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    row_cosine: tuple[float, float, float]
    column_cosine: tuple[float, float, float]
    centre: tuple[float, float, float]

    def axes(self) -> Floats:
        """Return the steps of one slice, one row and one column as rows of a 3 × 3 matrix, in mm."""
        row, column = np.array(self.row_cosine), np.array(self.column_cosine)
        return np.stack([np.cross(row, column), column, row]) * np.array(self.spacing)[:, None]

    def offsets(self) -> Floats:
        """Return the position of every voxel relative to the centre, ``[3, slices, rows, columns]`` in mm."""
        index = np.indices(self.shape).astype(np.float64)
        middle = (np.array(self.shape) - 1) / 2
        return np.einsum("azyx,ap->pzyx", index - middle[:, None, None, None], self.axes())

    def position(self, slice_index: int) -> Floats:
        """Return ImagePositionPatient of a slice: its first voxel's position, in mm."""
        index = np.array([slice_index, 0, 0]) - (np.array(self.shape) - 1) / 2
        return np.array(self.centre) + index @ self.axes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesion:
    """A lesion: where it is, how large, and how bright on average against the organ."""

    kind: Kind
    centre: tuple[float, float, float]
    radius_mm: float
    contrast: float


def draw_lesion(rng: np.random.Generator, kind: Kind, modality: Modality, grid: Grid) -> Lesion:
    """Draw a lesion that lies wholly inside the grid; nothing but its texture depends on the kind."""
    radius = float(rng.uniform(11.0, 15.5))
    depth = grid.shape[0] * grid.spacing[0] / 2 - radius - 2 * grid.spacing[0]
    angle, distance = rng.uniform(0.0, 2 * np.pi), rng.uniform(2.0, 14.0)
    centre = (distance * np.cos(angle), distance * np.sin(angle) * 0.6 - 5.0, rng.uniform(-depth, depth))
    contrast = float(rng.uniform(*CONTRAST[modality]))
    return Lesion(
        kind=kind, centre=(float(centre[0]), float(centre[1]), float(centre[2])), radius_mm=radius, contrast=contrast
    )


def render(rng: np.random.Generator, modality: Modality, grid: Grid, lesion: Lesion) -> tuple[NDArray[np.int16], Bools]:
    """Return the volume ``[slices, rows, columns]`` (HU, or MR signal) and the lesion's mask on the same grid."""
    position = grid.offsets()
    volume = _anatomy(rng, position, TISSUES[modality])
    mask = _draw(rng, volume, position, lesion, modality)
    volume = ndimage.gaussian_filter(volume, 0.5)
    noise = [rng.normal(0.0, NOISE[modality], grid.shape) for _ in range(2)]
    if modality == "CT":
        volume = np.clip(volume + noise[0], -1024, 3071)
    else:
        gain = rng.uniform(0.8, 1.3) * _bias_field(rng, position)
        volume = np.clip(np.hypot(volume * gain + noise[0], noise[1]), 0, 4095)  # magnitude image: Rician noise
    return np.rint(volume).astype(np.int16), mask


def _anatomy(rng: np.random.Generator, position: Floats, tissue: dict[str, float]) -> Floats:
    x, y, _ = position
    a, b = rng.uniform(40.0, 46.0), rng.uniform(36.0, 40.0)
    body = (x / a) ** 2 + (y / b) ** 2
    volume = np.full(x.shape, tissue["air"])
    volume[body < 1.0] = tissue["fat"]
    volume[body < 0.8] = tissue["muscle"]
    texture = ndimage.gaussian_filter(rng.normal(0.0, 1.0, x.shape), 1.5)
    organ = _ellipsoid(position, (rng.uniform(-8, 8), rng.uniform(-9, -3), 0.0), (25.0, 20.0, 60.0))
    volume[organ] = (tissue["organ"] + 0.25 * abs(tissue["organ"]) * texture)[organ]
    spine = (rng.uniform(-2, 2), 0.62 * b, 0.0)
    volume[_ellipsoid(position, spine, (8.5, 7.0, 1e6))] = tissue["bone"]
    for _ in range(2):
        volume[_tube(rng, position, rng.uniform(2.2, 3.2))] = tissue["vessel"] * rng.uniform(0.8, 1.1)
    for name, count, low, high in (("cyst", 2, 4.0, 7.0), ("calcium", 2, 2.0, 3.5)):
        for _ in range(count):
            radius = rng.uniform(low, high)
            volume[_ellipsoid(position, _spot(rng, position), (radius, radius, radius))] = tissue[name]
    return volume


def _draw(rng: np.random.Generator, volume: Floats, position: Floats, lesion: Lesion, modality: Modality) -> Bools:
    """Draw the lesion into ``volume`` and return its mask."""
    offset = position - np.array(lesion.centre)[:, None, None, None]
    stretch = rng.uniform(0.9, 1.1, 3)
    distance = np.sqrt(((offset / stretch[:, None, None, None]) ** 2).sum(0)) / lesion.radius_mm
    lobes, phase = int(rng.integers(4, 7)), rng.uniform(0.0, 2 * np.pi)
    if lesion.kind == "ring":
        distance = distance * (1 + 0.08 * np.sin(lobes * np.arctan2(offset[1], offset[0]) + phase))
    mask: Bools = distance < 1.0
    values = np.full(volume.shape, TISSUES[modality]["organ"] + lesion.contrast)
    if lesion.kind == "ring":
        rim = mask & (distance > 0.62)
        share = rim.sum() / mask.sum()
        # Rim and core are placed about the mean, so that the lesion's mean equals that of a solid one.
        values += np.where(rim, 1.0 - share, -share) * RIM_TO_CORE[modality]
    volume[mask] = values[mask]
    return mask


def _bias_field(rng: np.random.Generator, position: Floats) -> Floats:
    x, y, z = position / 40.0
    weights = rng.uniform(-0.22, 0.22, 6)
    terms = (x, y, z, x * y, x * x - 0.3, y * z)
    return np.exp(sum(w * t for w, t in zip(weights, terms, strict=True)))


def _spot(rng: np.random.Generator, position: Floats) -> tuple[float, float, float]:
    depth = float(np.abs(position[2]).max())
    angle, distance = rng.uniform(0.0, 2 * np.pi), rng.uniform(14.0, 25.0)
    return distance * np.cos(angle), distance * np.sin(angle) * 0.8, rng.uniform(-depth, depth)


def _ellipsoid(position: Floats, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Bools:
    scaled = (position - np.array(centre)[:, None, None, None]) / np.array(radii)[:, None, None, None]
    inside: Bools = (scaled**2).sum(0) < 1.0
    return inside


def _tube(rng: np.random.Generator, position: Floats, radius: float) -> Bools:
    x, y, z = position
    angle, tilt = rng.uniform(0.0, 2 * np.pi), rng.uniform(-0.4, 0.4, 2)
    cx, cy = 17.0 * np.cos(angle), 13.0 * np.sin(angle)
    inside: Bools = (x - cx - tilt[0] * z) ** 2 + (y - cy - tilt[1] * z) ** 2 < radius**2
    return inside

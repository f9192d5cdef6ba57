"""The interface of the catalogue of DICOM realities: a case writes itself to a folder and says what must be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from helpers_dicom import Recipe

from medtl_monai.dicom import Volume, read_volume, read_volumes
from medtl_monai.errors import DicomError, MedtlError

_SMALL = 2**18
"""Most voxels for which the way that a value has gone is looked up."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """How a volume compares with the truth.

    Attributes:
        right: Every voxel of the truth is there once, at its place and with its value, and no other.
        distance_mm: Farthest that a voxel lies from where its value belongs; NaN where values are not unique.
        value_error: Largest difference of a value from the truth at the same place; NaN where the grids differ.
        why: What is wrong, in words; empty if nothing.
    """

    right: bool
    distance_mm: float
    value_error: float
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """One volume as it must be.

    Attributes:
        array: float64 ``[i, j, k]``, or ``[3, i, j, k]`` for colour.
        affine: Voxel to RAS millimetres.
        attributes: Attributes that :class:`Volume` must have, such as ``unit``.
        notes: Words that its notes must contain.
        mm: How far a voxel may lie off.
    """

    array: np.ndarray
    affine: np.ndarray
    attributes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    mm: float = 2e-3

    @classmethod
    def of(cls, recipe: Recipe, **changes: Any) -> Expected:
        """Return the volume of a recipe, whose values encode their places."""
        array = np.stack([recipe.values(k).T for k in range(recipe.slices)], -1).astype(np.float64)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ recipe.affine_lps
        return dataclasses.replace(cls(array=array, affine=affine), **changes)

    def slices(self, first: int, last: int, **changes: Any) -> Expected:
        """Return the volume of slices ``first`` to ``last`` alone."""
        affine = self.affine.copy()
        affine[:3, 3] += first * affine[:3, 2]
        return dataclasses.replace(self, array=self.array[..., first : last + 1], affine=affine, **changes)

    def judge(self, array: np.ndarray, affine: np.ndarray, *, rtol: float = 1e-5) -> Verdict:
        """Judge any reader's volume; its axes may be turned or exchanged as long as its affine says so.

        Args:
            array: ``[i, j, k]`` or ``[3, i, j, k]``.
            affine: Voxel to RAS millimetres.
            rtol: How far a value may be off, relative to the largest.
        """
        array, affine = np.asarray(array, np.float64), np.asarray(affine, np.float64)
        tolerance = rtol * max(1.0, float(np.nanmax(np.abs(self.array))))
        distance = self._distance(array, affine, tolerance) if self.array.size <= _SMALL else float("nan")
        if array.ndim != self.array.ndim or sorted(array.shape) != sorted(self.array.shape):
            why = f"shape {array.shape} instead of {self.array.shape}"
            return Verdict(right=False, distance_mm=distance, value_error=np.nan, why=why)
        index = np.linalg.inv(self.affine) @ affine @ _indices(array.shape[-3:])
        nearest = np.rint(index)
        off = float(np.linalg.norm((self.affine @ (index - nearest))[:3], axis=0).max())
        shape = np.array(self.array.shape[-3:])[:, None]
        inside = bool(((nearest[:3] >= 0) & (nearest[:3] < shape)).all())
        if not inside or off > self.mm or not _each_once(nearest[:3].astype(int), self.array.shape[-3:]):
            why = f"voxels lie {off:.3g} mm off the grid" if inside else "voxels lie outside of the grid"
            return Verdict(right=False, distance_mm=distance, value_error=np.nan, why=why)
        i, j, k = nearest[:3].astype(int)
        wanted = self.array[..., i, j, k]
        error = float(np.abs(array.reshape(wanted.shape) - wanted).max())
        right = error <= tolerance  # false for NaN
        why = "" if right else f"values differ by up to {error:.3g}"
        return Verdict(right=right, distance_mm=distance, value_error=error, why=why)

    def _distance(self, array: np.ndarray, affine: np.ndarray, tolerance: float) -> float:
        """Farthest way in mm between where a value is said to be and where it belongs; NaN where that is not known."""
        values, first = np.unique(self.array, return_index=True)
        if self.array.ndim != 3 or len(values) != self.array.size or array.ndim != 3:
            return float("nan")
        found = np.clip(np.searchsorted(values, array.ravel() - tolerance), 0, len(values) - 1)
        known = np.abs(values[found] - array.ravel()) <= tolerance
        if not known.any():
            return float("nan")
        belongs = (self.affine @ _indices(self.array.shape))[:3, first[found[known]]]
        said = (affine @ _indices(array.shape))[:3, known]
        return float(np.linalg.norm(belongs - said, axis=0).max())


def _each_once(index: np.ndarray, shape: tuple[int, ...]) -> bool:
    return bool((np.bincount(np.ravel_multi_index(tuple(index), shape), minlength=int(np.prod(shape))) == 1).all())


def _indices(shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.indices(shape).reshape(3, -1), np.ones((1, int(np.prod(shape))))])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """Reading must end in a typed error.

    Attributes:
        attribute: DICOM keyword that it names; empty where no attribute is to blame.
        file: File that it names; empty where it is the whole folder.
        says: Words of its text.
        error: Its type.
    """

    attribute: str = ""
    file: str = ""
    says: str = ""
    error: type[MedtlError] = DicomError


Truth = tuple[Expected, ...] | Refusal
"""The volumes in the order in which ``read_volumes`` returns them, or the refusal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One reality.

    Attributes:
        id: Names it.
        row: The group it belongs to, such as ``"slice order"``.
        make: Writes it to an empty folder and returns the truth.
        options: Keyword arguments of ``read_volume``.
        several: Read with ``read_volumes``: the truth may have several volumes.
    """

    id: str
    row: str
    make: Callable[[Path], Truth] = dataclasses.field(repr=False)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    several: bool = False

    def write(self, folder: Path) -> Truth:
        """Write the case's files into ``folder``, which is made, and return what reading it must give."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.make(folder)

    def read(self, folder: Path) -> list[Volume]:
        """Read the folder with medtl as this case asks for."""
        if self.several:
            return read_volumes(folder, **self.options)
        return [read_volume(folder, **self.options)]

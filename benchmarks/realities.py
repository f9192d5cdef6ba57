"""The cases of ``tests/dicom`` for other readers: what is asked of them, and how what they return is judged.

The cases are the tests' own catalogue. Only those take part in which medtl, too, is asked for nothing but the folder.
In the tests, InstanceNumber is shuffled in every series; here only where the case is about it, because one fault of a
reader should be counted once.
A case that must be refused is judged by what was written: a reader that still gives every voxel at its place is right.
Where a folder holds several volumes, each of them, taken whole, is right.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.uid
from numpy.typing import NDArray

Array = NDArray[Any]
_TESTS = Path(__file__).resolve().parent.parent / "tests"
CONVENTIONS = frozenset({"padding", "MONOCHROME1", "2D", "cine", "palette"})
"""Groups and cases that readers answer differently with good reason: shown, but not counted."""
_TOLERANCE_MM = 0.02
_TOLERANCE_VALUE = 1e-2


def _fix_uids() -> None:
    """Number the UIDs, so that readers that sort by them do the same at every run."""
    numbers = itertools.count(1)
    pydicom.uid.generate_uid = lambda *_, **__: pydicom.uid.UID(f"1.2.826.0.1.3680043.8.498.{next(numbers)}")


def catalogue() -> list[Any]:
    """Return the cases, in their order."""
    if "helpers_dicom" not in sys.modules:
        _fix_uids()
    sys.path[:0] = [str(_TESTS), str(_TESTS / "dicom")]
    try:
        from cases_refused import REFUSALS
        from cases_volumes import VOLUMES
    finally:
        del sys.path[:2]
    return [case for case in (*VOLUMES, *REFUSALS) if not case.options]


def write(case: Any, folder: Path) -> Any:
    """Write a case, with InstanceNumber in the order of the slices unless it says otherwise; return its truth."""
    from helpers_dicom import Recipe

    original = Recipe.dataset

    def ordered(recipe: Any, k: int, number: int = 1) -> Any:
        return original(recipe, k, number=k + 1)

    Recipe.dataset = ordered
    try:
        return case.write(folder)
    finally:
        Recipe.dataset = original


def counted(case: Any) -> bool:
    """Whether a case is in the totals."""
    return not {case.row, case.id} & CONVENTIONS


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where each value belongs: one volume whose values are unique, on a regular grid or not.

    Attributes:
        values: Ascending.
        points: RAS millimetres of each, ``[n, 3]``.
    """

    values: Array
    points: Array

    def judge(self, array: Array, affine: Array) -> tuple[bool, float, str]:
        """Return whether every value is there once, at its place; the largest distance in mm; and what is wrong."""
        said = (affine @ _indices(array.shape[-3:]))[:3].T
        found = np.clip(np.searchsorted(self.values, array.ravel() - _TOLERANCE_VALUE), 0, len(self.values) - 1)
        known = np.abs(self.values[found] - array.ravel()) <= _TOLERANCE_VALUE
        distances = np.linalg.norm(self.points[found[known]] - said[known], axis=1)
        off = float(distances.max()) if known.any() else float("nan")
        missing = len(self.values) - len(np.unique(found[known]))
        if missing:
            return False, off, f"{missing} of {len(self.values)} voxels are missing"
        if not known.all() or array.size != len(self.values):
            return False, off, f"{array.size - len(self.values)} voxels too many, or with other values"
        return off <= _TOLERANCE_MM, off, "" if off <= _TOLERANCE_MM else "misplaced"


def _indices(shape: Sequence[int]) -> Array:
    return np.concatenate([np.indices(shape).reshape(3, -1), np.ones((1, int(np.prod(shape))))])


def _places(*recipes: Any, move: dict[int, Sequence[float]] | None = None) -> list[Places]:
    """Return the truth of recipes; ``move`` displaces slices by LPS millimetres."""
    found = []
    for recipe in recipes:
        values, points = [], []
        for k in range(recipe.slices) if recipe.keep is None else recipe.keep:
            affine = recipe.affine_lps
            affine[:3, 3] = recipe.position(k) + np.array((move or {}).get(k, (0, 0, 0)))
            index = _indices((recipe.columns, recipe.rows, 1))
            values.append(recipe.values(k).T.ravel())
            points.append((affine @ index)[:3].T * [-1, -1, 1])
        flat = np.concatenate(values)
        order = np.argsort(flat)
        found.append(Places(flat[order].astype(float), np.concatenate(points)[order]))
    return found


def truths(case: Any, truth: Any) -> list[Any]:
    """Return the volumes of which any one is right; of a case that must be refused, what was there before the damage."""
    if isinstance(truth, tuple):
        return list(truth)
    from helpers_dicom import CORONAL, Recipe

    if case.id in ("empty-folder", "only-junk"):
        return []
    if case.id == "two-orientations":
        return _places(Recipe(), Recipe(orientation=CORONAL))
    if case.id == "one-slice":
        return _places(Recipe(keep=[2]))
    if case.id == "uneven-spacing":
        return _places(Recipe(), move=dict.fromkeys((3, 4, 5), (0, 0, 0.4)))
    if case.id == "beside-the-line":
        return _places(Recipe(), move={2: (2, 0, 0)})
    return _places(Recipe())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a volume compares with the truth: ``why`` is empty where it is right; ``mm`` is NaN where unknown."""

    right: bool
    mm: float
    why: str


def judge(wanted: Sequence[Any], array: Array, affine: Array) -> Judgement:
    """Judge a reader's volume by the nearest of the volumes that would be right.

    Args:
        wanted: What :func:`truths` returns.
        array: ``[i, j]``, ``[i, j, k]``, or with a colour axis first or last.
        affine: Voxel to RAS millimetres.
    """
    array, affine = np.asarray(array, np.float64), np.asarray(affine, np.float64)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 4 and array.shape[0] not in (1, 3) and array.shape[-1] in (1, 3):
        array = np.moveaxis(array, -1, 0)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
        return Judgement(right=False, mm=float("nan"), why="no usable affine")
    if array.ndim not in (3, 4):
        return Judgement(right=False, mm=float("nan"), why=f"shape {array.shape}")
    found = [_judge_one(one, array, affine) for one in wanted]
    if not found:
        return Judgement(right=False, mm=float("nan"), why="there is no image")
    return min(found, key=lambda j: (not j.right, np.inf if np.isnan(j.mm) else j.mm))


def _judge_one(one: Any, array: Array, affine: Array) -> Judgement:
    if isinstance(one, Places):
        right, mm, why = one.judge(array, affine)
        return Judgement(right=right, mm=mm, why=why)
    verdict = one.judge(array, affine)
    return Judgement(right=verdict.right, mm=verdict.distance_mm, why=verdict.why)

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword

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
        truth = case.write(folder)
    finally:
        Recipe.dataset = original
    if case.row == "enhanced" and isinstance(truth, tuple):
        _complete(folder / "enhanced", frame_of_reference=case.id != "enhanced-no-frame-of-reference")
    return truth


def _complete(path: Path, *, frame_of_reference: bool) -> None:
    """Add to an enhanced file what scanners write and medtl does not need: dimensions, stack, frame of reference."""
    dataset = pydicom.dcmread(path)
    if frame_of_reference:
        dataset.FrameOfReferenceUID = f"{dataset.StudyInstanceUID[:60]}.1"
    organization = pydicom.Dataset()
    organization.DimensionOrganizationUID = f"{dataset.StudyInstanceUID[:60]}.2"
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = []
    for pointer in ("StackID", "InStackPositionNumber"):
        index = pydicom.Dataset()
        index.DimensionIndexPointer = tag_for_keyword(pointer)
        index.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        dataset.DimensionIndexSequence.append(index)
    groups = dataset.PerFrameFunctionalGroupsSequence
    planes = [_plane(group, dataset.SharedFunctionalGroupsSequence[0]) for group in groups]
    stacks = list(dict.fromkeys(orientation for orientation, _ in planes))
    for group, (orientation, distance) in zip(groups, planes, strict=True):
        content, stack = group.FrameContentSequence[0], stacks.index(orientation) + 1
        places = sorted({along for other, along in planes if other == orientation})
        content.StackID, content.InStackPositionNumber = str(stack), places.index(distance) + 1
        content.DimensionIndexValues = [stack, content.InStackPositionNumber]
    dataset.save_as(path, enforce_file_format=True)


def _plane(group: pydicom.Dataset, shared: pydicom.Dataset) -> tuple[tuple[float, ...], float]:
    """Return a frame's orientation and its distance along the normal."""
    source = group if "PlaneOrientationSequence" in group else shared
    orientation = tuple(float(v) for v in source.PlaneOrientationSequence[0].ImageOrientationPatient)
    position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
    return orientation, round(float(np.cross(orientation[:3], orientation[3:]) @ position), 3)


def counted(case: Any) -> bool:
    """Whether a case is in the totals."""
    return not {case.row, case.id} & CONVENTIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a volume compares with the truth.

    Attributes:
        right: Whether it is right.
        mm: How far the voxel that is farthest off lies from its place, in millimetres; of values that are there more
            than once, the nearest counts. NaN where the values, not their places, are wrong, or nothing is known.
        why: What is wrong; empty if nothing.
    """

    right: bool
    mm: float
    why: str


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where each value belongs: one volume whose values are unique, on a regular grid or not.

    Attributes:
        values: Ascending.
        points: RAS millimetres of each, ``[n, 3]``.
    """

    values: Array
    points: Array

    @classmethod
    def of(cls, array: Array, affine: Array) -> Places | None:
        """Return the places of a volume's values; None where they are not unique."""
        values, first = np.unique(array, return_index=True)
        if array.ndim != 3 or len(values) != array.size:
            return None
        return cls(values, (affine @ _indices(array.shape))[:3, first].T)

    def judge(self, array: Array, affine: Array) -> Judgement:
        """Judge a volume: every value must be there once, at its place."""
        said = (affine @ _indices(array.shape[-3:]))[:3].T
        found = np.clip(np.searchsorted(self.values, array.ravel() - _TOLERANCE_VALUE), 0, len(self.values) - 1)
        known = np.abs(self.values[found] - array.ravel()) <= _TOLERANCE_VALUE
        distances = np.linalg.norm(self.points[found[known]] - said[known], axis=1)
        nearest = np.full(len(self.values), np.inf)
        np.minimum.at(nearest, found[known], distances)
        there = np.isfinite(nearest)
        # Values that are there by chance tell nothing.
        mm = float(nearest[there].max()) if known.sum() > 0.5 * array.size and there.mean() > 0.5 else float("nan")
        if not there.all():
            return Judgement(right=False, mm=mm, why=f"{(~there).sum()} of {len(there)} voxels are missing")
        if not known.all() or array.size != len(self.values):
            return Judgement(right=False, mm=mm, why=f"{array.size} voxels instead of {len(there)}, or other values")
        return Judgement(right=mm <= _TOLERANCE_MM, mm=mm, why="" if mm <= _TOLERANCE_MM else "misplaced")


def _indices(shape: Sequence[int]) -> Array:
    return np.concatenate([np.indices(shape).reshape(3, -1), np.ones((1, int(np.prod(shape))))])


def _places(*recipes: Any, edit: Callable[[int, Array], None] = lambda k, affine: None) -> list[Places]:
    """Return the truth of recipes; ``edit`` changes the plane (a 4×4 affine to LPS millimetres) of a slice in place."""
    found = []
    for recipe in recipes:
        values, points = [], []
        for k in range(recipe.slices) if recipe.keep is None else recipe.keep:
            affine = recipe.affine_lps
            affine[:3, 3] = recipe.position(k)
            edit(k, affine)
            values.append(recipe.values(k).T.ravel())
            points.append((affine @ _indices((recipe.columns, recipe.rows, 1)))[:3].T * [-1, -1, 1])
        flat = np.concatenate(values)
        order = np.argsort(flat)
        found.append(Places(flat[order].astype(float), np.concatenate(points)[order]))
    return found


def _later_by_a_step(k: int, affine: Array) -> None:
    affine[2, 3] += 0.4 * (k > 2)


def _beside(k: int, affine: Array) -> None:
    affine[0, 3] = -18.0 if k == 2 else affine[0, 3]


def _stretched(k: int, affine: Array) -> None:
    affine[1, 1] = 0.95 if k == 2 else affine[1, 1]


_EDITS = {"uneven-spacing": _later_by_a_step, "beside-the-line": _beside, "other-spacing": _stretched}
"""What such a case does to the places of single slices."""


def truths(case: Any, truth: Any) -> list[Any]:
    """Return the volumes of which any one is right; of a case that must be refused, what was before the damage."""
    if isinstance(truth, tuple):
        return list(truth)
    from helpers_dicom import CORONAL, Recipe

    if case.id in ("empty-folder", "only-junk"):
        return []
    if case.id == "two-orientations":
        return _places(Recipe(), Recipe(orientation=CORONAL))
    if case.id == "one-slice":
        return _places(Recipe(keep=[2]))
    if case.id in _EDITS:
        return _places(Recipe(), edit=_EDITS[case.id])
    return _places(Recipe())


def judge(wanted: Sequence[Any], array: Array, affine: Array) -> Judgement:
    """Judge a reader's volume by the nearest of the volumes that would be right.

    Args:
        wanted: What :func:`truths` returns.
        array: ``[i, j]``, ``[i, j, k]``, or with a colour axis anywhere.
        affine: Voxel to RAS millimetres.
    """
    array, affine = np.asarray(array, np.float64), np.asarray(affine, np.float64)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 4:
        array = np.moveaxis(array, next((axis for axis in (0, 3, 2) if array.shape[axis] in (1, 3)), 0), 0)
        array = array[0] if array.shape[0] == 1 else array
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
        return one.judge(array, affine)
    if array.ndim != one.array.ndim or (array.ndim == 4 and array.shape[0] != 3):
        return Judgement(right=False, mm=float("nan"), why=f"shape {array.shape} instead of {one.array.shape}")
    verdict = one.judge(array, affine)
    places = Places.of(one.array, one.affine)
    placed = None if places is None else places.judge(array, affine)
    # On the right grid, values that are all there are misplaced; others are wrong.
    known = placed is not None and (np.isnan(verdict.value_error) or placed.why == "misplaced")
    return Judgement(right=verdict.right, mm=placed.mm if placed and known else float("nan"), why=verdict.why)

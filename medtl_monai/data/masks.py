"""Masks on the grid of their image: NIfTI label maps, DICOM SEG, and RTSTRUCT contours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtl_monai.data.grid import Grid, Turn, coincidence, nearest_labels, take
from medtl_monai.data.nifti import read_nifti
from medtl_monai.data.table import listing
from medtl_monai.dicom import SegMask, Volume, sop
from medtl_monai.dicom.geometry import grid_distance
from medtl_monai.dicom.opened import sop_class_of
from medtl_monai.dicom.rtstruct import draw
from medtl_monai.dicom.seg import OffGridError, check_reference, place_frames
from medtl_monai.dicom.segfile import open_seg
from medtl_monai.dicom.seggrid import place_on_own_grid
from medtl_monai.dicom.structures import open_structures
from medtl_monai.errors import DataError

Labels = NDArray[np.int16]
OffGrid = Literal["error", "nearest"]

GRID_TOLERANCE_MM = 1e-3
_NEAR = 0.1
"""Voxels nearer than this, in voxels, are compared in millimetres."""
_LARGEST = 1000
_COUNT = re.compile(r" \(\d+ [^()]*\)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskScheme:
    """How the values of all masks of a table become label indices.

    Attributes:
        structures: Names of label 1, 2, …
        segments: Segment label in a DICOM SEG, or region in an RTSTRUCT, to label index; 0 for those left out.
        ignore: Value that stays as it is and counts for nothing.
        off_grid: What to do with a mask on another grid than its image.
        present: Per mask file, the labels it holds; files that were not looked into are left out.
        notes: What the user should know.
    """

    structures: tuple[str, ...]
    segments: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ignore: int | None = None
    off_grid: OffGrid = "error"
    present: Mapping[Path, tuple[int, ...]] = dataclasses.field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM prefix (PS3.10, 7.1); names and endings tell nothing."""
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def is_rtstruct(path: Path, where: str) -> bool:
    """Whether a DICOM file is an RTSTRUCT, judged by its SOP class.

    Raises:
        DicomError: It cannot be read.
    """
    return sop_class_of(path, where) in sop.STRUCTURE_SETS


def read_mask(
    path: Path, like: Volume, scheme: MaskScheme, *, where: str = "", notes: list[str] | None = None
) -> Labels:
    """Read a mask as label indices int16 ``[i, j, k]`` on the grid of ``like``.

    A NIfTI mask whose axes are permuted or flipped against the image is turned, which loses nothing.

    Args:
        path: NIfTI, DICOM SEG or RTSTRUCT.
        like: The image.
        scheme: What the values mean.
        where: How errors name the mask.
        notes: Takes what was done beyond plain reading.

    Raises:
        DataError: If a mask is on another grid (unless the scheme resamples: then if a label vanishes or the mask lies
            beside the image), or a value is not whole or not one of the labels.
        DicomError: If a DICOM SEG or RTSTRUCT cannot be placed on the grid.
    """
    where = where or path.name
    notes = notes if notes is not None else []
    reader = _read_nifti if not is_dicom(path) else _read_rtstruct if is_rtstruct(path, where) else _read_seg
    labels = reader(path, like, scheme, where, notes)
    allowed = set(range(len(scheme.structures) + 1)) | ({scheme.ignore} if scheme.ignore is not None else set())
    wrong = sorted(set(np.unique(labels).tolist()) - allowed)
    if wrong:
        what = f"the mask holds {listing('value', wrong)}, and labels go from 0 to {len(scheme.structures)}"
        raise DataError(what, where=where, mend="Correct the mask, or name all values with data.structures")
    return labels


def _read_nifti(path: Path, like: Volume, scheme: MaskScheme, where: str, notes: list[str]) -> Labels:
    volume = read_nifti(path, where=where)
    source, target = Grid.of(volume), Grid.of(like)
    turn = coincidence(source, target, tolerance=_NEAR)
    turned_shape = tuple(source.shape[a] for a in turn.axes) if turn else ()
    firsts = [0 if s > 0 else n - 1 for s, n in zip(turn.signs, turned_shape, strict=True)] if turn else []
    same = turn is not None and turned_shape == target.shape and list(turn.starts) == firsts
    labels = whole_numbers(volume, where)
    if turn is not None and same and _deviation_mm(source, target, turn) <= GRID_TOLERANCE_MM:
        return take(labels[None], turn, target.shape)[0]
    if scheme.off_grid == "error":
        what = f"the mask is on another grid ({source}) than its image ({target})"
        mend = "Resample the mask to the image with nearest neighbours, or set data.off_grid_masks=nearest"
        raise DataError(what, where=where, mend=mend)
    moved, covered = _resampled(labels, source, target, where, notes)
    if not covered:
        notes.append("the mask does not cover its whole image; the rest counts as background")
    return moved


def _deviation_mm(source: Grid, target: Grid, turn: Turn) -> float:
    """Return the largest distance of voxel centres that the turn takes for one another."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for n, axis in enumerate(turn.axes):
        change[axis, n], change[axis, 3] = turn.signs[n], turn.starts[n]
    return grid_distance(source.affine @ change, target.affine, target.shape)


def _resampled(labels: Labels, source: Grid, target: Grid, where: str, notes: list[str]) -> tuple[Labels, bool]:
    """Resample labels by nearest neighbours; also say whether they cover the whole target.

    Raises:
        DataError: If the two grids do not overlap, or a label is not left anywhere.
    """
    moved, field = nearest_labels(labels, source, target)
    if not field.any():
        what = f"the mask ({source}) does not overlap its image ({target})"
        raise DataError(what, where=where, mend="Give the mask that was drawn on this image")
    lost = sorted(set(np.unique(labels).tolist()) - set(np.unique(moved).tolist()) - {0})
    if lost:
        what = f"nothing is left of {listing('label', lost)} when the mask is resampled from {source} to {target}"
        mend = "Correct the mask, or give the image it was drawn on"
        raise DataError(what, where=where, mend=mend)
    notes.append("the mask was resampled onto the grid of its image with nearest neighbours")
    if not target.contains(source):
        _, seen = nearest_labels(np.zeros(target.shape, np.int16), target, source)
        if (labels[~seen] != 0).any():
            notes.append("part of the mask lies outside its image and was cut off")
    return moved, bool(field.all())


def whole_numbers(volume: Volume, where: str) -> Labels:
    """Return the values of a label map as int16.

    Raises:
        DataError: If they are not whole numbers from 0 to 1000 in one channel.
    """
    array = volume.array
    if array.ndim != 3 or not np.array_equal(array, np.rint(array)):
        mend = "Save the mask with an integer type and one channel"
        raise DataError("the mask has values that are not whole numbers", where=where, mend=mend)
    if array.min() < 0 or array.max() > _LARGEST:
        what = f"the mask has values from {array.min():g} to {array.max():g}"
        raise DataError(what, where=where, mend=f"Use label values between 0 and {_LARGEST}")
    return array.astype(np.int16)


def _read_seg(path: Path, like: Volume, scheme: MaskScheme, where: str, notes: list[str]) -> Labels:
    seg = open_seg(path, where)
    check_reference(seg, like)
    wanted = _wanted(seg.names, scheme, where)
    try:
        mask = place_frames(seg, like, wanted)
    except OffGridError:
        if scheme.off_grid == "error":
            raise
        mask, affine = place_on_own_grid(seg, wanted)
        source = Grid(mask.labels.shape, affine)
        labels, _ = _resampled(_relabelled(mask, scheme), source, Grid.of(like), where, notes)
        return labels
    notes += [_COUNT.sub("", note) for note in mask.notes]
    return _relabelled(mask, scheme)


def _read_rtstruct(path: Path, like: Volume, scheme: MaskScheme, where: str, notes: list[str]) -> Labels:
    found = open_structures(path, where)
    # Regions without an area matter only where they are asked for by name.
    names = [name for name in found.names if name in found.filled or scheme.segments.get(name)]
    mask = draw(found, like, _wanted(names, scheme, where))
    # Numbers differ from case to case; without them, equal notes can be counted.
    notes += [_COUNT.sub("", note) for note in mask.notes]
    return _relabelled(mask, scheme)


def _wanted(names: Sequence[str], scheme: MaskScheme, where: str) -> list[str]:
    """Return the file's names that stand for labels, each once, in order of label."""
    unknown = [name for name in names if name not in scheme.segments]
    if unknown:
        what = f"the mask has segments that other masks do not have: {listing('segment', unknown)}"
        raise DataError(what, where=where, mend="Name all segments with data.structures")
    return sorted((n for n in dict.fromkeys(names) if scheme.segments[n]), key=lambda n: scheme.segments[n])


def _relabelled(mask: SegMask, scheme: MaskScheme) -> Labels:
    return np.array([0, *(scheme.segments[name] for name in mask.names)], np.int16)[mask.labels]

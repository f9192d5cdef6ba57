"""Masks on the grid of their image: NIfTI label maps and DICOM SEG."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtl_monai.data.grid import Grid, coincidence, take
from medtl_monai.data.nifti import is_nifti, read_nifti
from medtl_monai.data.table import listing
from medtl_monai.dicom import Volume, read_seg
from medtl_monai.dicom.segfile import open_seg
from medtl_monai.errors import DataError

Labels = NDArray[np.int16]

GRID_TOLERANCE_MM = 1e-3
_LARGEST = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskScheme:
    """How the values of all masks of a table become label indices.

    Attributes:
        structures: Names of label 1, 2, …
        segments: Segment label in a DICOM SEG to label index.
        ignore: Value that stays as it is and counts for nothing.
        present: Per mask file, the labels it holds; files that were not looked into are left out.
    """

    structures: tuple[str, ...]
    segments: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ignore: int | None = None
    present: Mapping[Path, tuple[int, ...]] = dataclasses.field(default_factory=dict, repr=False)


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM prefix (PS3.10, 7.1); names and endings tell nothing."""
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def survey_masks(masks: Mapping[int, Path], structures: Sequence[str], ignore: int | None, where: str) -> MaskScheme:
    """Find the structures that the masks of a table hold.

    DICOM SEG files are judged by their headers. NIfTI masks are read through unless ``structures`` names their values.

    Args:
        masks: Row number to mask file.
        structures: Names given by the user for values 1, 2, …; for SEG they also rename segments by position.
        ignore: Value that counts for nothing.
        where: How errors name the table.

    Raises:
        DataError: If the masks disagree, mix SEG and NIfTI without given names, or have values that are not 0, 1, …, n.
    """
    segs = {row: path for row, path in masks.items() if is_dicom(path)}
    others = [row for row, path in masks.items() if row not in segs and not is_nifti(path)]
    if others:
        what = f"masks are neither NIfTI (.nii, .nii.gz) nor DICOM: {listing('row', others)}"
        raise DataError(what, where=where, mend="Convert them to .nii.gz or DICOM SEG")
    if not segs:
        return _survey_nifti(masks, structures, ignore, where)
    if len(segs) < len(masks) and not structures:
        mend = "Name the values 1, 2, … with data.structures"
        raise DataError("some masks are DICOM SEG and some NIfTI", where=where, mend=mend)
    return _survey_segs(segs, structures, ignore, where)


def read_mask(path: Path, like: Volume, scheme: MaskScheme, *, where: str = "") -> Labels:
    """Read a mask as label indices int16 ``[i, j, k]`` on the grid of ``like``.

    A NIfTI mask whose axes are permuted or flipped against the image is turned, which loses nothing.

    Raises:
        DataError: If a NIfTI mask is on another grid, or a value is not whole or not one of the labels.
        DicomError: If a DICOM SEG cannot be placed on the grid.
    """
    where = where or path.name
    labels = _read_seg(path, like, scheme, where) if is_dicom(path) else _read_nifti(path, like, where)
    allowed = set(range(len(scheme.structures) + 1)) | ({scheme.ignore} if scheme.ignore is not None else set())
    wrong = sorted(set(np.unique(labels).tolist()) - allowed)
    if wrong:
        what = f"the mask holds {listing('value', wrong)}, and labels go from 0 to {len(scheme.structures)}"
        raise DataError(what, where=where, mend="Correct the mask, or name all values with data.structures")
    return labels


def _read_nifti(path: Path, like: Volume, where: str) -> Labels:
    volume = read_nifti(path, where=where)
    source, target = Grid.of(volume), Grid.of(like)
    turn = coincidence(source, target, tolerance=GRID_TOLERANCE_MM / min(source.spacing_mm))
    turned_shape = tuple(source.shape[a] for a in turn.axes) if turn else ()
    firsts = [0 if s > 0 else n - 1 for s, n in zip(turn.signs, turned_shape, strict=True)] if turn else []
    if turn is None or turned_shape != target.shape or list(turn.starts) != firsts:
        what = f"the mask is on another grid ({source}) than its image ({target})"
        raise DataError(what, where=where, mend="Resample the mask to the image, with nearest neighbours")
    return take(_whole_numbers(volume, where)[None], turn, target.shape)[0]


def _whole_numbers(volume: Volume, where: str) -> Labels:
    array = volume.array
    if array.ndim != 3 or not np.array_equal(array, np.rint(array)):
        mend = "Save the mask with an integer type and one channel"
        raise DataError("the mask has values that are not whole numbers", where=where, mend=mend)
    if array.min() < 0 or array.max() > _LARGEST:
        what = f"the mask has values from {array.min():g} to {array.max():g}"
        raise DataError(what, where=where, mend=f"Use label values between 0 and {_LARGEST}")
    return array.astype(np.int16)


def _read_seg(path: Path, like: Volume, scheme: MaskScheme, where: str) -> Labels:
    mask = read_seg(path, like)
    unknown = [name for name in mask.names if name not in scheme.segments]
    if unknown:
        what = f"the DICOM SEG has segments that other masks do not have: {listing('segment', unknown)}"
        raise DataError(what, where=where, mend="Name all segments with data.structures")
    table = np.array([0, *(scheme.segments[name] for name in mask.names)], np.int16)
    return table[mask.labels]


def _survey_nifti(masks: Mapping[int, Path], structures: Sequence[str], ignore: int | None, where: str) -> MaskScheme:
    if structures:
        return MaskScheme(structures=tuple(structures), ignore=ignore)
    values = {
        path: set(
            np.unique(_whole_numbers(read_nifti(path, where=f"{where} row {row}"), f"{where} row {row}")).tolist()
        )
        for row, path in masks.items()
    }
    found = sorted(set().union(*values.values()) - {0, ignore})
    if not found:
        raise DataError("every mask is empty", where=where, mend="Check that the right column is named")
    if set(found) != set(range(1, found[-1] + 1)) - {ignore}:
        what = f"the masks hold {listing('value', found)}, with gaps"
        raise DataError(what, where=where, mend="Renumber them 1, 2, … or name every value with data.structures")
    names = tuple(f"label-{n}" for n in range(1, found[-1] + 1))
    present = {path: tuple(sorted(v - {0, ignore})) for path, v in values.items()}
    return MaskScheme(structures=names, ignore=ignore, present=present)


def _survey_segs(segs: Mapping[int, Path], structures: Sequence[str], ignore: int | None, where: str) -> MaskScheme:
    names = {row: _segment_names(path, f"{where} row {row}") for row, path in segs.items()}
    longest = max(names.values(), key=len)
    odd = [row for row, own in names.items() if not set(own) <= set(longest)]
    if odd and not set().union(*names.values()) <= set(structures):
        what = (
            f"the DICOM SEG masks disagree about their segments: {', '.join(longest)} against "
            f"{', '.join(names[odd[0]])} ({listing('row', odd)})"
        )
        raise DataError(what, where=where, mend="Name all segments with data.structures")
    segments = _match(set().union(*names.values()), longest, structures, where)
    present = {segs[row]: tuple(sorted({segments[n] for n in own})) for row, own in names.items()}
    final = tuple(structures) or longest
    return MaskScheme(structures=final, segments=segments, ignore=ignore, present=present)


def _match(found: set[str], longest: Sequence[str], structures: Sequence[str], where: str) -> dict[str, int]:
    """Map segment labels to indices: by name where the user's names are those of the files, else by position."""
    wanted = list(structures) or list(longest)
    if found <= set(wanted):
        return {name: i for i, name in enumerate(wanted, 1)}
    if len(longest) == len(wanted) and not found & set(wanted):
        return {name: i for i, name in enumerate(longest, 1)}
    what = f"data.structures ({', '.join(wanted)}) does not fit the segments of the masks ({', '.join(longest)})"
    raise DataError(what, where=where, mend="Use the segments' names, or as many new names as there are segments")


def _segment_names(path: Path, where: str) -> tuple[str, ...]:
    names = open_seg(path, where).names
    if not names:
        raise DataError("the DICOM SEG has no segments", where=where, mend="Export it again")
    return tuple(dict.fromkeys(names))

"""What the masks of a table hold, and which label each structure gets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medtl_monai.data.masks import MaskScheme, is_dicom, is_rtstruct, whole_numbers
from medtl_monai.data.nifti import is_nifti, read_nifti
from medtl_monai.data.table import listing
from medtl_monai.dicom.segfile import open_seg
from medtl_monai.dicom.structures import open_structures
from medtl_monai.errors import DataError, did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """The names in one DICOM mask: all of them, those with an area, and whether their order means something."""

    names: tuple[str, ...]
    filled: tuple[str, ...]
    ordered: bool


def survey_masks(masks: Mapping[int, Path], structures: Sequence[str], ignore: int | None, where: str) -> MaskScheme:
    """Find the structures that the masks of a table hold.

    DICOM files are judged by their headers: by SOP class, then by the names of segments or regions. NIfTI masks are
    read through unless ``structures`` names their values.

    Args:
        masks: Row number to mask file.
        structures: Names given by the user for values 1, 2, …; for DICOM they choose and order segments or regions of
            these names, or, where no segment of a SEG has any of them, rename the segments by position.
        ignore: Value that counts for nothing.
        where: How errors name the table.

    Raises:
        DataError: If the masks disagree, mix DICOM and NIfTI without given names, have values that are not 0, 1, …, n,
            or do not have the given names.
        DicomError: If a DICOM mask cannot be read.
    """
    dicom = {row: path for row, path in masks.items() if is_dicom(path)}
    others = [row for row, path in masks.items() if row not in dicom and not is_nifti(path)]
    if others:
        what = f"masks are neither NIfTI (.nii, .nii.gz) nor DICOM: {listing('row', others)}"
        raise DataError(what, where=where, mend="Convert them to .nii.gz or DICOM SEG")
    if not dicom:
        return _survey_nifti(masks, structures, ignore, where)
    if len(dicom) < len(masks) and not structures:
        mend = "Name the values 1, 2, … with data.structures"
        raise DataError("some masks are DICOM and some NIfTI", where=where, mend=mend)
    found = {row: _names(path, f"{where} row {row}") for row, path in dicom.items()}
    segments, notes = _match(found, structures, where)
    present = {
        dicom[row]: tuple(sorted({segments[name] for name in own.filled if segments[name]}))
        for row, own in found.items()
    }
    final = tuple(structures) or tuple(segments)
    return MaskScheme(structures=final, segments=segments, ignore=ignore, present=present, notes=notes)


def _survey_nifti(masks: Mapping[int, Path], structures: Sequence[str], ignore: int | None, where: str) -> MaskScheme:
    if structures:
        return MaskScheme(structures=tuple(structures), ignore=ignore)
    values = {
        path: set(np.unique(whole_numbers(read_nifti(path, where=f"{where} row {row}"), f"{where} row {row}")).tolist())
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


def _names(path: Path, where: str) -> _Found:
    if is_rtstruct(path, where):
        structures = open_structures(path, where)
        if not structures.filled:
            what = "the structure set has no region that encloses an area"
            raise DataError(what, where=where, mend="Export its contours, or leave the row out")
        return _Found(names=structures.names, filled=structures.filled, ordered=False)
    names = tuple(dict.fromkeys(open_seg(path, where).names))
    return _Found(names=names, filled=names, ordered=True)


def _match(
    found: Mapping[int, _Found], structures: Sequence[str], where: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Map names to labels, 0 for those left out; also return notes."""
    everything = [name for own in found.values() for name in own.names]
    if structures and set(structures) & set(everything):
        return _chosen(found, structures, list(dict.fromkeys(everything)), where)
    longest = max((own.filled for own in found.values()), key=len)
    odd = [row for row, own in found.items() if not set(own.filled) <= set(longest)]
    if odd:
        what = (
            f"the DICOM masks disagree about their segments: {', '.join(longest)} against "
            f"{', '.join(found[odd[0]].filled)} ({listing('row', odd)})"
        )
        raise DataError(what, where=where, mend="Name the segments wanted with data.structures")
    if not structures:
        return {name: i for i, name in enumerate(longest, 1)}, ()
    if len(longest) == len(structures) and all(own.ordered for own in found.values()):
        return {name: i for i, name in enumerate(longest, 1)}, ()
    what = f"data.structures ({', '.join(structures)}) does not fit the segments of the masks ({', '.join(longest)})"
    mend = "Use the segments' names, or for DICOM SEG as many new names as there are segments"
    raise DataError(what, where=where, mend=mend)


def _chosen(
    found: Mapping[int, _Found], structures: Sequence[str], everything: Sequence[str], where: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Choose by name. What is not named is background; what might be a misspelt name is an error."""
    extra = [name for name in everything if name not in structures]
    absent = [name for name in structures if name not in everything]
    if absent and extra:
        what = f"no mask has {absent[0]!r} of data.structures"
        raise DataError(what, where=where, mend=did_you_mean(absent[0], extra))
    twins = {_plain(name): name for name in structures}
    for row, own in found.items():
        for name in own.names:
            twin = twins.get(_plain(name))
            if name in extra and twin is not None and twin not in own.names:
                what = f"the mask has {name!r}, and data.structures has {twin!r}"
                raise DataError(what, where=f"{where} row {row}", mend="Give the region the same name in all files")
    without = [row for row, own in found.items() if not set(own.names) & set(structures)]
    if without:
        what = f"masks have none of data.structures: {listing('row', without)}"
        raise DataError(what, where=where, mend="Leave these rows out, or correct the names")
    notes = [f"segments left out as background: {', '.join(extra[:10])}" + ", …" * (len(extra) > 10)] * bool(extra)
    for name in structures:
        rows = [row for row, own in found.items() if name not in own.names]
        if rows and name not in absent:
            notes.append(f"{len(rows)} of {len(found)} DICOM masks have no {name!r}; it is absent there")
    return {**dict.fromkeys(extra, 0), **{name: i for i, name in enumerate(structures, 1)}}, tuple(notes)


def _plain(name: str) -> str:
    """A name without what people vary: case, blanks, punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())

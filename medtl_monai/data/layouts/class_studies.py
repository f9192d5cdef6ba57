"""DICOM in class folders: every study belongs to the class in whose folder its files lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.inputs import MEND_INPUTS, MEND_SELECT, Inputs, choose_inputs
from medtl_monai.data.join import Source, scan_images
from medtl_monai.data.layouts.class_files import Found
from medtl_monai.data.table import listing
from medtl_monai.dicom import Study, StudyIndex
from medtl_monai.errors import DataError

_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """The images of a case, and the file that says which class it is of."""

    sources: tuple[Source | None, ...] = dataclasses.field(repr=False)
    found: Found

    @property
    def folder(self) -> str:
        """Where it is, below the root."""
        return self.found.file.rpartition("/")[0]


def find_studies(root: Path, files: Sequence[Found], config: DataConfig) -> tuple[list[Placed], tuple[str, ...]]:
    """Scan the folder and return the images of each study, and notes.

    A study is one case, its images chosen by ``data.select`` or ``data.inputs``; two-dimensional images (radiographs,
    mammograms) are a case each.

    Raises:
        DataError: If a study lies in two class folders, its image is not clear, or files are damaged (unless
            ``data.unmatched`` is ``drop``) or outside of the root.
    """
    _refuse_links(root, files)
    index = scan_images(root)
    places = {item.file: item for item in files}
    studies, outside = _studies(root, index, places)
    notes = _left_out(root, index, outside, drop=config.unmatched == "drop")
    inputs = Inputs.of(config)
    placed: list[Placed] = []
    unclear: list[tuple[str, str]] = []
    incomplete = 0
    for study, place in studies:
        found = choose_inputs(study, inputs)
        if inputs.flat_apart and found.flat:
            placed += [Placed(sources=(item,), found=places.get(item.first_file, place)) for item in found.flat]
        elif not found.clear:
            unclear.append((place.file.rpartition("/")[0], found.why_unclear()))
        elif found.incomplete:
            incomplete += 1
        else:
            placed.append(Placed(sources=found.sources, found=place))
    if unclear:
        folders = listing("folder", [folder for folder, _ in unclear], _SHOWN)
        mend = MEND_INPUTS if inputs.names else MEND_SELECT
        raise DataError(f"the image of a study is not clear ({unclear[0][1]}): {folders}", where=root.name, mend=mend)
    if incomplete:
        notes = (*notes, f"{incomplete} studies without all inputs were left out")
    _refuse_lost(root, files, placed)
    return sorted(placed, key=lambda item: (item.found.part, item.found.label, item.found.file)), notes


def _refuse_lost(root: Path, files: Sequence[Found], placed: Sequence[Placed]) -> None:
    lost = sorted({item.place for item in files} - {item.found.place for item in placed})
    if lost:
        names = ["/".join(name for name in place if name) for place in lost]
        what = f"no image can be read from the class {listing('folder', names, _SHOWN)}"
        raise DataError(what, where=root.name, mend="See what 'medtl scan' says of it")


def _refuse_links(root: Path, files: Sequence[Found]) -> None:
    real = root.resolve()
    outside = [item.file for item in files if not (root / item.file).resolve().is_relative_to(real)]
    if outside:
        what = f"links lead out of the folder, and DICOM is not followed there: {listing('file', outside, _SHOWN)}"
        raise DataError(what, where=root.name, mend="Copy the files")


def _studies(root: Path, index: StudyIndex, places: Mapping[str, Found]) -> tuple[list[tuple[Study, Found]], int]:
    """Return the studies in class folders with a file of each, and the number of those that lie elsewhere."""
    inside, torn, outside = [], [], 0
    for study in (study for study in index.studies if study.series):
        files = [file for series in study.series for file in series.files]
        first = {places[file].place if file in places else None: file for file in reversed(files)}
        if set(first) == {None}:
            outside += 1
        elif len(first) > 1:
            torn.append(" and ".join(sorted(first.values())))
        else:
            inside.append((study, places[files[0]]))
    if torn:
        what = f"the files of one study lie in two class folders: {'; '.join(torn[:_SHOWN])}"
        more = f" ({len(torn)} studies in all)" if len(torn) > 1 else ""
        raise DataError(what + more, where=root.name, mend="Keep a study in one folder, or take it out")
    return inside, outside


def _left_out(root: Path, index: StudyIndex, outside: int, *, drop: bool) -> tuple[str, ...]:
    notes = [f"left out, {reason}: {number} files" for reason, number in sorted(index.skipped.items())]
    if index.damaged and not drop:
        first = next(iter(index.damaged.values()))
        what = f"DICOM files are damaged: {listing('file', list(index.damaged), _SHOWN)} ({first.what})"
        raise DataError(what, where=root.name, mend="Replace them, or set data.unmatched=drop to leave them out")
    if index.damaged:
        notes.append(f"left out, damaged: {len(index.damaged)} files")
    if outside:
        notes.append(f"{outside} studies outside of the class folders were left out")
    return tuple(notes)

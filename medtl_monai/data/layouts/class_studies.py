"""DICOM in class folders: every study belongs to the class in whose folder its files lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.join import MEND_SELECT, choose_series, scan_images, select_rules
from medtl_monai.data.layouts.class_files import Found
from medtl_monai.data.table import listing
from medtl_monai.dicom import Series, Study, StudyIndex
from medtl_monai.errors import DataError

_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """The image of a case, and the file that says which class it is of."""

    series: Series = dataclasses.field(repr=False)
    found: Found


def find_studies(root: Path, files: Sequence[Found], config: DataConfig) -> tuple[list[Placed], tuple[str, ...]]:
    """Scan the folder and return the image of each study, and notes.

    A study is one case, its image chosen by ``data.select``; two-dimensional images (radiographs, mammograms) are a
    case each.

    Raises:
        DataError: If a study lies in two class folders, its image is not clear, or files are damaged or outside of
            the root (unless ``data.unmatched`` is ``drop``, for damaged ones).
    """
    _refuse_links(root, files)
    index = scan_images(root)
    places = {item.file: item for item in files}
    studies = [study for study in index.studies if study.series]
    _refuse_torn(root, studies, places)
    notes = _left_out(root, index, drop=config.unmatched == "drop")
    rules = select_rules(config)
    placed: list[Placed] = []
    unclear: list[tuple[str, str]] = []
    for study in studies:
        choice = choose_series(study, rules)
        if choice.clear or (choice.left and not any(series.volumetric for series in choice.left)):
            placed += [Placed(series=s, found=_place(s, places)) for s in choice.left]
        else:
            unclear.append((_folder(study.series[0]), choice.explain()))
    if unclear:
        what = (
            f"the image of a study is not clear ({unclear[0][1]}): {listing('folder', [f for f, _ in unclear], _SHOWN)}"
        )
        raise DataError(what, where=root.name, mend=MEND_SELECT)
    lost = sorted({item.place for item in files} - {item.found.place for item in placed})
    if lost:
        names = ["/".join(name for name in place if name) for place in lost]
        what = f"no image can be read from the class {listing('folder', names, _SHOWN)}"
        raise DataError(what, where=root.name, mend="See what 'medtl scan' says of it")
    return sorted(placed, key=lambda item: (item.found.part, item.found.label, item.series.files[0])), notes


def _place(series: Series, places: Mapping[str, Found]) -> Found:
    return next(places[file] for file in series.files if file in places)


def _refuse_links(root: Path, files: Sequence[Found]) -> None:
    real = root.resolve()
    outside = [item.file for item in files if not (root / item.file).resolve().is_relative_to(real)]
    if outside:
        what = f"links lead out of the folder, and DICOM is not followed there: {listing('file', outside, _SHOWN)}"
        raise DataError(what, where=root.name, mend="Copy the files")


def _refuse_torn(root: Path, studies: Sequence[Study], places: Mapping[str, Found]) -> None:
    torn = []
    for study in studies:
        own = [places[file] for series in study.series for file in series.files if file in places]
        first = {item.place: item.file for item in reversed(own)}
        if len(first) > 1:
            torn.append(" and ".join(sorted(first.values())))
    if torn:
        what = f"the files of one study lie in two class folders: {'; '.join(torn[:_SHOWN])}"
        more = f" ({len(torn)} studies in all)" if len(torn) > 1 else ""
        raise DataError(what + more, where=root.name, mend="Keep a study in one folder, or take it out")


def _left_out(root: Path, index: StudyIndex, *, drop: bool) -> tuple[str, ...]:
    notes = [f"left out, {reason}: {number} files" for reason, number in sorted(index.skipped.items())]
    if index.damaged and not drop:
        name, problem = next(iter(index.damaged.items()))
        what = f"DICOM files are damaged: {listing('file', list(index.damaged), _SHOWN)} ({problem.what})"
        del name
        raise DataError(what, where=root.name, mend="Replace them, or set data.unmatched=drop to leave them out")
    if index.damaged:
        notes.append(f"left out, damaged: {len(index.damaged)} files")
    return tuple(notes)


def _folder(series: Series) -> str:
    return series.files[0].rpartition("/")[0]

"""Matching the rows of a labels table with images: DICOM studies by identifier, or NIfTI files by path."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.inputs import MEND_INPUTS, MEND_SELECT, Input, Inputs, choose_inputs
from medtl_monai.data.nifti import is_nifti
from medtl_monai.data.scanning import scan_studies
from medtl_monai.data.table import Row, Table, listing
from medtl_monai.data.targets import find_file
from medtl_monai.dicom import Series, Study, StudyIndex
from medtl_monai.errors import ConfigError, DataError, did_you_mean

KEYS: Mapping[str, Callable[[Study], str]] = {
    "StudyInstanceUID": lambda study: study.study_instance_uid,
    "AccessionNumber": lambda study: study.accession_number,
    "PatientID": lambda study: study.patient_id,
}
"""Attributes that rows may be joined by, in order of preference."""

Source = Series | Path
"""Where one image of a case is: a DICOM series, or a NIfTI file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """Images found for the rows of a table.

    Attributes:
        images: Row number to one image an input; None where it is missing and will be filled. The first is there.
        notes: What was left out.
    """

    images: Mapping[int, tuple[Source | None, ...]] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()


def join_nifti(table: Table, config: DataConfig) -> Joined:
    """Find the NIfTI file, or files, that each row names, relative to the table's folder.

    Raises:
        DataError: If a column is absent, or files are absent, named twice or not NIfTI.
    """
    inputs = Inputs.of(config)
    columns = [_image_column(table, item, config) for item in inputs.items]
    first, *others = inputs.items
    images, notes = _first_images(table, columns[0], drop=config.unmatched == "drop" or first.missing == "drop")
    found: dict[int, tuple[Source | None, ...]] = {number: (path,) for number, path in images.items()}
    for item, column in zip(others, columns[1:], strict=True):
        own, left_out = _other_images(table, [row for row in table.rows if row.number in found], item, column)
        notes += left_out
        found = {number: (*paths, own[number]) for number, paths in found.items() if number in own}
    _refuse_twice(table, found, columns)
    return Joined(images=found, notes=notes)


def find_images(table: Table, inputs: Inputs) -> dict[int, tuple[Path | None, ...]]:
    """Return the NIfTI files that each row of a table without labels names; None where there is none.

    Raises:
        DataError: If a column is absent, or a file is named twice.
    """
    columns = [table.require(item.column, "the run") for item in inputs.items]
    folder = table.path.parent
    found: dict[int, tuple[Path | None, ...]] = {
        row.number: tuple(None if row.missing(c) else find_file(row[c], folder) or folder / row[c] for c in columns)
        for row in table.rows
    }
    _refuse_twice(table, found, columns)
    return found


def _first_images(table: Table, column: str, *, drop: bool) -> tuple[dict[int, Path], tuple[str, ...]]:
    found = {row.number: find_file(row[column], table.path.parent) for row in table.rows if not row.missing(column)}
    absent = [row for row in table.rows if found.get(row.number) is None]
    if absent and (not drop or len(absent) == len(table.rows)):
        mend = "Paths are relative to the table's folder; data.unmatched=drop leaves such rows out"
        raise table.bad_rows(f"{column} names images that are not there", absent, mend)
    images = {number: path for number, path in found.items() if path is not None}
    _refuse_other_kinds(table, column, images)
    return images, (f"{len(absent)} rows without an image were left out",) if absent else ()


def _other_images(
    table: Table, rows: Sequence[Row], item: Input, column: str
) -> tuple[dict[int, Path | None], tuple[str, ...]]:
    """Return the images of an input other than the first; rows that are left out are not in it."""
    empty = [row for row in rows if row.missing(column)]
    if empty and (item.missing == "error" or (item.missing == "drop" and len(empty) == len(rows))):
        mend = f"Complete the table, or set missing of data.inputs.{item.name} to fill or drop"
        raise table.bad_rows(f"{column} names no image", empty, mend)
    gone = {row.number for row in empty}
    found = {row.number: find_file(row[column], table.path.parent) for row in rows if row.number not in gone}
    absent = [row for row in rows if row.number in found and found[row.number] is None]
    if absent:
        mend = "Paths are relative to the table's folder; leave the cell empty where there is no image"
        raise table.bad_rows(f"{column} names images that are not there", absent, mend)
    _refuse_other_kinds(table, column, {number: path for number, path in found.items() if path is not None})
    if item.missing == "drop":
        return dict(found), (f"{len(empty)} rows without {item.name} were left out",) if empty else ()
    return {row.number: found.get(row.number) for row in rows}, ()


def _refuse_other_kinds(table: Table, column: str, images: Mapping[int, Path]) -> None:
    other = [row for row in table.rows if row.number in images and not is_nifti(images[row.number])]
    if other:
        mend = "Convert them to .nii.gz; for DICOM give the folder with --studies and join by StudyInstanceUID"
        raise table.bad_rows(f"{column} names files that are not NIfTI", other, mend)


def _refuse_twice(table: Table, found: Mapping[int, Sequence[Source | None]], columns: Sequence[str]) -> None:
    paths = {number: [p.resolve() for p in own if isinstance(p, Path)] for number, own in found.items()}
    uses = Counter(path for own in paths.values() for path in own)
    twice = [row for row in table.rows if any(uses[path] > 1 for path in paths.get(row.number, ()))]
    if twice:
        what = f"{' or '.join(columns)} names the same image twice"
        raise table.bad_rows(what, twice, "Keep one row an image" if len(columns) == 1 else "Name each image once")


def _image_column(table: Table, item: Input, config: DataConfig) -> str:
    if item.column not in table.columns:
        key = f"data.inputs.{item.name}.column" if config.inputs else "data.image"
        raise DataError(
            f"there is no studies folder, and the table has no column {item.column!r} of NIfTI paths",
            where=table.path.name,
            mend=f"Give DICOM with --studies, or name the column with {key}. "
            f"{did_you_mean(item.column, table.columns)}",
        )
    return item.column


def join_dicom(table: Table, config: DataConfig, root: Path) -> Joined:
    """Find the one series of the study that each row names by identifier.

    Raises:
        ConfigError: If ``data.key`` is not an attribute that can be joined by.
        DataError: If there is no DICOM image, keys repeat or name several studies, rows and studies do not match
            (unless ``data.unmatched`` is ``drop``), or a study has several series.
    """
    column, key = _key(table, config)
    studies = [study for study in scan_images(root).studies if study.series]
    by_key = defaultdict(list)
    for study in studies:
        by_key[KEYS[key](study).strip()].append(study)
    table.refuse(lambda row: row.missing(column), f"no {key}", "Fill in the key, or choose another with data.key")
    uses = Counter(row[column] for row in table.rows)
    mend = "Keep one row a study" if key != "PatientID" else "Use StudyInstanceUID where patients have several rows"
    table.refuse(lambda row: uses[row[column]] > 1, f"{key} repeats", mend)
    shared = f"{key} belongs to several studies"
    table.refuse(lambda row: len(by_key[row[column]]) > 1, shared, "Join by StudyInstanceUID (data.key)")
    matched = {row.number: by_key[row[column]][0] for row in table.rows if by_key[row[column]]}
    notes = _unmatched(table, config, key, matched, studies)
    images, left_out = _series_of_each(table, matched, Inputs.of(config))
    return Joined(images=images, notes=(*notes, *left_out))


def scan_images(root: Path) -> StudyIndex:
    """Scan a tree that must hold DICOM images.

    Raises:
        DataError: If the folder is absent or holds none.
    """
    if not root.exists():
        raise DataError("no such studies folder", where=root.name, mend="Check data.studies")
    index = scan_studies(root)
    if not index.series:
        seen = ", ".join(f"{n} × {reason}" for reason, n in sorted(index.skipped.items()))
        what = "no DICOM images found" + (f" (skipped: {seen})" if seen else "; the folder holds no files")
        mend = "Check data.studies; NIfTI images are named in a column of the table instead (data.image)"
        if (root / "dataset.json").is_file():
            mend = "It holds a dataset.json: give the folder with --dataset in place of --studies and --labels"
        raise DataError(what, where=root.name, mend=mend)
    return index


def _key(table: Table, config: DataConfig) -> tuple[str, str]:
    wanted = list(KEYS)
    if config.key is not None:
        table.require(config.key, "data.key")
        wanted = [key for key in KEYS if key.casefold() == config.key.casefold()]
        if not wanted:
            raise ConfigError(f"{config.key!r} is not a key", where="data.key", mend=did_you_mean(config.key, KEYS))
    for key in wanted:
        column = table.find(key)
        if column is not None:
            return column, key
    mend = f"Add a column {', '.join(KEYS)}; the table has {listing('column', table.columns)}"
    raise DataError("no column can be joined to the DICOM studies", where=table.path.name, mend=mend)


def _unmatched(
    table: Table, config: DataConfig, key: str, matched: Mapping[int, Study], studies: Sequence[Study]
) -> tuple[str, ...]:
    """Refuse, or note, rows without a study and studies without a row."""
    rows = [row for row in table.rows if row.number not in matched]
    used = {id(study) for study in matched.values()}
    extra = [study for study in studies if id(study) not in used]
    if not matched:
        what = f"none of {len(table.rows)} rows matches any of {len(studies)} studies by {key}"
        raise DataError(what, where=table.path.name, mend=_why(table, key, rows, studies))
    if config.unmatched == "drop":
        notes = [f"{len(rows)} rows without a study were left out"] if rows else []
        return (*notes, *([f"{len(extra)} studies without a row were left out"] if extra else []))
    mend = "Complete the table, or set data.unmatched=drop to leave them out"
    if rows:
        raise table.bad_rows(f"no study has this {key}", rows, f"{_why(table, key, rows, studies)}. {mend}")
    if extra:
        folders = listing("folder", [(study.series[0].first_file.rpartition("/")[0] or ".") + "/" for study in extra])
        what = f"{len(extra)} of {len(studies)} studies have no row ({folders})"
        raise DataError(what, where=table.path.name, mend=mend)
    return ()


def _why(table: Table, key: str, rows: Sequence[Row], studies: Sequence[Study]) -> str:
    """Guess why keys do not match, for the reader only."""
    column = table.find(key) or key
    ours = {row[column].lstrip("0") for row in rows}
    if ours & {KEYS[key](study).strip().lstrip("0") for study in studies}:
        return "Leading zeros seem to be lost, as spreadsheets do: format the column as text"
    for other, read in KEYS.items():
        if other != key and {row[column] for row in rows} & {read(study).strip() for study in studies}:
            return f"The values of this column are found as {other} in the studies: name the column so"
    return "Check that table and studies belong together"


def _series_of_each(
    table: Table, matched: Mapping[int, Study], inputs: Inputs
) -> tuple[dict[int, tuple[Source | None, ...]], tuple[str, ...]]:
    found = {number: choose_inputs(study, inputs) for number, study in matched.items()}
    unclear = [row for row in table.rows if row.number in found and not found[row.number].clear]
    if unclear:
        image = "the images of a study are" if inputs.several else "the image of a study is"
        mend = MEND_INPUTS if inputs.names else MEND_SELECT
        raise table.bad_rows(f"{image} not clear ({found[unclear[0].number].why_unclear()})", unclear, mend)
    complete = {number: images.sources for number, images in found.items() if not images.incomplete}
    gone = len(found) - len(complete)
    if not complete:
        names = " and ".join(item.name for item in inputs.items if item.missing == "drop")
        raise DataError(f"no study is complete: {names} is missing", where=table.path.name, mend=MEND_INPUTS)
    return dict(complete), (f"{gone} studies that miss an input were left out",) if gone else ()

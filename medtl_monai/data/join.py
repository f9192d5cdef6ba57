"""Matching the rows of a labels table with images: DICOM studies by identifier, or NIfTI files by path."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.nifti import is_nifti
from medtl_monai.data.table import Row, Table, listing
from medtl_monai.data.targets import find_file
from medtl_monai.dicom import Series, Study, StudyIndex, scan
from medtl_monai.dicom.select import Rules, narrow
from medtl_monai.errors import ConfigError, DataError, did_you_mean

KEYS: Mapping[str, Callable[[Study], str]] = {
    "StudyInstanceUID": lambda study: study.study_instance_uid,
    "AccessionNumber": lambda study: study.accession_number,
    "PatientID": lambda study: study.patient_id,
}
"""Attributes that rows may be joined by, in order of preference."""

MEND_SELECT = "Say which with data.select (modality, description, orientation, part, …), or keep one series a study"

_SHOWN = 10
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """Images found for the rows of a table.

    Attributes:
        images: Row number to a DICOM series or a NIfTI file.
        notes: What was left out.
    """

    images: Mapping[int, Series | Path] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()


def join_nifti(table: Table, config: DataConfig) -> Joined:
    """Find the NIfTI file that each row names, relative to the table's folder.

    Raises:
        DataError: If the column is absent, or files are absent, named twice or not NIfTI.
    """
    column = _image_column(table, config)
    drop = config.unmatched == "drop"
    found = {row.number: find_file(row[column], table.path.parent) for row in table.rows if not row.missing(column)}
    absent = [row for row in table.rows if found.get(row.number) is None]
    if absent and (not drop or len(absent) == len(table.rows)):
        mend = "Paths are relative to the table's folder; data.unmatched=drop leaves such rows out"
        raise table.bad_rows(f"{column} names images that are not there", absent, mend)
    images = {number: path for number, path in found.items() if path is not None}
    uses = Counter(path.resolve() for path in images.values())
    twice = [row for row in table.rows if row.number in images and uses[images[row.number].resolve()] > 1]
    if twice:
        raise table.bad_rows(f"{column} names the same image twice", twice, "Keep one row an image")
    other = [row for row in table.rows if row.number in images and not is_nifti(images[row.number])]
    if other:
        mend = "Convert them to .nii.gz; for DICOM give the folder with --studies and join by StudyInstanceUID"
        raise table.bad_rows(f"{column} names files that are not NIfTI", other, mend)
    notes = (f"{len(absent)} rows without an image were left out",) if absent else ()
    return Joined(images=images, notes=notes)


def _image_column(table: Table, config: DataConfig) -> str:
    if config.image not in table.columns:
        raise DataError(
            f"there is no studies folder, and the table has no column {config.image!r} of NIfTI paths",
            where=table.path.name,
            mend=f"Give DICOM with --studies, or name the column with data.image. "
            f"{did_you_mean(config.image, table.columns)}",
        )
    return config.image


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
    return Joined(images=_one_series_each(table, matched, select_rules(config)), notes=notes)


def scan_images(root: Path) -> StudyIndex:
    """Scan a tree that must hold DICOM images.

    Raises:
        DataError: If the folder is absent or holds none.
    """
    if not root.exists():
        raise DataError("no such studies folder", where=root.name, mend="Check data.studies")
    index = scan(root)
    if not index.series:
        seen = ", ".join(f"{n} × {reason}" for reason, n in sorted(index.skipped.items()))
        what = "no DICOM images found" + (f" (skipped: {seen})" if seen else "; the folder holds no files")
        mend = "Check data.studies; NIfTI images are named in a column of the table instead (data.image)"
        if (root / "dataset.json").is_file():
            mend = "It holds a dataset.json: give the folder with --dataset in place of --studies and --labels"
        raise DataError(what, where=root.name, mend=mend)
    return index


def select_rules(config: DataConfig) -> Rules:
    """Return the rules of ``data.select``."""
    return Rules.of({name: value for name, value in config.select.model_dump().items() if value is not None})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The series of a study that the rules leave, and those they do not.

    Attributes:
        left: Candidates, best first; the study's image is clear when there is one.
        dropped: Each other series with the reason.
    """

    left: tuple[Series, ...]
    dropped: tuple[tuple[Series, str], ...] = ()

    @property
    def clear(self) -> bool:
        """Whether exactly one is left."""
        return len(self.left) == 1

    def explain(self) -> str:
        """Say in one clause, without identifiers, why the image is not clear: what is left, and what went why."""
        could = _some([item.summary() for item in self.left])
        gone = _some([f"{item.summary()} ({reason})" for item, reason in self.dropped])
        what = f"the study has {len(self.left)} series that could be its image"
        return what + (f": {could}" if could else "") + (f"; left out: {gone}" if gone else "")


def choose_series(study: Study, rules: Rules) -> Choice:
    """Apply rules, then the default preferences: no localizers, derived images or stubs beside others."""
    left, dropped = narrow(study.series, rules)
    for item, reason in dropped:
        _log.debug("%s left out: %s", item.summary(), reason)
    return Choice(left=tuple(left), dropped=tuple(dropped))


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


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
        folders = listing("folder", [study.series[0].files[0].rpartition("/")[0] or "." for study in extra])
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


def _one_series_each(table: Table, matched: Mapping[int, Study], rules: Rules) -> dict[int, Series]:
    choices = {number: choose_series(study, rules) for number, study in matched.items()}
    unclear = [row for row in table.rows if row.number in choices and not choices[row.number].clear]
    if unclear:
        what = choices[unclear[0].number].explain()
        raise table.bad_rows(f"the image of a study is not clear ({what})", unclear, MEND_SELECT)
    return {number: choice.left[0] for number, choice in choices.items()}

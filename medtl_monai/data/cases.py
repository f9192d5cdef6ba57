"""The cases of a run: images joined to labels, known only by pseudonyms."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtl_monai.config import DataConfig, SelectConfig
from medtl_monai.data.grouping import group_rows, refuse_rare_classes
from medtl_monai.data.identity import load_key, pseudonym
from medtl_monai.data.join import MEND_SELECT, Joined, choose_series, join_dicom, join_nifti, select_rules
from medtl_monai.data.masks import Labels, MaskScheme, read_mask, survey_masks
from medtl_monai.data.nifti import is_nifti, nifti_grid, read_nifti
from medtl_monai.data.table import Row, Table, read_table
from medtl_monai.data.target_info import target_info
from medtl_monai.data.targets import Target, Targets, read_targets
from medtl_monai.dicom import Series, Study, Volume, read_volume, scan
from medtl_monai.dicom.description import Description, describe
from medtl_monai.dicom.select import Rules
from medtl_monai.errors import ConfigError, DataError, MedtlError, did_you_mean
from medtl_monai.specs import TargetInfo, TargetKind

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
"""The parts that cases are divided into."""

OnGap = Literal["error", "interpolate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One image with its target; ``repr`` shows pseudonyms only.

    Attributes:
        case_id: 12 hex digits: HMAC of the StudyInstanceUID, or of the path relative to the table.
        group: Pseudonym of the patient, or of the value of ``data.group_by``.
        row: Row of the table, as a spreadsheet counts; 0 without a table.
        split: Given part (train, val, test), if the table gives one.
        image: A DICOM series, or a NIfTI file.
        target: Class index, numbers or label values (NaN = not labelled), a mask file, or None.
        source: Where the image is, relative to the data root: for the terminal, never for files.
        fingerprint: Hash of the image's SOPInstanceUIDs; empty for NIfTI.
        present: Labels that the mask holds, where that is known.
        problem: Why the image cannot be read; raised when it is.
    """

    case_id: str
    group: str
    row: int = 0
    split: str | None = None
    image: Series | Path = dataclasses.field(repr=False)
    target: Target | None = dataclasses.field(default=None, repr=False)
    source: str = dataclasses.field(default="", repr=False)
    fingerprint: str = dataclasses.field(default="", repr=False)
    present: tuple[int, ...] | None = dataclasses.field(default=None, repr=False)
    problem: MedtlError | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseTable:
    """All cases, and how to read them.

    Attributes:
        cases: In the order of the table.
        kind: What the targets are.
        columns: The label columns.
        classes: Class or label names in index order; for masks the structures, background first; empty for numbers.
        scheme: How mask values become labels.
        rules: Which series is a study's image; also says how few slices a volume may have.
        notes: What the user should know about how the table was read.
    """

    cases: tuple[Case, ...]
    kind: TargetKind
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    scheme: MaskScheme | None = dataclasses.field(default=None, repr=False)
    rules: Rules = dataclasses.field(default_factory=Rules, repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        try:
            return self._by_id[case_id]
        except KeyError:
            mend = "Check that the table and MEDTL_ID_KEY are those of the run"
            raise DataError("there is no such case", where=f"case {case_id}", mend=mend) from None

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.case_id: case for case in self.cases}

    @property
    def ids(self) -> tuple[str, ...]:
        """All case ids, in the order of the table."""
        return tuple(case.case_id for case in self.cases)

    @property
    def ignore(self) -> int | None:
        """Mask value that the loss leaves out."""
        return self.scheme.ignore if self.scheme else None

    def info(self, case_ids: Iterable[str]) -> TargetInfo:
        """Describe the targets of the given (training) cases.

        Raises:
            DataError: If a class, label or structure is in none of them, or a number does not vary.
        """
        cases = [self[case_id] for case_id in case_ids]
        return target_info(
            self.kind,
            self.columns,
            self.classes,
            [case.target for case in cases],
            present=[case.present for case in cases],
            ignore=self.ignore,
        )

    def read_volume(self, case: Case, *, on_gap: OnGap = "error", units: str | None = None) -> Volume:
        """Read the image of a case.

        Args:
            case: One of the cases.
            on_gap: What to do with a series that misses slices.
            units: Unit to convert to while reading, such as ``"suvbw"``.

        Raises:
            DataError: If a NIfTI image cannot be used.
            DicomError: If a series does not make a volume.
        """
        with _named(case):
            if case.problem is not None:
                raise case.problem
            if isinstance(case.image, Series):
                return read_volume(case.image, select=self.rules, on_gap=on_gap, units=units)
            return read_nifti(case.image, where="image")

    def describe_image(self, case: Case, *, on_gap: OnGap = "error", units: str | None = None) -> Description:
        """Say what :meth:`read_volume` would return, from headers alone.

        Raises:
            DataError: If a NIfTI image cannot be used.
            DicomError: If a series does not make a volume, as far as headers tell.
        """
        with _named(case):
            if case.problem is not None:
                raise case.problem
            if isinstance(case.image, Series):
                return describe(case.image, select=self.rules, on_gap=on_gap, units=units)
            shape, affine = nifti_grid(case.image, where="image")
            return Description(shape=shape, affine=affine)

    def read_target(self, case: Case, volume: Volume) -> int | NDArray[np.float32] | Labels | None:
        """Return the target of a case.

        Returns:
            The class index; float32 ``[L]`` for label sets and numbers (NaN = not labelled); int16 ``[i, j, k]`` on
            the volume's grid for masks; None without a target.

        Raises:
            DataError: If a mask does not fit its image or holds unknown values.
            DicomError: If a DICOM SEG cannot be placed on the image.
        """
        if not isinstance(case.target, Path):
            return self.label(case)
        with _named(case):
            return read_mask(case.target, volume, self.scheme or MaskScheme(structures=()), where="mask")

    def label(self, case: Case) -> int | NDArray[np.float32] | None:
        """Return the target of a case that is no mask, see :meth:`read_target`; None for a mask."""
        if isinstance(case.target, tuple):
            return np.asarray(case.target, np.float32)
        return None if isinstance(case.target, Path) else case.target


def load_cases(config: DataConfig, kind: TargetKind, *, classes: Sequence[str] | None = None) -> CaseTable:
    """Join images to labels.

    Images come from a DICOM tree (``config.studies``), joined by StudyInstanceUID, AccessionNumber or PatientID; or
    from NIfTI files that a column of the table names. Every value of the table is read as text.

    Args:
        config: Where things are.
        kind: What the label columns hold.
        classes: Classes (for masks with the background) of a finished run: fixed in their order, others are refused,
            and few cases of one are fine.

    Raises:
        ConfigError: If the configuration names no table, no label column, or does not make sense.
        DataError: If rows and images do not match, or labels are missing, unreadable or too few; rows are listed.
    """
    if config.labels is None:
        raise ConfigError("no labels table is named", where="data.labels", mend="Give a CSV file with --labels")
    if config.studies is None and config.select != SelectConfig():
        what = "rules choose among DICOM series, and there is no studies folder"
        raise ConfigError(what, where="data.select", mend="Give DICOM with --studies, or take the rules out")
    table = read_table(config.labels)
    targets = read_targets(table, config, kind, classes)
    joined = join_dicom(table, config, config.studies) if config.studies else join_nifti(table, config)
    rows = [row for row in table.rows if row.number in joined.images and row.number in targets.values]
    if not rows:
        what = "no row has both an image and a label"
        raise DataError(what, where=table.path.name, mend="Check that labels and images are of the same cases")
    unlabelled = len(set(joined.images) - set(targets.values))
    notes = (*joined.notes, *((f"{unlabelled} rows without a label were left out",) if unlabelled else ()))
    made = _make(table, rows, config, joined, targets)
    scheme = _scheme(table, made[0], config, classes) if kind == "mask" else None
    cases = [_with_presence(case, scheme) for case in made[0]]
    names = ("background", *scheme.structures) if scheme else targets.classes
    if classes is None:
        _refuse_rare(cases, kind, names, table.path.name)
    return CaseTable(
        cases=tuple(cases),
        kind=kind,
        columns=tuple(config.target),
        classes=names,
        scheme=scheme,
        rules=select_rules(config),
        notes=(*notes, *made[1]),
    )


def unlabelled_cases(path: Path | Sequence[Path], rules: Rules | None = None) -> list[Case]:
    """Return the cases of a DICOM tree, of the NIfTI files in a folder, or of the given files, for prediction.

    A study whose image is not clear becomes a case that raises when it is read, so that the others go on.

    Args:
        path: The folder or file, or several files.
        rules: Which series is a study's image, where it has several.

    Raises:
        DataError: If there is neither a DICOM image nor a NIfTI file.
    """
    key = load_key()
    rules = rules or Rules()
    if not isinstance(path, Path):
        root = Path(os.path.commonpath([p.parent for p in path])) if path else Path()
        return [case for one in path for case in _unlabelled(one, root, key, rules)]
    return _unlabelled(path, path if path.is_dir() else path.parent, key, rules)


def _unlabelled(path: Path, root: Path, key: bytes, rules: Rules) -> list[Case]:
    if not path.exists():
        raise DataError("no such file or folder", where=path.name, mend="Check the path")
    if path.is_file() and is_nifti(path):
        return [_nifti_case(path, root, key)]
    files = sorted(p for p in path.rglob("*") if p.is_file() and is_nifti(p)) if path.is_dir() else []
    cases = [_study_case(study, key, rules) for study in scan(path).studies if study.series]
    cases += [_nifti_case(file, root, key) for file in files]
    if not cases:
        mend = "Give a folder of DICOM studies or of .nii.gz files"
        raise DataError("neither DICOM images nor NIfTI files found", where=path.name, mend=mend)
    return cases


def _nifti_case(path: Path, root: Path, key: bytes) -> Case:
    source = os.path.relpath(path, root)
    return Case(case_id=pseudonym(key, source), group=pseudonym(key, "row", source), image=path, source=source)


def _study_case(study: Study, key: bytes, rules: Rules) -> Case:
    choice = choose_series(study, rules)
    problem = None if choice.clear else DataError(choice.explain(), mend=MEND_SELECT)
    series = (choice.left or study.series)[0]
    return Case(
        case_id=pseudonym(key, study.study_instance_uid),
        group=pseudonym(key, "patient", study.issuer_of_patient_id.strip(), study.patient_id.strip()),
        image=series,
        source=_folder(series),
        fingerprint=_fingerprint(series),
        problem=problem,
    )


def _make(
    table: Table, rows: Sequence[Row], config: DataConfig, joined: Joined, targets: Targets
) -> tuple[list[Case], tuple[str, ...]]:
    key = load_key()
    images = {row.number: joined.images[row.number] for row in rows}
    groups, notes = group_rows(table, images, config, key)
    splits = _given_splits(table, rows, config)
    cases = []
    for row in rows:
        image = images[row.number]
        source = _folder(image) if isinstance(image, Series) else os.path.relpath(image, table.path.parent)
        name = image.study_instance_uid if isinstance(image, Series) else Path(source).as_posix()
        cases.append(
            Case(
                case_id=pseudonym(key, name),
                group=groups[row.number],
                row=row.number,
                split=splits.get(row.number),
                image=image,
                target=targets.values[row.number],
                source=source,
                fingerprint=_fingerprint(image) if isinstance(image, Series) else "",
            )
        )
    if len({case.case_id for case in cases}) < len(cases):
        raise DataError("two cases have one pseudonym", where=table.path.name, mend="Use another MEDTL_ID_KEY")
    return cases, notes


def _given_splits(table: Table, rows: Sequence[Row], config: DataConfig) -> dict[int, str]:
    if config.split is None:
        return {}
    column = table.require(config.split, "data.split")
    given = {row.number: row[column].lower() for row in rows if not row.missing(column)}
    bad = [row for row in rows if row.number in given and given[row.number] not in PARTS]
    if bad:
        mend = did_you_mean(given[bad[0].number], PARTS)
        raise table.bad_rows(f"{column} is not train, val or test", bad, mend)
    return given


def _scheme(table: Table, cases: Sequence[Case], config: DataConfig, classes: Sequence[str] | None) -> MaskScheme:
    masks = {case.row: case.target for case in cases if isinstance(case.target, Path)}
    structures = list(classes[1:]) if classes else config.structures
    return survey_masks(masks, structures, config.ignore_label, table.path.name)


def _with_presence(case: Case, scheme: MaskScheme | None) -> Case:
    if scheme is None or not isinstance(case.target, Path):
        return case
    return dataclasses.replace(case, present=scheme.present.get(case.target))


def _refuse_rare(cases: Sequence[Case], kind: TargetKind, classes: Sequence[str], where: str) -> None:
    if kind == "class":
        labels = [(case.group, classes[case.target]) for case in cases if isinstance(case.target, int)]
        refuse_rare_classes(labels, classes, where)
    elif kind == "classes":
        sets = [(case.group, case.target) for case in cases if isinstance(case.target, tuple)]
        for value, what in ((1.0, "labels set"), (0.0, "labels not set")):
            labels = [(group, name) for group, own in sets for name, v in zip(classes, own, strict=True) if v == value]
            refuse_rare_classes(labels, classes, where, what)


def _folder(series: Series) -> str:
    return series.files[0].rpartition("/")[0] or series.files[0] if series.files else ""


def _fingerprint(series: Series) -> str:
    uids = sorted(f"{item.header.instance_uid} {item.frame}" for item in series.slices)
    return hashlib.sha256("\n".join(uids).encode()).hexdigest() if uids else ""


class _named:  # noqa: N801
    """Put the case id in front of the place of an error raised inside."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, MedtlError):
            where = f"case {self.case.case_id}" + (f", {error.where}" if error.where else "")
            raise type(error)(error.what, where=where, mend=error.mend) from error

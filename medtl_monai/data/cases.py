"""From a configuration to cases: images joined to labels, known only by pseudonyms."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medtl_monai.config import DataConfig
from medtl_monai.data.case import Case, fingerprints, folder_of
from medtl_monai.data.case_table import CaseTable, OnGap
from medtl_monai.data.grouping import group_rows, refuse_rare_classes
from medtl_monai.data.identity import load_key, pseudonym
from medtl_monai.data.inputs import MEND_INPUTS, MEND_SELECT, Inputs, choose_inputs
from medtl_monai.data.join import Joined, Source, find_images, join_dicom, join_nifti
from medtl_monai.data.layouts import open_dataset, with_manifest
from medtl_monai.data.mask_survey import survey_masks
from medtl_monai.data.masks import MaskScheme
from medtl_monai.data.nifti import is_nifti
from medtl_monai.data.scanning import scan_studies
from medtl_monai.data.table import Row, Table, read_table
from medtl_monai.data.targets import Targets, read_targets
from medtl_monai.dicom import Series, Study
from medtl_monai.errors import ConfigError, DataError, MedtlError, did_you_mean
from medtl_monai.specs import TargetKind

__all__ = ["HELD_OUT", "PARTS", "Case", "CaseTable", "OnGap", "Part", "load_cases", "unlabelled_cases"]

Part = Literal["train", "val", "test", "held-out"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
"""The parts that cases are divided into."""
HELD_OUT: Part = "held-out"
"""With folds: the part that no fold sees. ``test`` is then what the fold is tested on."""

TABLE_SUFFIX = ".csv"


def load_cases(config: DataConfig, kind: TargetKind, *, classes: Sequence[str] | None = None) -> CaseTable:
    """Join images to labels.

    Images come from a DICOM tree (``config.studies``), joined by StudyInstanceUID, AccessionNumber or PatientID; or
    from NIfTI files that a column of the table names. Every value of the table is read as text. A data set in a known
    layout (``config.dataset``) brings table and images.

    Args:
        config: Where things are.
        kind: What the label columns hold.
        classes: Classes (for masks with the background) of a finished run: fixed in their order, others are refused,
            and few cases of one are fine.

    Raises:
        ConfigError: If the configuration names no table, no label column, or does not make sense.
        DataError: If rows and images do not match, or labels are missing, unreadable or too few; rows are listed.
    """
    opened = open_dataset(config, kind)
    config = opened.config if opened else config
    table = opened.listing.table if opened else _labels_table(config)
    joined = opened.listing.joined if opened else None
    inputs = Inputs.of(config)
    inputs.check(config, dicom=config.studies is not None or joined is not None)
    targets = read_targets(table, config, kind, classes)
    if joined is None:
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
        inputs=inputs,
        notes=(
            *(opened.notes if opened else ()),
            *notes,
            *made[1],
            *(scheme.notes if scheme else ()),
            *_filled(cases, inputs),
        ),
    )


def _labels_table(config: DataConfig) -> Table:
    if config.labels is None:
        mend = "Give a CSV file with --labels, or a whole data set with --dataset"
        raise ConfigError("no labels table is named", where="data.labels", mend=mend)
    return read_table(config.labels)


def _filled(cases: Sequence[Case], inputs: Inputs) -> list[str]:
    counts = [(item.name, sum(case.sources[n] is None for case in cases)) for n, item in enumerate(inputs.items)]
    return [f"{name} is missing in {count} of {len(cases)} cases and is filled" for name, count in counts if count]


def unlabelled_cases(path: Path | Sequence[Path], inputs: Inputs | None = None) -> list[Case]:
    """Return cases for prediction: of a DICOM tree, a folder of NIfTI files, a CSV table that names them, or files.

    Of a data set with a known ``dataset.json`` these are its test cases.

    A study whose images are not clear becomes a case that raises when it is read, so that the others go on.

    Args:
        path: The folder, table or file, or several files.
        inputs: Which images a case has.

    Raises:
        DataError: If there is neither a DICOM image nor a NIfTI file, or files of several images a case are given
            without a table that says which belong together.
    """
    key = load_key()
    inputs = inputs or Inputs()
    if not isinstance(path, Path):
        root = Path(os.path.commonpath([p.parent for p in path])) if path else Path()
        return [case for one in path for case in _unlabelled(one, root, key, inputs)]
    return _unlabelled(path, path if path.is_dir() else path.parent, key, inputs)


def _unlabelled(path: Path, root: Path, key: bytes, inputs: Inputs) -> list[Case]:
    if not path.exists():
        raise DataError("no such file or folder", where=path.name, mend="Check the path")
    if path.is_file() and path.suffix.lower() == TABLE_SUFFIX:
        table = read_table(path)
        return [_nifti_case(paths, root, key, inputs, row) for row, paths in find_images(table, inputs).items()]
    if path.is_file() and is_nifti(path):
        return [_nifti_case((path,), root, key, inputs)]
    layout = with_manifest(path) if path.is_dir() else None
    if layout is not None and layout.tests is not None:
        # Not all that lies in the folder: label maps are NIfTI files too.
        return [_nifti_case(paths, root, key, inputs) for paths in _tests(layout.tests(path), inputs)]
    files = sorted(p for p in path.rglob("*") if _is_image(p)) if path.is_dir() else []
    cases = [case for study in scan_studies(path).studies if study.series for case in _study_cases(study, key, inputs)]
    if files and inputs.several and not cases:
        raise _apart(inputs, path.name)
    cases += [_nifti_case((file,), root, key, inputs) for file in files]
    if not cases:
        mend = "Give a folder of DICOM studies or of .nii.gz files"
        raise DataError("neither DICOM images nor NIfTI files found", where=path.name, mend=mend)
    return cases


def _tests(table: Table, inputs: Inputs) -> list[tuple[Path | None, ...]]:
    """Return the files of each test case: the columns of the run, whose only one may have had another name."""
    if inputs.several or len(table.columns) > 1:
        return list(find_images(table, inputs).values())
    return [(table.path.parent / row[table.columns[0]],) for row in table.rows]


def _is_image(path: Path) -> bool:
    # macOS writes ._x.nii.gz beside x.nii.gz on other file systems.
    return is_nifti(path) and not path.name.startswith(".") and path.is_file()


def _apart(inputs: Inputs, where: str = "") -> DataError:
    columns = ", ".join(item.column for item in inputs.items)
    what = f"a case has {len(inputs.items)} images ({', '.join(inputs.names)}), and files do not say which go together"
    return DataError(what, where=where, mend=f"Give a CSV table with a row a case and the columns {columns}")


def _nifti_case(paths: Sequence[Path | None], root: Path, key: bytes, inputs: Inputs, row: int = 0) -> Case:
    first, *others = paths
    source = f"row {row}" if first is None else os.path.relpath(first, root)
    problem = _apart(inputs) if len(paths) < len(inputs.items) else None
    lacking = [
        i.name or "image" for i, p in zip(inputs.items, paths, strict=False) if p is None and i.missing != "fill"
    ]
    if lacking and problem is None:
        problem = DataError(f"the case has no {lacking[0]}", mend="Name its file in the table")
    return Case(
        case_id=pseudonym(key, source),
        group=pseudonym(key, "row", source),
        row=row,
        image=first or root,
        others=tuple(others) if problem is None else (),
        source=source,
        problem=problem,
    )


def _study_cases(study: Study, key: bytes, inputs: Inputs) -> list[Case]:
    found = choose_inputs(study, inputs)
    if inputs.flat_apart and found.flat:
        return [_dicom_case(study, key, (series,), shared=len(found.flat)) for series in found.flat]
    problem = None
    if not found.clear:
        problem = DataError(found.why_unclear(), mend=MEND_INPUTS if inputs.names else MEND_SELECT)
    elif found.incomplete:
        missing = next(choice for choice in found.choices if not choice.left)
        problem = DataError(missing.explain(), mend=MEND_INPUTS)
    first = found.sources[0] or (found.choices[0].left or study.series)[0]
    others = () if problem else found.sources[1:]
    return [_dicom_case(study, key, (first, *others), problem=problem)]


def _dicom_case(
    study: Study,
    key: bytes,
    sources: tuple[Series, *tuple[Series | None, ...]],
    *,
    shared: int = 1,
    problem: MedtlError | None = None,
) -> Case:
    first, *others = sources
    return Case(
        case_id=pseudonym(key, _study_name(first, shared)),
        group=pseudonym(key, "patient", study.issuer_of_patient_id.strip(), study.patient_id.strip()),
        image=first,
        others=tuple(others),
        source=folder_of(first),
        fingerprints=fingerprints(sources),
        problem=problem,
    )


def _make(
    table: Table, rows: Sequence[Row], config: DataConfig, joined: Joined, targets: Targets
) -> tuple[list[Case], tuple[str, ...]]:
    key = load_key()
    firsts = {row.number: _first(joined.images[row.number]) for row in rows}
    groups, notes = group_rows(table, firsts, config, key)
    splits = _given_splits(table, rows, config)
    shared = Counter(image.study_instance_uid for image in firsts.values() if isinstance(image, Series))
    cases = []
    for row in rows:
        image = firsts[row.number]
        source = folder_of(image) if isinstance(image, Series) else os.path.relpath(image, table.path.parent)
        name = (
            _study_name(image, shared[image.study_instance_uid])
            if isinstance(image, Series)
            else Path(source).as_posix()
        )
        cases.append(
            Case(
                case_id=pseudonym(key, name),
                group=groups[row.number],
                row=row.number,
                split=splits.get(row.number),
                image=image,
                others=joined.images[row.number][1:],
                target=targets.values[row.number],
                source=source,
                fingerprints=fingerprints(joined.images[row.number]),
            )
        )
    if len({case.case_id for case in cases}) < len(cases):
        raise DataError("two cases have one pseudonym", where=table.path.name, mend="Use another MEDTL_ID_KEY")
    return cases, notes


def _study_name(series: Series, shared: int) -> str:
    """Return what a case id is made from: the study, and where several cases share it (radiographs) the image too."""
    first = series.slices[0]
    uid = series.study_instance_uid
    return uid if shared < 2 else "\0".join((uid, first.header.instance_uid, str(first.frame)))


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
    scheme = survey_masks(masks, structures, config.ignore_label, table.path.name)
    return dataclasses.replace(scheme, off_grid=config.off_grid_masks)


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


def _first(images: Sequence[Source | None]) -> Source:
    if images[0] is None:
        raise DataError("a case has no first image", mend=MEND_INPUTS)
    return images[0]

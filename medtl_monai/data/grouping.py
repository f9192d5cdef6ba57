"""Which cases belong together: by patient, or by a column the user names."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.identity import pseudonym
from medtl_monai.data.table import Table
from medtl_monai.dicom import Series
from medtl_monai.errors import DataError

PATIENT_COLUMNS = ("PatientID", "patient", "subject", "subjectid", "participantid")
"""Names (apart from case and punctuation) of columns that are taken for the patient of a NIfTI image."""

_FEW = 5


def group_rows(
    table: Table, images: Mapping[int, Series | Path], config: DataConfig, key: bytes
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return row number to pseudonymous group, and notes.

    Raises:
        DataError: If the ``data.group_by`` column is absent or has gaps, or patients cannot be told apart.
    """
    if config.group_by is not None:
        return _by_column(table, images, table.require(config.group_by, "data.group_by"), key), ()
    series = {number: image for number, image in images.items() if isinstance(image, Series)}
    if series:
        return _by_patient(table, series, key), ()
    column = table.find(*PATIENT_COLUMNS)
    if column is not None:
        groups = _by_column(table, images, column, key)
        _refuse_one_value(table, groups, f"column {column!r}")
        return groups, (f"cases are grouped by column {column!r}",)
    folder = table.path.parent
    groups = {number: pseudonym(key, "row", os.path.relpath(str(image), folder)) for number, image in images.items()}
    # What a folder's layout has to say of patients, the layout says itself.
    return groups, () if table.generated else (
        "the table has no patient column: each row counts as a patient of its own. Set data.group_by if patients have "
        "several images",
    )


def _by_column(table: Table, images: Mapping[int, object], column: str, key: bytes) -> dict[int, str]:
    rows = [row for row in table.rows if row.number in images]
    empty = [row for row in rows if row.missing(column)]
    if empty:
        raise table.bad_rows(f"no value in the grouping column {column!r}", empty, "Fill it in")
    return {row.number: pseudonym(key, "group", row[column]) for row in rows}


def _by_patient(table: Table, series: Mapping[int, Series], key: bytes) -> dict[int, str]:
    empty = [row for row in table.rows if row.number in series and not series[row.number].patient_id.strip()]
    if empty:
        raise table.bad_rows("PatientID is empty in the images", empty, _mend(table))
    groups = {
        number: pseudonym(key, "patient", image.issuer_of_patient_id.strip(), image.patient_id.strip())
        for number, image in series.items()
    }
    _refuse_one_value(table, groups, "PatientID in the images")
    return groups


def _refuse_one_value(table: Table, groups: Mapping[int, str], what: str) -> None:
    """Refuse a stand-in such as ANONYMOUS: one "patient" who owns most of the studies."""
    most = max(Counter(groups.values()).values())
    if len(groups) > _FEW and most > len(groups) / 2:
        text = f"{what} is the same for {most} of {len(groups)} cases, so patients cannot be told apart"
        raise DataError(text, where=table.path.name, mend=_mend(table))


def _mend(table: Table) -> str:
    if table.generated:
        return "Set data.group_by to folder if the folders below the classes are patients, or use a table (--labels)"
    column = table.find(*PATIENT_COLUMNS)
    example = f", such as {column!r}" if column else ""
    return f"Set data.group_by to a column of the table that tells patients apart{example}"


def refuse_rare_classes(
    labels: Sequence[tuple[str, str]], classes: Sequence[str], where: str, what: str = "classes found"
) -> None:
    """Refuse classes that fewer than two groups have: they cannot be both learnt and tested.

    Args:
        labels: One ``(group, class name)`` for each case and class it has.
        classes: All class names.
        where: How the error names the table.
        what: How the error speaks of the classes.

    Raises:
        DataError: That names the classes.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for group, name in labels:
        groups[name].add(group)
    rare = [name for name in classes if len(groups[name]) < 2]
    if rare:
        counts = ", ".join(f"{name!r} ({len(groups[name])})" for name in rare)
        text = f"{what} in fewer than two patients: {counts}"
        raise DataError(text, where=where, mend="Add cases of other patients, or leave the class out")

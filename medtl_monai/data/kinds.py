"""Telling from a labels table what kind of target its columns hold."""

from __future__ import annotations

from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.layouts import dataset_kind
from medtl_monai.data.table import read_table
from medtl_monai.data.targets import YES_NO, find_file, number_of
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.specs import TargetKind

_FILES = (".nii", ".nii.gz", ".dcm")
_MANY = 10


def infer_kind(config: DataConfig) -> TargetKind:
    """Say what the target columns (or the data set) hold, for choosing a head when none is named.

    Files are masks, lists such as ``a;b`` and several columns of 0 and 1 are several classes, more than ten distinct
    numbers (or any with a fraction) are numbers, everything else is a class.

    Raises:
        ConfigError: If no table or target is given, or columns of different kinds are mixed.
        DataError: If the table cannot be read or a column is not there.
    """
    if config.dataset is not None:
        return dataset_kind(config)
    if config.labels is None or not config.target:
        raise ConfigError(
            "data.labels and data.target are needed",
            mend="Give a CSV table and its label column (--labels --target), or a whole data set (--dataset)",
        )
    table = read_table(config.labels)
    columns = [table.require(name, "data.target") for name in config.target]
    values = {column: [row[column] for row in table.rows if not row.missing(column)] for column in columns}
    folders = (table.path.parent, config.studies)
    kinds = {column: _kind(texts, len(columns) > 1, folders) for column, texts in values.items()}
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"the target columns are of different kinds ({', '.join(f'{c}: {k}' for c, k in kinds.items())})",
            where=config.labels.name,
            mend="Name columns of one kind",
        )
    return next(iter(kinds.values()))


def _kind(values: list[str], one_of_several: bool, folders: tuple[Path | None, ...]) -> TargetKind:
    if values and all(v.lower().endswith(_FILES) or find_file(v, *folders) is not None for v in values):
        return "mask"
    if one_of_several and {v.lower() for v in values} <= YES_NO.keys():
        return "classes"
    if any(";" in v for v in values):
        return "classes"
    numbers = {number_of(v) for v in values}
    if None in numbers:
        return "class"
    fractions = any(n is not None and not n.is_integer() for n in numbers)
    return "number" if one_of_several or fractions or len(numbers) > _MANY else "class"

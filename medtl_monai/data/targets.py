"""Label columns read as targets: classes, label sets, numbers or mask files."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.table import MISSING, Row, Table, listing, natural
from medtl_monai.errors import ConfigError, DataError, did_you_mean
from medtl_monai.specs import TargetKind

Target = int | tuple[float, ...] | Path
"""A class index, numbers or label values (NaN = not labelled), or the file of a mask."""

_MANY_CLASSES = 20
YES_NO = {"1": 1.0, "true": 1.0, "yes": 1.0, "1.0": 1.0, "0": 0.0, "false": 0.0, "no": 0.0, "0.0": 0.0}
"""What the cells of label columns may say (in any case)."""

_EMPTY_SET = frozenset({"none", "-"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets of a table.

    Attributes:
        values: Row number to target; rows without one are left out.
        classes: Class or label names in index order; empty for numbers and masks.
    """

    values: Mapping[int, Target]
    classes: tuple[str, ...] = ()


def read_targets(table: Table, config: DataConfig, kind: TargetKind, known: Sequence[str] | None = None) -> Targets:
    """Read the target of every row.

    Args:
        table: The labels table.
        config: Names the columns (``target``), the positive class, and what to do with rows without a value.
        kind: What the columns hold.
        known: Classes of a finished run, in their order; others are then refused.

    Raises:
        ConfigError: If no column is named, or ``data.positive`` does not fit.
        DataError: If a column is absent, values are missing (unless ``data.unmatched`` is ``drop``) or cannot be read;
            rows are listed as a spreadsheet numbers them.
    """
    if not config.target:
        mend = f"Name one with --target. {did_you_mean('', table.columns)}"
        raise ConfigError("no label column is named", where="data.target", mend=mend)
    columns = [table.require(column, "data.target") for column in config.target]
    rows = _labelled(table, columns, drop=config.unmatched == "drop")
    if kind == "class":
        return _read_class(table, rows, columns, config.positive, known)
    if kind == "classes":
        return _read_label_sets(table, rows, columns, known)
    if kind == "number":
        return _read_numbers(table, rows, columns)
    return _read_masks(table, rows, columns, config.studies)


def _labelled(table: Table, columns: Sequence[str], *, drop: bool) -> list[Row]:
    empty = [row for row in table.rows if all(row.missing(column) for column in columns)]
    if empty and not drop:
        what = f"no value in {listing('column', columns)}"
        raise table.bad_rows(what, empty, "Fill them in, or set data.unmatched=drop to leave these rows out")
    gone = {row.number for row in empty}
    left = [row for row in table.rows if row.number not in gone]
    if not left:
        raise DataError("no row has a label", where=table.path.name, mend="Fill in the label column")
    return left


def _read_class(
    table: Table, rows: Sequence[Row], columns: Sequence[str], positive: str | None, known: Sequence[str] | None
) -> Targets:
    if len(columns) != 1:
        mend = "Name one, or use a head for several labels (--head multilabel)"
        raise ConfigError(f"a class target has {len(columns)} columns", where="data.target", mend=mend)
    column = columns[0]
    names = list(known) if known else _class_names(table, rows, column)
    _refuse_unknown(table, rows, lambda row: row[column] not in names, f"{column} has classes the run does not know")
    if positive is not None and not known:
        names = _put_last(names, positive)
    index = {name: i for i, name in enumerate(names)}
    return Targets(values={row.number: index[row[column]] for row in rows}, classes=tuple(names))


def _class_names(table: Table, rows: Sequence[Row], column: str) -> list[str]:
    names = sorted({row[column] for row in rows}, key=natural)
    numbers = [number_of(name) for name in names]
    where = table.path.name
    if all(n is not None for n in numbers):
        values = [n for n in numbers if n is not None]
        whole = all(v.is_integer() for v in values)
        if not whole or (len(names) > _MANY_CLASSES and len(names) > len(rows) / 10):
            what = f"column {column!r} looks like a number ({len(names)} different values), not like a class"
            raise DataError(what, where=where, mend="Use --head regression, or give the classes names")
        names = [name for _, name in sorted(zip(values, names, strict=True))]
        _refuse_twins(names, column, where, lambda name: str(number_of(name)))
    _refuse_twins(names, column, where, str.casefold)
    if len(names) < 2:
        what = f"column {column!r} has one class only, {names[0]!r}"
        raise DataError(what, where=where, mend="Add cases of another class")
    return names


def _refuse_twins(names: Sequence[str], column: str, where: str, same: Callable[[str], str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(same(name), name)
        if twin != name:
            what = f"column {column!r} spells one class in two ways, {twin!r} and {name!r}"
            raise DataError(what, where=where, mend="Write it the same way in every row")


def _put_last(names: Sequence[str], positive: str) -> list[str]:
    if positive not in names:
        mend = did_you_mean(positive, names)
        raise ConfigError(f"there is no class {positive!r}", where="data.positive", mend=mend)
    if len(names) != 2:
        mend = "Leave data.positive out"
        raise ConfigError(f"a positive class is for two classes, not {len(names)}", where="data.positive", mend=mend)
    return [*(name for name in names if name != positive), positive]


def _read_label_sets(table: Table, rows: Sequence[Row], columns: Sequence[str], known: Sequence[str] | None) -> Targets:
    if len(columns) == 1:
        return _read_lists(table, rows, columns[0], known)
    if known and list(known) != list(columns):
        mend = f"Name the columns of the run: {', '.join(known)}"
        raise ConfigError("the label columns are not those of the run", where="data.target", mend=mend)
    for column in columns:
        bad = [row for row in rows if not row.missing(column) and row[column].lower() not in YES_NO]
        if bad:
            raise table.bad_rows(f"{column} is neither 0 nor 1", bad, "Use 1, 0, or nothing for 'not known'")
    values = {row.number: tuple(YES_NO.get(row[column].lower(), math.nan) for column in columns) for row in rows}
    return Targets(values=values, classes=tuple(columns))


def _read_lists(table: Table, rows: Sequence[Row], column: str, known: Sequence[str] | None) -> Targets:
    sets = {row.number: _label_set(row[column]) for row in rows}
    names = tuple(known) if known else tuple(sorted(frozenset().union(*sets.values()), key=natural))
    if not names:
        raise DataError(f"column {column!r} names no label", where=table.path.name, mend="Write lists such as a;b")
    _refuse_twins(names, column, table.path.name, str.casefold)
    what = f"{column} has labels the run does not know"
    _refuse_unknown(table, rows, lambda row: not sets[row.number] <= set(names), what)
    values = {number: tuple(float(name in labels) for name in names) for number, labels in sets.items()}
    return Targets(values=values, classes=names)


def _label_set(text: str) -> frozenset[str]:
    # "none" is how a case without any label is told from a case that nobody has labelled.
    if text.lower() in _EMPTY_SET:
        return frozenset()
    return frozenset(part.strip() for part in text.split(";") if part.strip())


def _refuse_unknown(table: Table, rows: Sequence[Row], wrong: Callable[[Row], bool], what: str) -> None:
    bad = [row for row in rows if wrong(row)]
    if bad:
        raise table.bad_rows(what, bad, "Correct these rows or leave them out")


def _read_numbers(table: Table, rows: Sequence[Row], columns: Sequence[str]) -> Targets:
    for column in columns:
        bad = [row for row in rows if not row.missing(column) and number_of(row[column]) is None]
        if bad:
            mend = "Write numbers with a decimal point, without units"
            raise table.bad_rows(f"{column} is not a number", bad, mend)
    values = {row.number: tuple(_value_or_nan(row[column]) for column in columns) for row in rows}
    return Targets(values=values)


def number_of(text: str) -> float | None:
    """Return the finite number that a text is, or None."""
    # float() takes digit groups such as 1_000, which no table means.
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _value_or_nan(text: str) -> float:
    value = None if text.lower() in MISSING else number_of(text)
    return math.nan if value is None else value


def _read_masks(table: Table, rows: Sequence[Row], columns: Sequence[str], studies: Path | None) -> Targets:
    if len(columns) != 1:
        mend = "Name the one column that holds the mask files"
        raise ConfigError(f"a mask target has {len(columns)} columns", where="data.target", mend=mend)
    found = {row.number: find_file(row[columns[0]], table.path.parent, studies) for row in rows}
    absent = [row for row in rows if found[row.number] is None]
    if absent:
        mend = "Paths are relative to the table's folder, or to the studies folder"
        raise table.bad_rows(f"{columns[0]} names files that are not there", absent, mend)
    values = {number: path for number, path in found.items() if path is not None}
    uses = Counter(values.values())
    repeated = [row for row in rows if uses[values[row.number]] > 1]
    if repeated:
        raise table.bad_rows(f"{columns[0]} names the same file twice", repeated, "Give each case its own mask")
    return Targets(values=values)


def find_file(text: str, *folders: Path | None) -> Path | None:
    """Return the file that ``text`` names relative to the first folder that has it, or None."""
    candidates = (folder / text for folder in folders if folder is not None)
    return next((path for path in candidates if path.is_file()), None)

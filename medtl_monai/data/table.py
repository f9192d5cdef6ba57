"""A CSV table in which every value is text: ``00123`` stays ``00123``, and rows keep their spreadsheet number."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from medtl_monai.errors import DataError, did_you_mean

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null"})
"""Texts (in any case) that stand for "no value"."""

_SHOWN = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        number: As a spreadsheet counts: the header is row 1.
        values: Column to stripped text.
        name: How messages call the row, where it has no number that the user could look up.
    """

    number: int
    values: dict[str, str] = dataclasses.field(repr=False)
    name: str = dataclasses.field(default="", repr=False)

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def missing(self, column: str) -> bool:
        """Whether the column has no value here."""
        return self.values[column].lower() in MISSING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A labels table as read.

    Attributes:
        path: The CSV file.
        columns: Column names in order.
        rows: Its rows; blank lines are left out but counted.
        generated: Whether it was made from the layout of a folder; ``path`` is then a place in that folder.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    generated: bool = False

    def require(self, column: str, key: str) -> str:
        """Return ``column`` if the table has it.

        Args:
            column: The column wanted.
            key: The config key that asked for it, for the error.

        Raises:
            DataError: If it is absent, with the nearest names.
        """
        if column not in self.columns:
            mend = did_you_mean(column, self.columns)
            raise DataError(f"{key} names a column {column!r} that is not there", where=self.path.name, mend=mend)
        return column

    def find(self, *names: str) -> str | None:
        """Return the first column that equals one of the names apart from case, spaces, '_' and '-'."""
        plain = {_plain(c): c for c in reversed(self.columns)}
        return next((plain[_plain(n)] for n in names if _plain(n) in plain), None)

    def bad_rows(self, what: str, rows: Sequence[Row], mend: str) -> DataError:
        """Return an error that lists rows by number, or by name where the table is not a file."""
        listed = listing("case", [r.name for r in rows]) if self.generated else listing("row", [r.number for r in rows])
        return DataError(f"{what}: {listed}", where=self.path.name, mend=mend)

    def refuse(self, wrong: Callable[[Row], bool], what: str, mend: str) -> None:
        """Raise a DataError that lists the rows for which ``wrong`` holds, if there are any."""
        rows = [row for row in self.rows if wrong(row)]
        if rows:
            raise self.bad_rows(what, rows, mend)


def read_table(path: Path) -> Table:
    """Read a CSV file (comma, semicolon or tab; UTF-8 with or without a byte order mark).

    Raises:
        DataError: If it cannot be read, is empty, has unnamed or repeated columns, or ragged rows.
    """
    where = path.name
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = list(csv.reader(_without_nul(file, where), delimiter=_delimiter(path), strict=True))
    except FileNotFoundError:
        raise DataError("no such labels table", where=where, mend="Check data.labels") from None
    except UnicodeDecodeError:
        raise DataError("the labels table is not UTF-8 text", where=where, mend="Save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"the labels table cannot be read ({problem})", where=where, mend="Check the file") from None
    if not records or not any(cell.strip() for cell in records[0]):
        raise DataError("the labels table has no header row", where=where, mend="Name the columns in its first line")
    columns = tuple(cell.strip() for cell in records[0])
    _check_columns(columns, where)
    rows = [(n, [cell.strip() for cell in r]) for n, r in enumerate(records[1:], 2) if any(c.strip() for c in r)]
    ragged = [n for n, record in rows if len(record) != len(columns)]
    if ragged:
        what = f"rows do not have {len(columns)} values like the header: {listing('row', ragged)}"
        raise DataError(what, where=where, mend="Quote values that hold the separator")
    if not rows:
        raise DataError("the labels table has no rows", where=where, mend="Add one row a case")
    made = tuple(Row(number=n, values=dict(zip(columns, record, strict=True))) for n, record in rows)
    return Table(path=path, columns=columns, rows=made)


def listing(word: str, items: Sequence[object], shown: int = _SHOWN) -> str:
    """Return ``"rows 2, 5, 9"``, cut after ten with the number of all."""
    plural = word if len(items) == 1 else f"{word}s"
    text = ", ".join(str(item) for item in items[:shown])
    return f"{plural} {text}" + (f", … ({len(items)} in all)" if len(items) > shown else "")


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which ``T2`` comes before ``T10``."""
    parts = re.split(r"(\d+)", text)
    pieces = [(1, int(part), "") if part.isdecimal() else (2, 0, part.casefold()) for part in parts if part]
    return (*pieces, (0, 0, text))


def _delimiter(path: Path) -> str:
    # Only the header decides: cells may hold lists such as "a;b".
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    return max(",;\t", key=header.count)


def _without_nul(lines: Iterable[str], where: str) -> Iterable[str]:
    for line in lines:
        if "\0" in line:
            raise DataError("the labels table is not text", where=where, mend="Save it as CSV UTF-8")
        yield line


def _check_columns(columns: tuple[str, ...], where: str) -> None:
    if "" in columns:
        n = columns.index("") + 1
        raise DataError(f"column {n} of the labels table has no name", where=where, mend="Name it or take it out")
    repeated = sorted({c for c in columns if columns.count(c) > 1})
    if repeated:
        what = f"the labels table repeats the {listing('column', repeated)}"
        raise DataError(what, where=where, mend="Give each column its own name")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()

"""What a layout is: a way to arrange a data set in a folder, which tells its images, labels and often its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtl_monai.config import DataConfig
from medtl_monai.data.join import Joined
from medtl_monai.data.table import Row, Table
from medtl_monai.specs import TargetKind

IMAGE, LABEL, CLASS, SPLIT, FOLDER = "image", "label", "class", "split", "folder"
"""Columns of the tables that layouts make."""

Named = tuple[str, dict[str, str]]
"""A case's name, for messages, and its cells."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """What a folder says about its data before any image is looked at.

    Attributes:
        kind: What its labels are.
        settings: Keys of ``data`` with the values that the layout gives them; what the user sets wins.
        fixed: Those of them that the user cannot set otherwise, because they say what the folder holds.
    """

    kind: TargetKind
    settings: Mapping[str, Any]
    fixed: frozenset[str] = frozenset({"target", "image"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """The cases of a folder.

    Attributes:
        table: One row a labelled case, in memory only.
        found: What was found, in one clause.
        notes: What the user should know.
        joined: The image of each row, where the table does not name files.
    """

    table: Table
    found: str
    notes: tuple[str, ...] = ()
    joined: Joined | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    Attributes:
        name: Its value of ``data.layout``.
        title: How messages call it.
        profile: From a folder, and what the user has set, to what it says about its data.
        read: From a folder and the completed configuration to its cases.
        tests: From a folder to the test cases in it, labelled or not, one row each; None where the layout has none.
    """

    name: str
    title: str
    profile: Callable[[Path, DataConfig], Profile]
    read: Callable[[Path, DataConfig], Listing]
    tests: Callable[[Path], Table] | None = None


def made_table(path: Path, columns: Sequence[str], rows: Sequence[Named]) -> Table:
    """Return a table in memory whose rows are numbered from 1 and known by their names.

    Args:
        path: A file in the data set's folder, for messages; cells that name files are relative to that folder.
        columns: Its columns; other cells are left out.
        rows: Name and cells of each row.
    """
    made = tuple(
        Row(number=n, name=name, values={column: cells[column] for column in columns})
        for n, (name, cells) in enumerate(rows, 1)
    )
    return Table(path=path, columns=tuple(columns), rows=made, generated=True)

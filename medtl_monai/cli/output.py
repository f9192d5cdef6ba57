"""Printing: data on stdout, everything else on stderr. rich is imported when something is printed with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from medtl_monai.cli.terminal import output, shown

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
"""Columns when the output is not a terminal: rows then stay on one line."""


def print_json(value: Any) -> None:
    """Print a value as JSON, ASCII only so that no locale can break it."""
    output().write(json.dumps(shown(value), indent=2) + "\n")


def console() -> Console:
    """Return a console on stdout; cells are never taken for markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(file=output(), width=width, markup=False, highlight=False, emoji=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without frames."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Before cells are folded: afterwards a name may be spread over two lines.
        table.add_row(*shown(list(row)))
    console().print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values below one another; a value that is empty is left out."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, shown(value))
    console().print(table)


def print_note(text: str) -> None:
    """Print a remark on stderr."""
    _print_stderr("note:", "bold yellow", text)


def print_error(text: str) -> None:
    """Print an error on stderr, without breaking lines: paths stay whole."""
    _print_stderr("error:", "bold red", text if text.endswith((".", "?", "!")) else f"{text}.")


def _print_stderr(label: str, style: str, text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((label, style), " ", text)
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)

"""Options that every command has, in the same words everywhere.

A command declares ``plugin: PluginOption = None`` and ``debug: DebugOption = False``, and ``json: JsonOption = False``
where it prints data, and ``redact_paths: RedactOption = False`` where it
reads data files (it then calls :func:`medtl_monai.cli.terminal.hide` on their root); then ``host = load_host(plugin)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medtl_monai.cli.terminal import is_redacting, redact
from medtl_monai.host import Host


def _debug(ctx: typer.Context, value: bool) -> bool:
    # main() made the object and reads it after an error.
    if value and isinstance(ctx.obj, dict):
        ctx.obj["debug"] = True
    return value


def _redact(value: bool) -> bool:
    # Eager: from here on, whatever else is wrong with the command line.
    if value:
        redact()
    return is_redacting()


PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Load a one-file plugin as well. Repeatable.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", callback=_debug, is_eager=True, help="Show the traceback of an error.")
]


RedactOption = Annotated[
    bool,
    typer.Option(
        "--redact-paths",
        callback=_redact,
        is_eager=True,
        help="Show pseudonyms in place of names of data files and folders. MEDTL_REDACT_PATHS=1 does so everywhere.",
    ),
]


def load_host(plugin: Sequence[Path] | None) -> Host:
    """Return the host with the one-file plugins that the user named.

    Raises:
        PluginError: If one of them cannot be loaded.
    """
    return Host.load(plugin or ())

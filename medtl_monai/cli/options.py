"""Options that every command has, in the same words everywhere.

A command declares ``plugin: PluginOption = None`` and ``debug: DebugOption = False``, and ``json: JsonOption = False``
where it prints data; then ``host = load_host(plugin)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medtl_monai.host import Host


def _debug(ctx: typer.Context, value: bool) -> bool:
    # main() made the object and reads it after an error.
    if value and isinstance(ctx.obj, dict):
        ctx.obj["debug"] = True
    return value


PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Load a one-file plugin as well. Repeatable.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", callback=_debug, is_eager=True, help="Show the traceback of an error.")
]


def load_host(plugin: Sequence[Path] | None) -> Host:
    """Return the host with the one-file plugins that the user named.

    Raises:
        PluginError: If one of them cannot be loaded.
    """
    return Host.load(plugin or ())

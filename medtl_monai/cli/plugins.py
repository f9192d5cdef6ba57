"""``medtl plugins``: every plugin that was found, and why one does not work."""

from __future__ import annotations

from typing import Annotated

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.cli.output import print_fields, print_json, print_note, print_table
from medtl_monai.host import KINDS, PLURALS, PluginRecord

app = typer.Typer(cls=ListOrShow, add_completion=False)


@app.command("list")
def list_plugins(plugin: PluginOption = None, json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the plugins; 'medtl plugins show NAME' tells all about one.

    A plugin that is broken, blocked or incompatible is listed with the reason; the others are not affected.
    """
    host = load_host(plugin)
    records = host.plugins
    if json:
        print_json([record.to_json() for record in records])
    else:
        print_table(("Name", "Version", "State", "Offers"), [_row(record) for record in records])
    for warning in (*host.warnings, *(w for record in records for w in record.warnings)):
        print_note(warning)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="distribution/entry-point, either of the two, or a file name.")],
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything about one plugin."""
    record = load_host(plugin).plugin(name)
    if json:
        print_json(record.to_json())
        return
    print_fields(
        [
            ("Name", record.name),
            ("Distribution", record.distribution),
            ("Version", record.version),
            ("Entry point", record.entry_point),
            ("Module", record.module),
            ("File", str(record.path or "")),
            ("SHA-256", record.sha256),
            ("State", record.state),
            ("Reason", record.reason),
            ("Warnings", "\n".join(record.warnings)),
            *((PLURALS[kind].capitalize(), "\n".join(record.offers(kind))) for kind in KINDS),
        ]
    )


def _row(record: PluginRecord) -> tuple[str, str, str, str]:
    counts = [(len(record.offers(kind)), kind) for kind in KINDS]
    offers = ", ".join(f"{n} {kind if n == 1 else PLURALS[kind]}" for n, kind in counts if n)
    return record.name, record.version, record.state, record.reason or offers or "nothing"

"""``medtl policies``: how layers are frozen and thawed."""

from __future__ import annotations

from typing import Annotated

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.catalogue import print_entry, print_list
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.host import Entry

app = typer.Typer(cls=ListOrShow, add_completion=False)


@app.command("list")
def list_policies(
    pattern: Annotated[str | None, typer.Argument(help="Names to list, with wildcards: 'l*'.")] = None,
    *,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the freeze policies; 'medtl policies show NAME' tells all about one."""
    host = load_host(plugin)
    print_list(host, "policy", pattern, lambda _: True, json=json, columns=("Options",), cells=_cells)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name, or distribution:name.")],
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything about one freeze policy."""
    print_entry(load_host(plugin), "policy", name, json=json)


def _cells(entry: Entry) -> tuple[str]:
    return (", ".join(parameter.name for parameter in entry.spec.parameters) or "-",)

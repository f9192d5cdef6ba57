"""``medtl heads``: what can be learnt."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.catalogue import print_entry, print_list
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.host import Entry
from medtl_monai.specs import HeadSpec

app = typer.Typer(cls=ListOrShow, add_completion=False)


@app.command("list")
def list_heads(
    pattern: Annotated[str | None, typer.Argument(help="Names to list, with wildcards: '*class*'.")] = None,
    *,
    dims: Annotated[int | None, typer.Option(min=2, max=3, help="Only for 2D or 3D images.")] = None,
    task: Annotated[str | None, typer.Option(help="Only for a task, such as classification.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the task heads; 'medtl heads show NAME' tells all about one."""

    def keep(entry: Entry) -> bool:
        spec = _spec(entry)
        return (dims is None or dims in spec.spatial_dims) and task in (None, spec.task)

    columns = ("Task", "Target", "Dims")
    print_list(load_host(plugin), "head", pattern, keep, json=json, columns=columns, cells=_cells)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name, or distribution:name.")],
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything about one head: its task, what it needs of a backbone, its options."""
    print_entry(load_host(plugin), "head", name, json=json)


def _spec(entry: Entry) -> HeadSpec:
    return cast(HeadSpec, entry.spec)


def _cells(entry: Entry) -> tuple[str, str, str]:
    spec = _spec(entry)
    return spec.task, spec.target, ", ".join(map(str, spec.spatial_dims))

"""``medtl policies``: how layers are frozen and thawed."""

from __future__ import annotations

from typing import Annotated

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.catalogue import print_entry, print_list
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.errors import ConfigError
from medtl_monai.host import Entry, Host

app = typer.Typer(cls=ListOrShow, add_completion=False)

_HEAD = "classification"
_EPOCHS = 30


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
    name: Annotated[str, typer.Argument(help="A name, distribution:name, or policies combined as 'a * b'.")],
    backbone: Annotated[
        str | None,
        typer.Option(help="Print the policy's table for this backbone (or run folder), its weights taken as loaded."),
    ] = None,
    head: Annotated[str | None, typer.Option(help=f"Head in the table. Default: {_HEAD}.")] = None,
    epochs: Annotated[int | None, typer.Option(help=f"Epochs in the table. Default: {_EPOCHS}.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything about one freeze policy, or with --backbone what trains when."""
    host = load_host(plugin)
    if backbone is not None:
        _print_preview(host, name, backbone, head or _HEAD, _EPOCHS if epochs is None else epochs, json=json)
        return
    if head is not None or epochs is not None:
        option = "--head" if head is not None else "--epochs"
        raise ConfigError("it shapes the table for a backbone", where=option, mend="Add --backbone NAME")
    if any(sign in name for sign in "*()"):
        mend = "Add --backbone NAME to see what they do together"
        raise ConfigError("several policies have no description of their own", where=f"policy {name!r}", mend=mend)
    print_entry(host, "policy", name, json=json)


def _print_preview(host: Host, policy: str, backbone: str, head: str, epochs: int, *, json: bool) -> None:
    from medtl_monai.cli.output import print_json, print_note
    from medtl_monai.cli.plan import print_policy
    from medtl_monai.training.preview import preview

    table = preview(host, policy, backbone=backbone, head=head, epochs=epochs)
    if json:
        print_json(table.summary())
        return
    print_policy(table.summary())
    if table.max_plateaus:
        print_note("a plateau is training.plateau_patience epochs without a better validation metric")


def _cells(entry: Entry) -> tuple[str]:
    return (", ".join(parameter.name for parameter in entry.spec.parameters) or "-",)

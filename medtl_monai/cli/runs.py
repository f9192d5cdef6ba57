"""``medtl runs``: what was trained, and how it went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.cli.output import print_json, print_note, print_table

app = typer.Typer(add_completion=False)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="A folder of run folders.")] = Path("runs"),
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the runs below a folder."""
    from medtl_monai.runs import list_runs

    load_host(plugin)
    found = list_runs(folder)
    if json:
        print_json(found)
    elif not found:
        print_note(f"no runs below {folder}. Make one with 'medtl train'.")
    else:
        columns = ("Run", "Status", "Task", "Backbone", "Start", "Policy", "Epochs", "Metric", "Val", "Test")
        print_table(columns, [_cells(run) for run in found])


def _cells(run: dict[str, Any]) -> tuple[str, ...]:
    epochs = "-" if run["epochs"] is None else str(run["epochs"])
    names = (run["run"], run["status"], run["task"], run["backbone"], run["start"], run["policy"], epochs)
    return (*names, run["metric"] or "-", _number(run["val"]), _number(run["test"]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

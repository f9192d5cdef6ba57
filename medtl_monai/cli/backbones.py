"""``medtl backbones``: what can be fine-tuned."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.catalogue import print_entry, print_list
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.host import Entry
from medtl_monai.specs import BackboneSpec

app = typer.Typer(cls=ListOrShow, add_completion=False)


@app.command("list")
def list_backbones(
    pattern: Annotated[str | None, typer.Argument(help="Names to list, with wildcards: 'resnet*'.")] = None,
    *,
    dims: Annotated[int | None, typer.Option(min=2, max=3, help="Only for 2D or 3D images.")] = None,
    modality: Annotated[str | None, typer.Option(help="Only those meant for a DICOM modality, such as CT.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the backbones; 'medtl backbones show NAME' tells all about one."""

    def keep(entry: Entry) -> bool:
        wanted = _spec(entry).input
        fits = not modality or not wanted.modality or modality.upper() in {m.upper() for m in wanted.modality}
        return fits and dims in (None, wanted.spatial_dims)

    columns = ("Dims", "Modality", "Stages", "Weights")
    print_list(load_host(plugin), "backbone", pattern, keep, json=json, columns=columns, cells=_cells)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name, or distribution:name.")],
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show everything about one backbone: its stages, the input it wants, its weights and options."""
    print_entry(load_host(plugin), "backbone", name, json=json)


def _spec(entry: Entry) -> BackboneSpec:
    return cast(BackboneSpec, entry.spec)


def _cells(entry: Entry) -> tuple[str, str, str, str]:
    spec = _spec(entry)
    weights = ", ".join(w.id for w in spec.weights) or "-"
    return str(spec.input.spatial_dims), ", ".join(spec.input.modality) or "any", str(len(spec.stages)), weights

"""``medtl weights``: pretrained weights on offer, which are on this machine, and fetching them beforehand."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.catalogue import weights_here
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.cli.output import print_fields, print_json, print_note, print_table
from medtl_monai.specs import BackboneSpec

if TYPE_CHECKING:
    from medtl_monai.transfer.downloaded import Downloaded

app = typer.Typer(cls=ListOrShow, add_completion=False)


@app.command("list")
def list_weights(
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the weights that plugins offer, whether they are on this machine, and the folder of downloads."""
    from medtl_monai.transfer.downloaded import downloaded, is_offline, weights_folder

    entries = load_host(plugin).entries("backbone")
    offered = [(entry, weights) for entry in entries for weights in cast(BackboneSpec, entry.spec).weights]
    folder, offline = weights_folder(), is_offline()
    files = downloaded(folder)
    if json:
        rows = [{"backbone": e.qualified, **dataclasses.asdict(w), "here": weights_here(w)} for e, w in offered]
        print_json({"folder": str(folder), "offline": offline, "downloaded_bytes": _sum(files), "weights": rows})
        return
    print_fields(
        [
            ("Downloads", f"{folder}{' (MEDTL_OFFLINE: nothing is downloaded)' if offline else ''}"),
            ("Files", f"{len(files)}, {_sum(files) / 1e6:.1f} MB"),
        ]
    )
    if not offered:
        print_note("no plugin offers weights: give your own with --weights, or start from a finished run")
        return
    typer.echo()
    columns = ("Backbone", "Weights", "Size", "Licence", "On this machine")
    table = [
        (e.name, w.id, f"{w.bytes / 1e6:.1f} MB", w.license, "yes" if weights_here(w) else "no") for e, w in offered
    ]
    print_table(columns, table)


@app.command("get")
def get(
    source: Annotated[
        str, typer.Argument(help="An id that the backbone offers, an https address, or hf://OWNER/REPOSITORY/PATH.")
    ],
    backbone: Annotated[str | None, typer.Option(help="The backbone that offers them.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Download weights now, for a machine that has no network later. Nothing is read but the bytes."""
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.training.weights import fetch_offered, fetch_own
    from medtl_monai.transfer.download import hash_file, require_hash

    host = load_host(plugin)
    spec = cast(BackboneSpec, host.resolve("backbone", backbone).entry.spec) if backbone else None
    offered = {weights.id: weights for weights in spec.weights} if spec else {}
    with closing_bars(RichReporter(quiet=json)) as reporter:
        if source in offered:
            found = fetch_offered(offered[source], reporter)
            sha256 = require_hash(found.path, offered[source].sha256, source)
        else:
            unknown = "Name its backbone with --backbone, or give an address"
            found, expected = fetch_own(source, reporter, unknown=unknown)
            sha256 = require_hash(found.path, expected, source) if expected else hash_file(found.path)
    if json:
        size = found.path.stat().st_size
        print_json({"origin": found.origin, "path": str(found.path), "sha256": sha256, "bytes": size})
        return
    print_fields([("From", found.origin), ("File", str(found.path)), ("SHA-256", sha256)])


def _sum(files: list[Downloaded]) -> int:
    return sum(each.bytes for each in files)

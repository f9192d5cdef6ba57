"""``medtl cache``: what was decoded or downloaded once and kept on this disk, and removing it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtl_monai.cli.application import ListOrShow
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.cli.output import print_fields, print_json, print_note, print_table
from medtl_monai.errors import ConfigError

if TYPE_CHECKING:
    from medtl_monai.config import CacheConfig
    from medtl_monai.data.cache.usage import Freed, Stored
    from medtl_monai.transfer.downloaded import Downloaded

app = typer.Typer(cls=ListOrShow, add_completion=False)

_SHOWN = 20
_DAY = 86_400

FolderOption = Annotated[
    Path | None, typer.Option(help="A cache folder. Default: MEDTL_CACHE, else the user's own.", show_default=False)
]


@app.command("list")
def show(
    folder: FolderOption = None,
    every: Annotated[bool, typer.Option("--all", help=f"All entries; default: the {_SHOWN} used last.")] = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show where the cache is, how large it is, and its entries. Entries are known by hashes only."""
    from medtl_monai.config import CacheConfig
    from medtl_monai.data.cache.places import scans_folder
    from medtl_monai.data.cache.usage import entries, other_bytes, scans
    from medtl_monai.transfer.downloaded import downloaded, weights_folder

    load_host(plugin)
    config = CacheConfig(folder=folder)
    place, enabled = _place(config)
    found, remembered, weights = entries(place), scans(scans_folder()), downloaded(weights_folder())
    if json:
        print_json(
            {
                "folder": str(place),
                "enabled": enabled,
                "bound_bytes": int(config.max_gib * 2**30),
                "bytes": sum(each.bytes for each in found) + other_bytes(place),
                "entries": [_plain(each) for each in found],
                "scans_folder": str(scans_folder()),
                "scans": [_plain(each) for each in remembered],
                "weights_folder": str(weights_folder()),
                "weights": [_plain(each) for each in weights],
            }
        )
        return
    size = sum(each.bytes for each in found)
    print_fields(
        [
            ("Preprocessed images", f"{place}{'' if enabled else ' (MEDTL_CACHE switches it off)'}"),
            ("", ""),
            ("Entries", f"{len(found)}, {_size(size)} of at most {config.max_gib:g} GiB (cache.max_gib)"),
            ("Last used", _ago(max((each.used for each in found), default=0.0))),
            ("Remembered scans", f"{len(remembered)}, {_size(sum(e.bytes for e in remembered))} in {scans_folder()}"),
            ("Downloaded weights", f"{len(weights)}, {_size(sum(e.bytes for e in weights))} in {weights_folder()}"),
        ]
    )
    rows: list[tuple[str, Stored | Downloaded]] = [("image", each) for each in reversed(found)]
    rows += [("scan", each) for each in reversed(remembered)] + [("weights", each) for each in reversed(weights)]
    if rows:
        typer.echo()
        shown = rows if every else rows[:_SHOWN]
        print_table(
            ("Entry", "Kind", "Size", "Last used"),
            [(each.name[:12], kind, _size(each.bytes), _ago(each.used)) for kind, each in shown],
        )
        if len(shown) < len(rows):
            print_note(f"{len(rows) - len(shown)} more; show them with --all")


@app.command("clear")
def clear(
    folder: FolderOption = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what was not used for so many days.")
    ] = None,
    scans: Annotated[bool, typer.Option("--scans", help="Remembered scans as well.")] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Downloaded weights as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Remove preprocessed images. Nothing is lost: the next run makes them again."""
    from medtl_monai.config import CacheConfig
    from medtl_monai.data.cache import usage
    from medtl_monai.data.cache.places import STAMPS, is_cache, scans_folder
    from medtl_monai.transfer import downloaded

    load_host(plugin)
    place, _ = _place(CacheConfig(folder=folder))
    days = older_than or 0.0
    _confirm(place, scans, weights, older_than, yes)
    freed = usage.Freed()
    # Where nothing was ever cached there is nothing to remove; any other folder that is not ours is refused.
    if is_cache(place) or (place.exists() and any(place.iterdir())):
        freed += usage.clear(place, older_than_days=days)
        _forget(place / STAMPS, days)
    gone = usage.clear_scans(scans_folder(), older_than_days=days) if scans else usage.Freed()
    fetched = downloaded.clear(downloaded.weights_folder(), older_than_days=days) if weights else []
    files = usage.Freed(len(fetched), sum(each.bytes for each in fetched))
    if json:
        print_json({"images": _freed(freed), "scans": _freed(gone), "weights": _freed(files)})
        return
    typer.echo(f"removed {freed.entries} images: {_size(freed.bytes)} freed")
    if scans:
        typer.echo(f"removed {gone.entries} remembered scans: {_size(gone.bytes)} freed")
    if weights:
        typer.echo(f"removed {files.entries} downloaded weights: {_size(files.bytes)} freed")


def _confirm(place: Path, scans: bool, weights: bool, older_than: float | None, yes: bool) -> None:
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here", where="medtl cache clear", mend="Say so with --yes")
    what = "the preprocessed images" + (", remembered scans" if scans else "")
    what += ", downloaded weights" if weights else ""
    age = f" not used for {older_than:g} days" if older_than else ""
    if not typer.confirm(f"Remove {what} in {place}{age}?"):
        typer.echo("nothing was removed")
        raise typer.Exit


def _place(config: CacheConfig) -> tuple[Path, bool]:
    """Return the folder, and whether runs use it: it can be shown and cleared while it is switched off."""
    from medtl_monai.data.cache.places import choose_folder, default_folder

    place = choose_folder(config)
    return (place, True) if place is not None else (config.folder or default_folder(), False)


def _forget(stamps: Path, days: float) -> None:
    from medtl_monai.data.cache.stamps import Stamps

    if not days:
        stamps.unlink(missing_ok=True)
    elif stamps.exists():
        Stamps(stamps, b"").forget(days)


def _plain(each: Stored | Downloaded) -> dict[str, Any]:
    return {"name": each.name, "bytes": each.bytes, "used": round(each.used)}


def _freed(freed: Freed) -> dict[str, int]:
    return {"entries": freed.entries, "bytes": freed.bytes}


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _ago(moment: float) -> str:
    if not moment:
        return ""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("days", _DAY), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"

"""``medtl key``: the key of case ids, and how a team comes to share one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, load_host
from medtl_monai.cli.output import print_fields, print_json, print_note
from medtl_monai.errors import ConfigError

app = typer.Typer(add_completion=False)


@app.command()
def key(
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the key to a new file, mode 0600.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Make the key in a file your own.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --import: let another key give way; it is kept beside the new one.")
    ] = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show where the key of case ids is and its fingerprint; export or import it. The key itself is never printed.

    Two people with the same fingerprint get the same case ids and splits. Send the file as you would a password.
    """
    load_host(plugin)
    from medtl_monai.data.identity import export_key, fingerprint, import_key, key_path, key_source, load_key

    if export is not None and import_ is not None:
        raise ConfigError("a key cannot be exported and imported at once", where="--import", mend="Give one of the two")
    if replace and import_ is None:
        raise ConfigError("there is nothing to replace the key with", where="--replace", mend="Add --import FILE")
    if import_ is not None and (kept := import_key(import_, replace=replace)) is not None:
        print_note(f"the key that was there is kept as {kept.name}; runs made with it need it")
    if export is not None:
        export_key(export)
    source, mark = key_source(), fingerprint(load_key())
    if import_ is not None and source != key_path():
        print_note(f"{source} comes first, so the imported key is not the one in use")
    if json:
        print_json({"source": str(source), "fingerprint": mark, "exported": str(export) if export else None})
        return
    print_fields([("Key", _home(source)), ("Fingerprint", mark), ("Exported to", str(export or ""))])


def _home(source: str | Path) -> str:
    """Write the home folder as ``~``."""
    if isinstance(source, Path) and source.is_relative_to(Path.home()):
        return str(Path("~") / source.relative_to(Path.home()))
    return str(source)

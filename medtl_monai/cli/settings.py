"""From command-line flags to a run's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from medtl_monai.config import FLAGS, RunConfig, load_config, parse_set
from medtl_monai.host import Host

ConfigArgument = Annotated[Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="A YAML configuration.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any configuration key. Repeatable.", show_default=False),
]


def build_config(file: Path | None, flags: dict[str, Any], sets: Sequence[str] | None) -> RunConfig:
    """Lay flags, then ``--set`` items, over the file.

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """
    overrides = {FLAGS[name]: value for name, value in flags.items() if value is not None}
    return load_config(file, {**overrides, **parse_set(list(sets or []))})


def host_for(config: RunConfig, plugin: Sequence[Path] | None) -> Host:
    """Return the host with the one-file plugins of the configuration and of the command line.

    Raises:
        PluginError: If one of them cannot be loaded.
    """
    return Host.load(merge(config.plugins, plugin))


def merge(known: Sequence[Path], given: Sequence[Path] | None) -> list[Path]:
    """Return plugin files without those named twice; a file that was given replaces one of the same name."""
    names = {path.name for path in given or ()}
    return [*(path for path in known if path.name not in names), *(given or ())]

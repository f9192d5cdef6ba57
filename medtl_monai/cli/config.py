"""``medtl config``: what a configuration resolves to, and what may be in one."""

from __future__ import annotations

from typing import Annotated

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption, load_host
from medtl_monai.cli.output import print_json
from medtl_monai.cli.settings import ConfigArgument, SetOption, build_config

app = typer.Typer(add_completion=False)


@app.command()
def config(
    config: ConfigArgument = None,
    schema: Annotated[
        bool, typer.Option("--schema/--show", help="The JSON schema of configurations, or the resolved configuration.")
    ] = False,
    sets: SetOption = None,
    redact_paths: RedactOption = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the resolved configuration, or the schema of configurations."""
    from medtl_monai.config import RunConfig, dump

    load_host(plugin)
    settings = build_config(config, {}, sets)
    if schema:
        print_json(RunConfig.model_json_schema())
    elif json:
        print_json(settings.model_dump(mode="json"))
    else:
        typer.echo(dump(settings), nl=False)

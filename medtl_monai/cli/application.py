"""The root command, which imports a command's module when it is called, and groups with a default command."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from medtl_monai import __version__
from medtl_monai.cli import COMMANDS
from medtl_monai.cli.lighten import lighten
from medtl_monai.cli.options import DebugOption


class LazyGroup(TyperGroup):
    """Lists commands from the table; imports a command's module only to run it or to show its own help."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name=name, help=line) for name, line in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the name, the imported command and the arguments left for it."""
        if args[0] in COMMANDS:
            return args[0], load_command(args[0]), args[1:]
        return super().resolve_command(ctx, args)


class ListOrShow(TyperGroup):
    """Makes ``list`` the command that runs when no other is named: ``medtl backbones 'resnet*' --dims 3``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the subcommand first: the one named anywhere among the arguments, else ``list``."""
        if args[:1] == ["list"] or (ctx.resilient_parsing and not args):
            return super().parse_args(ctx, args)
        # "list" itself may be the value of an option, the other names hardly are.
        named = next((argument for argument in args if argument in self.commands and argument != "list"), None)
        if named is not None:
            args.remove(named)
        return super().parse_args(ctx, [named or "list", *args])


def load_command(name: str) -> Any:
    """Import ``medtl_monai.cli.<name>`` and return its ``app`` as a command of that name."""
    module = importlib.import_module(f"medtl_monai.cli.{name.replace('-', '_')}")
    command = typer.main.get_command(module.app)
    command.name = name
    for each in (command, *getattr(command, "commands", {}).values()):
        lighten(each)
    return command


def application() -> Any:
    """Return the root command."""
    app = typer.Typer(cls=LazyGroup, pretty_exceptions_enable=False)
    app.callback()(_root)
    return lighten(typer.main.get_command(app))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"medtl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Adapt pretrained networks to your own medical images."""

"""The command line, walked through typer's own objects."""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from typing import Any

from generator.markdown import code, fenced, prose, table
from medtl_monai.cli import COMMANDS
from medtl_monai.cli.application import application, load_command

# typer adds these to every command; they are described once, with the root command.
_COMPLETION = {"install_completion", "show_completion"}


def page() -> str:
    """Return the page of commands."""
    root = application()
    parts = [f"## medtl\n\n{fenced('medtl [OPTIONS] COMMAND [ARGS]...', 'console')}\n{_parameters(root.params)}"]
    for name, line in COMMANDS.items():
        command = load_command(name)
        parts.append(f"## medtl {name}\n\n{prose(line)}\n")
        below = getattr(command, "commands", None)
        if below is None:
            parts.append(_command(f"medtl {name}", command))
        for sub, each in (below or {}).items():
            shown = f"medtl {name}" if sub == "list" else f"medtl {name} {sub}"
            parts.append(f"### {shown}\n\n{_command(shown, each)}" if sub != "list" else _command(shown, each))
    return "\n".join(parts)


def _command(shown: str, command: Any) -> str:
    params = [p for p in command.params if p.name not in _COMPLETION]
    arguments = " ".join(_argument(p) for p in params if not _is_option(p))
    usage = f"{shown} {arguments} [OPTIONS]".replace("  ", " ")
    return f"{fenced(usage, 'console')}\n{prose(command.help or '')}\n\n{_parameters(params)}"


def _parameters(params: list[Any]) -> str:
    rows = []
    for parameter in params:
        if getattr(parameter, "hidden", False):
            continue
        names = (
            " / ".join([*parameter.opts, *parameter.secondary_opts]) if _is_option(parameter) else _argument(parameter)
        )
        rows.append((code(names), _type(parameter), _default(parameter), prose(parameter.help or "")))
    return table(("name", "value", "default", "meaning"), rows) if rows else ""


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts) and parameter.opts[0].startswith("-")


def _argument(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper()
    return shown if parameter.required or shown.startswith("[") else f"[{shown}]"


def _type(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    if parameter.metavar:
        return code(parameter.metavar)
    return _name(parameter.type_descriptor.annotation) + (", repeatable" if parameter.multiple else "")


def _name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " or ".join(code(str(value)) for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(a) for a in typing.get_args(annotation) if a is not types.NoneType)
    if origin is not None:
        return _name(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(code(str(member.value)) for member in annotation)
    names = {pathlib.Path: "path", str: "text", int: "integer", float: "number", bool: "yes or no"}
    return names.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    return "" if default is None or default is False else code(str(default))

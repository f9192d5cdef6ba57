"""Google docstrings and values as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`~?([^`]+)`")
_CODE = re.compile(r"(``?[^`]+``?)")


def prose(text: str) -> str:
    """Return reST prose as Markdown: roles become code, and nothing outside code is taken for mark-up."""
    parts = _CODE.split(_ROLE.sub(r"``\1``", text))
    return "".join(part if index % 2 else re.sub(r"([<\[\]])", r"\\\1", part) for index, part in enumerate(parts))


def fenced(code: str, language: str = "python") -> str:
    """Return a code block."""
    return f"```{language}\n{code.strip(chr(10))}\n```\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown already, only bars and line breaks are taken care of."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[re.sub(r"\s*\n\s*", " ", cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def code(value: object) -> str:
    """Return a value as inline code, empty for nothing."""
    text = value if isinstance(value, str) else repr(value)
    return f"`{text}`" if text else ""


def split_docstring(thing: Any) -> tuple[str, dict[str, str]]:
    """Return the text before the sections of a Google docstring, and each section's text."""
    text = inspect.cleandoc(thing if isinstance(thing, str) else inspect.getdoc(thing) or "")
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.splitlines():
        name = line.rstrip(":")
        if line.endswith(":") and name in SECTIONS:
            current = name
            found[current] = []
        else:
            found[current].append(line)
    return "\n".join(found.pop("")).strip(), {name: "\n".join(lines) for name, lines in found.items()}


def items(section: str) -> dict[str, str]:
    """Return ``name: text`` entries of an Args, Attributes or Raises section; continuation lines are joined."""
    entries: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(section).splitlines():
        match = re.match(r"([\w, *.]+): (.*)", line)
        if match and not line.startswith(" "):
            name = match.group(1)
            entries[name] = match.group(2)
        elif name:
            entries[name] += " " + line.strip()
    return {each: text for joined, text in entries.items() for each in re.split(r",\s*", joined)}


def signature(thing: Any, name: str | None = None) -> str:
    """Return ``name(…)`` as written in the source, one parameter a line where it would be long."""
    found = inspect.signature(thing)
    shown = f"{name or thing.__name__}{_unquote(str(found))}"
    if len(shown) <= 100:
        return shown
    return f"{name or thing.__name__}{_unquote(_broken(found))}"


def _broken(found: inspect.Signature) -> str:
    lines, kinds = [], [parameter.kind for parameter in found.parameters.values()]
    for index, parameter in enumerate(found.parameters.values()):
        star = parameter.kind is parameter.KEYWORD_ONLY and parameter.KEYWORD_ONLY not in kinds[:index]
        if star and parameter.VAR_POSITIONAL not in kinds:
            lines.append("    *,")
        lines.append(f"    {parameter},")
    end = f" -> {found.return_annotation}" if found.return_annotation is not found.empty else ""
    return "(\n" + "\n".join(lines) + f"\n){end}"


def _unquote(text: str) -> str:
    # Postponed annotations are strings; defaults made by a factory have no source text.
    text = re.sub(r": '([^']*)'", r": \1", re.sub(r"-> '([^']*)'", r"-> \1", text))
    return text.replace("<factory>", "...").replace(" -> None", "")


def sections(parts: dict[str, str], *, arguments: str = "Args") -> str:
    """Return arguments, results, errors and examples of a docstring as Markdown."""
    out = []
    if listed := items(parts.get(arguments, "")):
        out.append("\n".join(f"- {code(name)}: {prose(text)}" for name, text in listed.items()) + "\n")
    for name in ("Returns", "Yields"):
        if name in parts:
            out.append(f"{name}: {prose(' '.join(inspect.cleandoc(parts[name]).split()))}\n")
    if raised := items(parts.get("Raises", "")):
        out.append("\n".join(f"- raises {code(name)}: {prose(text)}" for name, text in raised.items()) + "\n")
    for name in ("Example", "Examples"):
        if name in parts:
            out.append(fenced(inspect.cleandoc(parts[name])))
    return "\n".join(out)

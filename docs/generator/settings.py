"""Configuration keys, errors, and what is built in."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from generator.markdown import code, fenced, prose, split_docstring, table
from medtl_monai import errors
from medtl_monai.config import FLAGS, RunConfig, dump
from medtl_monai.host import Host
from medtl_monai.specs import BackboneSpec, HeadSpec


def config() -> str:
    """Return the page of configuration keys."""
    flags = {key: flag for flag, key in FLAGS.items()}
    parts, top = [], []
    for name, field in RunConfig.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            rows = [row for key, below in model.model_fields.items() for row in _rows(f"{name}.{key}", below, flags)]
            parts.append(f"## {name}\n\n{prose(model.__doc__ or '')}\n\n{_keys(rows)}")
        else:
            top.append(_key(name, field, flags))
    parts.insert(0, f"## Top level\n\n{_keys(top)}")
    parts.append(f"## All defaults\n\n{fenced(dump(RunConfig()), 'yaml')}")
    return "\n".join(parts)


def _rows(key: str, field: Any, flags: dict[str, str]) -> list[tuple[str, ...]]:
    model = field.annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [row for name, below in model.model_fields.items() for row in _rows(f"{key}.{name}", below, flags)]
    named = get_args(model)[1] if get_origin(model) is dict else None
    if isinstance(named, type) and issubclass(named, BaseModel):
        # Sections that the user names.
        below = [row for name, f in named.model_fields.items() for row in _rows(f"{key}.NAME.{name}", f, flags)]
        return [_key(key, field, flags), *below]
    return [_key(key, field, flags)]


def _keys(rows: list[tuple[str, ...]]) -> str:
    return table(("key", "type", "default", "command line", "meaning"), rows)


def _key(key: str, field: Any, flags: dict[str, str]) -> tuple[str, ...]:
    default = "required" if field.default is PydanticUndefined else code(repr(field.default))
    flag = f"--{flags[key].replace('_', '-')}" if key in flags else f"--set {key}=…"
    return code(key), code(_type(field)), default, code(flag), prose(field.description or "")


def _type(field: Any) -> str:
    shown = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    shown = str(field.annotation) if "[" in str(field.annotation) else shown
    bounds = " ".join(str(limit) for limit in field.metadata if type(limit).__name__ in ("Ge", "Gt", "Le", "Lt"))
    shown = re.sub(r"typing\.|pathlib\.|medtl_monai\.config\.", "", shown)
    signs = {"Ge(ge=": "≥ ", "Gt(gt=": "> ", "Le(le=": "≤ ", "Lt(lt=": "< "}
    for name, sign in signs.items():
        bounds = bounds.replace(name, sign)
    return f"{shown} {bounds.replace(')', '')}".strip()


def error_classes() -> str:
    """Return the page of errors."""
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    rows = [(code(e.__name__), prose(split_docstring(e)[0])) for e in found if e is not errors.MedtlError]
    text, parts = split_docstring(errors.MedtlError)
    del parts
    return f"## MedtlError\n\n{prose(text)}\n\n{table(('error', 'meaning'), rows)}"


def builtins() -> str:
    """Return the page of built-in backbones, heads and policies."""
    host = Host.load(environ={"MEDTL_PLUGINS": ""})
    parts = ["## Backbones\n"]
    rows = []
    for entry in host.entries("backbone"):
        spec = entry.spec
        assert isinstance(spec, BackboneSpec)
        stages = ", ".join(f"{stage.name} {stage.channels}" for stage in spec.stages)
        rows.append((code(entry.name), f"{spec.input.spatial_dims}D", prose(spec.summary), stages))
    parts.append(table(("name", "dims", "summary", "stages and their channels"), rows))
    parts.append("## Heads\n")
    for entry in host.entries("head"):
        assert isinstance(entry.spec, HeadSpec)
        parts.append(f"### {entry.name}\n\n{prose(entry.spec.summary)}. Target: `{entry.spec.target}`.\n")
        parts.append(_options(entry.spec.parameters))
    parts.append("## Freeze policies\n")
    for entry in host.entries("policy"):
        parts.append(f"### {entry.name}\n\n{prose(entry.spec.summary)}.\n")
        parts.append(_options(entry.spec.parameters))
        parts += [f"{prose(citation)}\n" for citation in entry.spec.citations]
    return "\n".join(parts)


def _options(parameters: Any) -> str:
    if not parameters:
        return "No options.\n"
    rows = [(code(p.name), code(repr(p.default)), prose(p.help)) for p in parameters]
    return table(("option", "default", "meaning"), rows)

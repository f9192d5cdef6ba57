"""The plugin contract: hooks, specs, freezing, and the torch side."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from generator.markdown import code, fenced, items, prose, sections, signature, split_docstring, table
from medtl_monai import adapters, api, hookspecs, modules, plugin, policy, specs

HOOKS = ("medtl_backbones", "medtl_heads", "medtl_freeze_policies")
SPECS = ("BackboneSpec", "Stage", "InputSpec", "Intensity", "WeightsSpec", "HeadSpec", "PolicySpec", "Parameter")
CONTEXT = ("HeadContext", "TargetInfo")
FREEZING = ("At", "StageInfo", "Rule")
TORCH = ("Backbone", "Head", "Adapter", "Batch", "Prediction", "Metric", "Cumulative")


def hooks() -> str:
    """Return the page of hooks."""
    parts = []
    for name in HOOKS:
        hook = getattr(hookspecs, name)
        text, found = split_docstring(hook)
        parts.append(f"## {name}\n\n{fenced(signature(hook))}\n{prose(text)}\n\n{sections(found)}")
    exported = "\n".join(f"- {code(name)}" for name in plugin.__all__)
    parts.append(f"## Names in medtl_monai.plugin\n\nThe only module a plugin imports:\n\n{exported}\n")
    return "\n".join(parts)


def spec_classes() -> str:
    """Return the page of specs."""
    groups = (("What plugins offer", SPECS), ("What a head is told", CONTEXT))
    parts = [f"The contract's version is `CONTRACT = {specs.CONTRACT}`.\n"]
    for title, names in groups:
        parts.append(f"## {title}\n")
        parts += [_dataclass(getattr(specs, name), level="###") for name in names]
    return "\n".join(parts)


def freezing() -> str:
    """Return the page of freeze policies."""
    parts = [_class(policy.FreezePolicy, ("__call__", "__mul__", "then"))]
    parts += [_dataclass(getattr(specs, name)) for name in FREEZING]
    parts.append(_dataclass(adapters.AdapterSpec, ("to_text",)))
    parts.append(f"## FROZEN\n\n`FROZEN = {specs.FROZEN}`: the rule of a stage that a policy leaves out.\n")
    return "\n".join(parts)


def torch_side() -> str:
    """Return the page of backbones, heads and what passes between them."""
    parts = []
    for name in TORCH:
        thing = getattr(modules, name)
        methods = [n for n, m in vars(thing).items() if inspect.isfunction(m) and m.__doc__ and not n.startswith("_")]
        parts.append(_dataclass(thing, methods) if dataclasses.is_dataclass(thing) else _class(thing, methods))
    return "\n".join(parts)


def python() -> str:
    """Return the page of the Python interface."""
    parts = []
    for name in ("train", "open_run"):
        function = getattr(api, name)
        text, found = split_docstring(function)
        parts.append(f"## {name}\n\n{fenced(signature(function))}\n{prose(text)}\n\n{sections(found)}")
    parts.append(_dataclass(api.Run, ("model", "evaluate", "predict", "resume")))
    return "\n".join(parts)


def _dataclass(thing: Any, methods: Any = (), *, level: str = "##") -> str:
    text, found = split_docstring(thing)
    meanings = items(found.pop("Attributes", ""))
    rows = [
        (code(field.name), code(str(field.type)), code(_default(field)) or "required", prose(meanings[field.name]))
        for field in dataclasses.fields(thing)
    ]
    shown = table(("field", "type", "default", "meaning"), rows)
    return (
        f"{level} {thing.__name__}\n\n{fenced(signature(thing))}\n{prose(text)}\n\n{shown}\n{sections(found)}"
        f"{_methods(thing, methods)}"
    )


def _class(thing: Any, methods: Any) -> str:
    text, found = split_docstring(thing)
    return f"## {thing.__name__}\n\n{prose(text)}\n\n{sections(found)}\n{_methods(thing, methods)}"


def _methods(thing: Any, names: Any) -> str:
    parts = []
    for name in names:
        method = getattr(thing, name)
        text, found = split_docstring(method)
        parts.append(f"{fenced(signature(method, f'{thing.__name__}.{name}'))}\n{prose(text)}\n\n{sections(found)}")
    return "\n".join(parts)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.default_factory.__name__}()"
    return ""

"""Loading one plugin in isolation: import, contract, hooks, results; nothing is kept unless everything is valid.

pluggy checks the shape of the hooks. Its own entry-point loader is not used: it has no isolation, so one bad plugin
would take down every command, and it skips a second distribution with the same entry-point name without a word.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pluggy

from medtl_monai import __version__, hookspecs
from medtl_monai.errors import PluginError, SpecError, did_you_mean
from medtl_monai.isolation import contained, describe, heavy_modules
from medtl_monai.registry import Entry, Kind, PluginRecord, State
from medtl_monai.specs import CONTRACT, BackboneSpec, HeadSpec, PolicySpec, Spec, digest

HOOKS: Mapping[str, tuple[Kind, type[Spec]]] = {
    "medtl_backbones": ("backbone", BackboneSpec),
    "medtl_heads": ("head", HeadSpec),
    "medtl_freeze_policies": ("policy", PolicySpec),
}
MOST_SPECS = 10_000
"""A hook that yields more than this is taken for one that never ends."""

T = TypeVar("T")
Specs = list[tuple[Kind, Spec]]


class LoadingError(Exception):
    """Why a plugin was given up: its state, its reason; the plugin's own exception is the cause."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(state, reason)
        self.state: State = state
        self.reason = reason


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What came of loading a plugin.

    Attributes:
        record: Its row, active or not.
        entries: What it offers; empty unless it is active.
        error: What it raised, or None.
    """

    record: PluginRecord
    entries: tuple[Entry, ...] = ()
    error: BaseException | None = None


def load_plugin(
    record: PluginRecord, fetch: Callable[[], object], *, taken: frozenset[tuple[Kind, str]], warn_heavy: bool = True
) -> Loaded:
    """Import a plugin and collect what it offers.

    Args:
        record: Who it is; state, warnings and names are filled in.
        fetch: Imports it and returns the object that holds the hooks.
        warn_heavy: Whether an import of torch and the like deserves a warning.
        taken: Kinds and names that its distribution offers already.

    Raises:
        KeyboardInterrupt: The user's. Anything else the plugin raises ends up in the record.
    """
    before = heavy_modules()
    warnings: list[str] = []
    try:
        plugin = _step("at import", fetch)
        specs = _collect(plugin, record.name, warnings)
        entries = _stage(specs, record, taken)
    except LoadingError as failure:
        warnings += _heavy_warning(record, before) if warn_heavy else []
        broken = dataclasses.replace(record, state=failure.state, reason=failure.reason, warnings=tuple(warnings))
        return Loaded(record=broken, error=failure.__cause__ or failure)
    warnings += _heavy_warning(record, before) if warn_heavy else []
    return Loaded(record=_with_names(record, entries, warnings), entries=entries)


def _step(phase: str, call: Callable[[], T]) -> T:
    return contained(call, lambda error: _failure(phase, error))


def _failure(phase: str, error: BaseException) -> LoadingError:
    if isinstance(error, LoadingError):
        return error
    return LoadingError("broken", f"{phase}: {describe(error)}")


def _collect(plugin: object, name: str, warnings: list[str]) -> Specs:
    """Check the contract and the hooks, call each implementation by itself, and return everything it yields."""
    _step("CONTRACT", lambda: _check_contract(plugin))
    manager = _step("hooks", lambda: _register(plugin, name))
    warnings += _step("hooks", lambda: _forgotten_markers(plugin))
    specs: Specs = []
    for hook, (kind, kind_of_spec) in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            found = _step(f"in {hook}", lambda i=implementation, h=hook, k=kind_of_spec: _call(i, h, k))  # type: ignore[misc]
            specs += [(kind, spec) for spec in found]
    return specs


def _check_contract(plugin: object) -> None:
    needed = getattr(plugin, "CONTRACT", CONTRACT)
    if isinstance(needed, bool) or not isinstance(needed, int) or needed < 1:
        what = f"CONTRACT is {needed!r}, not a positive whole number"
        raise PluginError(what, mend=f"Write CONTRACT = {CONTRACT}")
    if needed > CONTRACT:
        raise LoadingError(
            "incompatible",
            f"needs plugin contract {needed}; medtl-monai {__version__} offers {CONTRACT}. Update medtl-monai",
        )


def _register(plugin: object, name: str) -> pluggy.PluginManager:
    # A manager for each plugin: what one registers, half registers or misspells cannot touch another.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = sorted(key for key in vars(manager.hook) if key.startswith("medtl") and key not in HOOKS)
        if not unknown:
            raise
        hint = did_you_mean(unknown[0], HOOKS)
        raise PluginError(f"{unknown[0]!r} is not a hook", mend=hint) from error
    if not manager.get_hookcallers(plugin):
        raise PluginError("it implements no hook", mend=f"Decorate {', '.join(HOOKS)} with @hookimpl")
    return manager


def _forgotten_markers(plugin: object) -> list[str]:
    """Return a warning for each function that looks like a hook but was never marked as one."""
    return [
        f"{name} lacks @hookimpl, so it is never called"
        for name in dir(plugin)
        if name in HOOKS and not hasattr(inspect.getattr_static(plugin, name), f"{hookspecs.PROJECT}_impl")
    ]


def _call(implementation: Any, hook: str, expected: type[Spec]) -> list[Spec]:
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginError("it is a hook wrapper", mend="Return specs: hooks of other plugins cannot be wrapped")
    arguments = list(inspect.signature(implementation.function).parameters)
    if arguments:
        # With a default, pluggy would never pass it and never say so.
        raise PluginError(f"it takes the argument {arguments[0]!r}", mend="Hooks are called without arguments")
    result = implementation.function()
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes, Mapping)):
        raise PluginError(f"it returned {_a(result)}", mend=f"Return or yield {expected.__name__} objects")
    found = list(itertools.islice(result, MOST_SPECS + 1))
    if len(found) > MOST_SPECS:
        raise PluginError(f"it yields more than {MOST_SPECS} specs", mend="Does its loop ever end?")
    for position, spec in enumerate(found, start=1):
        if not isinstance(spec, expected):
            raise PluginError(f"result {position} is {_a(spec)}", mend=f"{hook} offers {expected.__name__} objects")
    return found


def _a(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _stage(specs: Specs, record: PluginRecord, taken: frozenset[tuple[Kind, str]]) -> tuple[Entry, ...]:
    """Make entries of the specs, after the checks that need more than one spec or more than its constructor."""
    seen: set[tuple[Kind, str]] = set()
    for kind, spec in specs:
        key = (kind, spec.name)
        if key in seen:
            raise LoadingError("broken", f"offers two {kind} specs named {spec.name!r}")
        if key in taken:
            raise LoadingError("broken", f"its distribution already offers a {kind} named {spec.name!r}")
        seen.add(key)
        _step(f"{kind} {spec.name}", lambda spec=spec: _check_inert(spec))  # type: ignore[misc]
    return tuple(
        Entry(
            kind=kind,
            spec=spec,
            plugin=record.name,
            distribution=record.distribution,
            version=record.version,
            module=record.module,
            sha256=record.sha256,
        )
        for kind, spec in specs
    )


def _check_inert(spec: Spec) -> None:
    """Raise unless the spec is a value: hashable, and plain JSON inside."""
    hash(spec)
    digest(spec)
    names = [parameter.name for parameter in spec.parameters]
    if len(set(names)) != len(names):
        raise SpecError(f"parameter names repeat: {names}", mend="Give each parameter its own name")


def _heavy_warning(record: PluginRecord, before: frozenset[str]) -> list[str]:
    pulled = sorted(heavy_modules() - before)
    if not pulled:
        return []
    return [
        f"{record.name}: importing {record.module} imports {', '.join(pulled)}, which slows down every command; "
        "keep the hooks in a tiny module and name the heavy code by reference"
    ]


def _with_names(record: PluginRecord, entries: tuple[Entry, ...], warnings: list[str]) -> PluginRecord:
    def names(kind: Kind) -> tuple[str, ...]:
        return tuple(entry.name for entry in entries if entry.kind == kind)

    return dataclasses.replace(
        record,
        warnings=tuple(warnings),
        backbones=names("backbone"),
        heads=names("head"),
        policies=names("policy"),
    )


def strict_error(loaded: Loaded) -> BaseException:
    """Return what ``MEDTL_STRICT=1`` raises for a plugin that failed: its own exception, with a note naming it.

    ``SystemExit`` is turned into an error: re-raised, it could end a failing check with success.
    """
    error = loaded.error
    text = f"plugin {loaded.record.name} is {loaded.record.state}: {loaded.record.reason}"
    if isinstance(error, Exception) and not isinstance(error, LoadingError):
        error.add_note(text)
        return error
    failure = PluginError(text, mend="Unset MEDTL_STRICT to go on without it")
    failure.__cause__ = error
    return failure

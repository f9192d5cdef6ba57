"""The plugin host: who is there, what they offer, and what a name means.

Example::

    host = Host.load([Path("my_head.py")])
    choice = host.resolve("policy", "last-n:n=2")
    policy = choice.build()
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtl_monai import __version__
from medtl_monai.discovery import Gate, installed_entry_points, one_file, record_of
from medtl_monai.errors import PluginError, did_you_mean
from medtl_monai.loader import Loaded, load_plugin, strict_error
from medtl_monai.options import Name, bind, parse_name
from medtl_monai.registry import (
    BUILTIN_DISTRIBUTION,
    BUILTIN_PLUGIN,
    KINDS,
    PLURALS,
    Choice,
    Entry,
    Kind,
    PluginRecord,
    normalise,
)

__all__ = ["KINDS", "PLURALS", "Choice", "Entry", "Host", "Kind", "PluginRecord"]

_BUILTIN = PluginRecord(
    name=BUILTIN_PLUGIN,
    distribution=BUILTIN_DISTRIBUTION,
    version=__version__,
    entry_point="builtin",
    module="medtl_monai.builtin",
)


class Host:
    """The plugins of this process. Make one with :meth:`load`.

    Built-ins and one-file plugins are loaded at once; installed plugins on first need, so that a qualified built-in
    name never waits for, or depends on, anybody else's code.
    """

    def __init__(self, points: Iterable[Any] | None, environ: Mapping[str, str]) -> None:
        self._points = None if points is None else tuple(points)
        self._gate = Gate.from_environ(environ)
        self._strict = environ.get("MEDTL_STRICT", "").strip().lower() in ("1", "true", "yes", "on")
        self._loaded: list[Loaded] = []
        self._complete = False
        self._warnings: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        plugin_files: Sequence[Path] = (),
        *,
        environ: Mapping[str, str] | None = None,
        entry_points: Iterable[Any] | None = None,
    ) -> Host:
        """Find the plugins.

        Args:
            plugin_files: One-file plugins that the user named; these must load.
            environ: Instead of ``os.environ``: ``MEDTL_PLUGINS`` (allow-list; empty allows built-ins only),
                ``MEDTL_BLOCK``, ``MEDTL_STRICT=1`` (re-raise what a plugin raises).
            entry_points: Instead of those of the installed distributions.

        Raises:
            PluginError: If a plugin file is missing or fails in any way.
            KeyboardInterrupt: The user's; it is never swallowed.
        """
        host = cls(entry_points, os.environ if environ is None else environ)
        host._load_builtin()
        for path in plugin_files:
            host._load_file(Path(path))
        if host._strict:
            host._load_installed()
        return host

    @property
    def plugins(self) -> tuple[PluginRecord, ...]:
        """Every plugin that was found: the built-ins, installed ones in sorted order, then one-file plugins."""
        self._load_installed()
        records = [loaded.record for loaded in self._loaded]
        return tuple(sorted(records, key=lambda r: (r.name != BUILTIN_PLUGIN, r.path is not None, r.name)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the environment variables, such as a name that no plugin has."""
        self._load_installed()
        return self._warnings

    def entries(self, kind: Kind) -> tuple[Entry, ...]:
        """Return everything on offer of one kind: built-ins first, then by qualified name."""
        self._load_installed()
        return tuple(sorted(self._offers(kind), key=lambda e: (e.plugin != BUILTIN_PLUGIN, e.qualified)))

    def resolve(self, kind: Kind, text: str, parameters: Mapping[str, Any] | None = None) -> Choice:
        """Return what a name with options means.

        Args:
            kind: backbone, head or policy.
            text: ``name`` or ``distribution:name``, and options as in ``last-n:n=2,k=3``; a tuple is ``a+b``.
            parameters: Options as values (from a stored run); they win over those in ``text``.

        Raises:
            PluginError: If the name is unknown (suggests the nearest) or more than one plugin offers it (lists them).
            ConfigError: If an option is unknown (lists the known ones) or its value does not fit.
        """
        name = parse_name(text)
        entry = self._find(kind, name)
        given = {**name.options, **(parameters or {})}
        return Choice(entry=entry, parameters=bind(entry.spec.parameters, given, where=entry.qualified))

    def plugin(self, name: str) -> PluginRecord:
        """Return the record of a plugin, by ``distribution/entry-point``, distribution, entry point or file name.

        Raises:
            PluginError: If no plugin has the name, or several do.
        """
        records = self.plugins
        exact = [record for record in records if record.name == name]
        loose = [r for r in records if name == r.entry_point or normalise(name) == normalise(r.distribution)]
        found = exact or loose
        if len(found) == 1:
            return found[0]
        known = [record.name for record in records]
        if found:
            raise PluginError(f"{name!r} is more than one plugin", mend=_choose(r.name for r in found))
        raise PluginError(f"no plugin is called {name!r}", mend=did_you_mean(name, known))

    def _find(self, kind: Kind, name: Name) -> Entry:
        if normalise(name.distribution) == BUILTIN_DISTRIBUTION:
            found = self._match(kind, name)
            if found:
                return found[0]
        self._load_installed()
        found = self._match(kind, name)
        if len(found) == 1:
            return found[0]
        if found:
            mend = _choose(entry.qualified for entry in found)
            raise PluginError(f"more than one plugin offers a {kind} named {name.short!r}", mend=mend)
        raise self._unknown(kind, name)

    def _match(self, kind: Kind, name: Name) -> list[Entry]:
        wanted = normalise(name.distribution)
        return [
            entry
            for entry in self._offers(kind)
            if entry.name == name.short and wanted in ("", normalise(entry.distribution))
        ]

    def _unknown(self, kind: Kind, name: Name) -> PluginError:
        asked = f"{name.distribution}:{name.short}" if name.distribution else name.short
        what = f"no {kind} is called {asked!r}"
        offers = self._offers(kind)
        if name.distribution in {entry.name for entry in offers}:
            return PluginError(what, mend=f"Options are written {name.distribution}:{name.short}=VALUE")
        wanted = normalise(name.distribution)
        for record in self.plugins:
            if wanted == normalise(record.distribution) and record.state != "active":
                why = f"the plugin {record.name} is {record.state} ({record.reason})"
                return PluginError(f"{what}: {why}", mend="'medtl plugins' shows the state of every plugin")
        mend = did_you_mean(asked, [e.qualified if name.distribution else e.name for e in offers])
        if any(record.state != "active" for record in self.plugins):
            mend += " 'medtl plugins' shows which plugins are not active, and why."
        return PluginError(what, mend=mend)

    def _offers(self, kind: Kind) -> list[Entry]:
        return [entry for loaded in self._loaded for entry in loaded.entries if entry.kind == kind]

    def _load_builtin(self) -> None:
        loaded = load_plugin(_BUILTIN, lambda: importlib.import_module(_BUILTIN.module), taken=frozenset())
        if self._strict and loaded.error is not None:
            raise strict_error(loaded)
        self._loaded.append(loaded)

    def _load_installed(self) -> None:
        if self._complete:
            return
        points = installed_entry_points() if self._points is None else self._points
        found: list[Loaded] = []
        for record, point in sorted(((record_of(p), p) for p in points), key=lambda pair: pair[0].name):
            loaded = self._load_point(record, point, [*self._loaded, *found])
            if self._strict and loaded.error is not None:
                raise strict_error(loaded)
            found.append(loaded)
        # Nothing above changes the host, so an interrupt leaves it as it was.
        self._loaded += found
        self._complete = True
        self._warnings = self._gate.warnings([loaded.record for loaded in found], _BUILTIN)

    def _load_point(self, record: PluginRecord, point: Any, loaded: Sequence[Loaded]) -> Loaded:
        if reason := self._gate.reason(record):
            return Loaded(record=dataclasses.replace(record, state="blocked", reason=reason))
        if any(other.record.name == record.name for other in loaded):
            reason = "its entry point has the name of one that is already loaded"
            error = PluginError(reason, mend="Rename it, or uninstall one of the two packages")
            return Loaded(record=dataclasses.replace(record, state="broken", reason=reason), error=error)
        return load_plugin(record, point.load, taken=_taken(record, loaded))

    def _load_file(self, path: Path) -> None:
        record, fetch = one_file(path)
        for other in (loaded.record for loaded in self._loaded):
            if other.name == record.name and other.sha256 == record.sha256:
                return
            if other.name == record.name:
                mend = f"Rename one: the file name qualifies what a plugin offers ({record.name}:NAME)"
                raise PluginError("two different plugin files have the same name", where=record.name, mend=mend)
        loaded = load_plugin(record, fetch, warn_heavy=False, taken=frozenset())
        if loaded.record.state != "active":
            sys.modules.pop(record.module, None)
            mend = "Mend the file, or leave out --plugin; --debug shows where it failed"
            what = f"the plugin file is {loaded.record.state}: {loaded.record.reason}"
            raise PluginError(what, where=str(path), mend=mend) from loaded.error
        self._loaded.append(loaded)


def _taken(record: PluginRecord, loaded: Sequence[Loaded]) -> frozenset[tuple[Kind, str]]:
    """Return what the record's distribution offers already: ``distribution:name`` must mean one thing."""
    return frozenset(
        (entry.kind, entry.name)
        for other in loaded
        for entry in other.entries
        if normalise(entry.distribution) == normalise(record.distribution)
    )


def _choose(names: Iterable[str]) -> str:
    return f"Choose one of: {', '.join(sorted(names))}."

"""Finding plugins: entry points of installed distributions, and one-file plugins named by the user."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from medtl_monai.errors import PluginError, did_you_mean
from medtl_monai.hookspecs import PROJECT
from medtl_monai.registry import PluginRecord, normalise

# What reading a damaged installation raises.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, importlib.metadata.PackageNotFoundError)


def installed_entry_points() -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of the plugin group, of the first distribution of each name on ``sys.path``.

    A distribution whose metadata cannot be read is passed over: it must not hide the others.
    """
    found: list[importlib.metadata.EntryPoint] = []
    names: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(*_UNREADABLE):
            # Parsing is slow, and most distributions have nothing for us.
            if PROJECT not in (distribution.read_text("entry_points.txt") or ""):
                continue
            if name := _field(distribution, "name"):
                names.setdefault(normalise(name), name)
            else:
                found += distribution.entry_points.select(group=PROJECT)
    for name in names.values():
        with contextlib.suppress(*_UNREADABLE):
            found += importlib.metadata.distribution(name).entry_points.select(group=PROJECT)
    return found


def record_of(point: Any) -> PluginRecord:
    """Return the record of an entry point that has not been loaded."""
    module = str(point.value).partition(":")[0].strip()
    distribution = getattr(point, "dist", None)
    # Without a distribution's name (a half-removed installation), the package's name serves.
    name = _field(distribution, "name") or module.partition(".")[0]
    return PluginRecord(
        name=f"{name}/{point.name}",
        distribution=name,
        version=_field(distribution, "version"),
        entry_point=str(point.name),
        module=module,
    )


def _field(distribution: Any, field: str) -> str:
    try:
        return str(getattr(distribution, field, None) or "")
    except _UNREADABLE:
        return ""


@dataclasses.dataclass(frozen=True)
class Gate:
    """Who may be imported: ``MEDTL_PLUGINS`` (None = everybody) and ``MEDTL_BLOCK``.

    An item names an entry point, a distribution, or ``distribution/entry-point``.
    """

    allowed: tuple[str, ...] | None
    blocked: tuple[str, ...]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Gate:
        """Read both variables; a ``MEDTL_PLUGINS`` that is set but empty allows nobody."""
        allowed = environ.get("MEDTL_PLUGINS")
        return cls(None if allowed is None else _items(allowed), _items(environ.get("MEDTL_BLOCK", "")))

    def reason(self, record: PluginRecord) -> str:
        """Return why a plugin is kept out; empty if it is let in."""
        if any(_names(item, record) for item in self.blocked):
            return "MEDTL_BLOCK names it"
        if self.allowed is not None and not any(_names(item, record) for item in self.allowed):
            return "MEDTL_PLUGINS does not name it"
        return ""

    def warnings(self, installed: Sequence[PluginRecord], builtin: PluginRecord) -> tuple[str, ...]:
        """Return a sentence for each item that names no installed plugin, and for an attempt to block built-ins."""
        known = {record.distribution for record in installed} | {record.entry_point for record in installed}
        found = []
        for variable, items in (("MEDTL_PLUGINS", self.allowed or ()), ("MEDTL_BLOCK", self.blocked)):
            for item in items:
                if _names(item, builtin):
                    found += ["MEDTL_BLOCK names the built-ins, which cannot be blocked."] * (items is self.blocked)
                elif not any(_names(item, record) for record in installed):
                    found.append(f"{variable} names {item!r}, which is not installed. {did_you_mean(item, known, n=1)}")
        return tuple(found)


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _names(item: str, record: PluginRecord) -> bool:
    distribution, slash, point = item.rpartition("/")
    if slash:
        return normalise(distribution) == normalise(record.distribution) and point == record.entry_point
    return item == record.entry_point or normalise(item) == normalise(record.distribution)


class _BytesLoader(importlib.machinery.SourceFileLoader):
    """Runs exactly the bytes that were hashed: no second read of the file, no stale bytecode cache."""

    def __init__(self, fullname: str, path: str, source: bytes) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, self.path)


def one_file(path: Path) -> tuple[PluginRecord, Callable[[], ModuleType]]:
    """Return the record of a one-file plugin and the function that imports it.

    The module gets a private name made from the file's hash, the same in every process, under which classes defined
    in it can be pickled by forked workers.

    Raises:
        PluginError: If there is no such file, it is not a Python file, or it cannot be read.
    """
    if path.suffix != ".py":
        raise PluginError("a one-file plugin is a .py file", where=str(path), mend="Give the path of a Python file")
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise PluginError("no such plugin file", where=str(path), mend="Check the path given to --plugin") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PluginError(f"the plugin file cannot be read ({reason})", where=str(path), mend="Check it") from error
    sha256 = hashlib.sha256(source).hexdigest()
    module = f"_medtl_plugin_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{sha256[:16]}"
    record = PluginRecord(name=path.name, distribution=path.name, module=module, sha256=sha256, path=path)
    return record, lambda: _import_bytes(module, path, source)


def _import_bytes(name: str, path: Path, source: bytes) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    loader = _BytesLoader(name, str(path.resolve()), source)
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=loader)
    if spec is None:
        raise ImportError(f"cannot import {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

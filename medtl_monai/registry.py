"""What the host knows: one record per plugin, one entry per spec, one choice per name that a user resolved."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from medtl_monai.errors import MedtlError, PluginError
from medtl_monai.isolation import contained, describe
from medtl_monai.specs import Spec, digest, to_json

Kind = Literal["backbone", "head", "policy"]
State = Literal["active", "blocked", "broken", "incompatible"]

KINDS: tuple[Kind, ...] = ("backbone", "head", "policy")
PLURALS: Mapping[Kind, str] = {"backbone": "backbones", "head": "heads", "policy": "policies"}

BUILTIN_DISTRIBUTION = "medtl-monai"
BUILTIN_PLUGIN = f"{BUILTIN_DISTRIBUTION}/builtin"


def normalise(name: str) -> str:
    """Return a distribution's name in the form that compares equal however it is spelt (PyPA name normalisation).

    Example:
        >>> normalise("Medtl_Swin")
        'medtl-swin'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PluginRecord:
    """One plugin that was found, whether it works or not: a row of ``medtl plugins``.

    Attributes:
        name: ``distribution/entry-point``, or the file name of a one-file plugin.
        distribution: Name of the distribution, or the file name of a one-file plugin.
        version: Version of the distribution; empty for a one-file plugin.
        entry_point: Name of the entry point; empty for a one-file plugin.
        module: The module that holds the hooks.
        state: active, blocked (never imported), broken, or incompatible (made for a newer contract).
        reason: Why it is not active; empty if it is.
        warnings: What is wrong with it although it works.
        backbones: Short names of the backbones it offers.
        heads: Short names of the heads it offers.
        policies: Short names of the freeze policies it offers.
        sha256: Hash of a one-file plugin's bytes; empty otherwise.
        path: Where a one-file plugin is; None otherwise.
    """

    name: str
    distribution: str
    version: str = ""
    entry_point: str = ""
    module: str = ""
    state: State = "active"
    reason: str = ""
    warnings: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    sha256: str = ""
    path: Path | None = None

    def offers(self, kind: Kind) -> tuple[str, ...]:
        """Return the short names it offers of one kind."""
        names: tuple[str, ...] = getattr(self, PLURALS[kind])
        return names

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, one key per attribute."""
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tree["path"] = None if self.path is None else str(self.path)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One spec and the plugin it comes from.

    Attributes:
        kind: backbone, head or policy.
        spec: What the plugin declared.
        plugin: Name of the plugin's record.
        distribution: Name of its distribution.
        version: Version of its distribution.
        module: Module of its hooks, which ``":Name"`` references refer to.
        sha256: Hash of a one-file plugin's bytes; empty otherwise.
    """

    kind: Kind
    spec: Spec
    plugin: str
    distribution: str
    version: str
    module: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """The short name."""
        return self.spec.name

    @property
    def qualified(self) -> str:
        """The name that always works: ``distribution:name``."""
        return f"{self.distribution}:{self.spec.name}"

    def to_json(self) -> dict[str, Any]:
        """Return where it comes from, and every field of the spec, as plain JSON values."""
        origin = {
            "kind": self.kind,
            "qualified": self.qualified,
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "digest": digest(self.spec),
        }
        return {**origin, **to_json(self.spec)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A name that was resolved, with its options: what to build, and where it came from.

    Attributes:
        entry: The spec and its plugin.
        parameters: Every option of the build callable: the user's value, or the spec's default.
    """

    entry: Entry
    parameters: Mapping[str, Any]

    @property
    def spec(self) -> Spec:
        """What the plugin declared."""
        return self.entry.spec

    @property
    def qualified(self) -> str:
        """The name that always works: ``distribution:name``."""
        return self.entry.qualified

    def load(self) -> Callable[..., Any]:
        """Import and return the build callable that the spec refers to.

        Raises:
            PluginError: If the import fails, or what it names is absent or not callable.
        """
        return contained(self._find, self._failure)

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """Call the build callable with the parameters and whatever the host adds.

        Args:
            args: Positional arguments, such as a :class:`~medtl_monai.specs.HeadContext`.
            kwargs: Keyword arguments, which win over :attr:`parameters`.

        Raises:
            PluginError: On any exception of the plugin's code, which stays chained to it; names the plugin, the
                spec and the reference.
            MedtlError: As the plugin raised it.
        """
        function = self.load()
        return contained(lambda: function(*args, **{**self.parameters, **kwargs}), self._failure)

    def provenance(self) -> dict[str, Any]:
        """Return what a run stores of this choice (``plugins.json``): JSON values, no path."""
        entry = self.entry
        return {
            "kind": entry.kind,
            "name": entry.qualified,
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            "version": entry.version,
            "digest": digest(entry.spec),
            "parameters": to_json(dict(self.parameters)),
            "file_sha256": entry.sha256 or None,
        }

    def _find(self) -> Callable[..., Any]:
        module, _, path = self.spec.build.partition(":")
        found: Any = importlib.import_module(module or self.entry.module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
        if not callable(found):
            raise TypeError(f"{self.spec.build!r} is a {type(found).__name__}, not a callable")
        return found

    def _failure(self, error: BaseException) -> MedtlError:
        if isinstance(error, MedtlError):
            return error
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        return PluginError(
            f"{self.entry.kind} {self.spec.name!r} of the plugin {self.entry.plugin} cannot be built: "
            f"{self.spec.build!r} failed with {describe(error)}",
            where=self.qualified,
            mend=f"Install {missing!r} if the plugin needs that package, or tell the plugin's author"
            if missing
            else "Check its options, or tell the plugin's author: --debug shows where it failed",
        )

"""Errors a user can mend: each says what happened, where, and how to put it right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

ErrorT = TypeVar("ErrorT", bound="MedtlError")


class MedtlError(Exception):
    """Base of every error that medtl raises on purpose.

    Args:
        what: What happened, one clause without a full stop.
        where: The place: a case id, a file relative to the data root, an attribute, a config key.
        mend: What the user can do about it, one sentence.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(what, where, mend)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.mend}" if self.mend else f"{text}."

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors cross worker processes.
        return (rebuild, (type(self), self.what, self.where, self.mend))


def rebuild(cls: type[ErrorT], what: str, where: str, mend: str) -> ErrorT:
    """Return an error from its parts, in another process or from where it was kept."""
    return cls(what, where=where, mend=mend)


class ConfigError(MedtlError):
    """The configuration or a command-line value does not make sense."""


class SpecError(MedtlError):
    """A spec that a plugin offers is not valid."""


class PluginError(MedtlError):
    """A plugin, or a name that a plugin should offer, cannot be used."""


class DicomError(MedtlError):
    """A DICOM file, series or study cannot be turned into the right volume."""


class DataError(MedtlError):
    """Cases, labels or splits are missing, contradictory or too few."""


class WeightsError(MedtlError):
    """Pretrained weights are absent, not the expected bytes, or do not fit."""


class PolicyError(MedtlError):
    """A freeze policy asks for something impossible or meaningless."""


class RunError(MedtlError):
    """A run folder is missing, occupied, damaged, or does not fit what is asked of it."""


class StorageError(MedtlError):
    """A file could not be written: disk full, no permission."""


def did_you_mean(name: str, known: Iterable[str], *, n: int = 3) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known names, or a list of all of them.

    Example:
        >>> did_you_mean("resnet18", ["resnet18-3d", "unet-3d"])
        "Did you mean 'resnet18-3d'?"
    """
    choices = sorted(set(known))
    near = difflib.get_close_matches(name, choices, n=n, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(repr(c) for c in near)}?"
    if not choices:
        return "None are available."
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f"Choose from: {shown}."

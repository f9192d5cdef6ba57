"""Checks on labels and options that the built-in heads share."""

from __future__ import annotations

from collections.abc import Sequence

from medtl_monai.errors import ConfigError, DataError, did_you_mean
from medtl_monai.specs import TargetInfo, TargetKind


def pick(name: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ConfigError: Otherwise, naming the option and the nearest choice.
    """
    if value not in choices:
        raise ConfigError(f"{value!r} is not a choice", where=f"head option {name}", mend=did_you_mean(value, choices))
    return value


def within(name: str, value: float, low: float, high: float = float("inf")) -> float:
    """Return ``value`` if ``low <= value < high``.

    Raises:
        ConfigError: Otherwise, naming the option and its range.
    """
    if not low <= value < high:
        upper = "" if high == float("inf") else f" and below {high:g}"
        raise ConfigError(f"{value} is out of range", where=f"head option {name}", mend=f"Use at least {low:g}{upper}")
    return value


def require_kind(target: TargetInfo, kind: TargetKind, head: str) -> None:
    """Check that the labels are what the head learns.

    Raises:
        DataError: If they are of another kind.
    """
    if target.kind != kind:
        raise DataError(
            f"the head learns a target of kind {kind!r}, the labels are {target.kind!r}",
            where=f"head {head}",
            mend="Choose the head that fits the labels, or leave the head out to have it chosen",
        )


def require_counts(target: TargetInfo, head: str) -> tuple[int, ...]:
    """Return the training cases of each class or label.

    Raises:
        DataError: If there is not one count for each.
    """
    if len(target.counts) != len(target.classes):
        raise DataError(
            f"there are {len(target.counts)} counts for {len(target.classes)} classes",
            where=f"head {head}",
            mend="Give the number of training cases of each class, or switch balancing off",
        )
    return target.counts


def name_of(target: TargetInfo) -> str:
    """Return the label columns as they are written in messages."""
    return "label column " + ", ".join(target.columns) if target.columns else "labels"

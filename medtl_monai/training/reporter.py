"""What training tells whoever is watching; the command line draws it, tests and scripts may ignore it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """Receives what happens during a run. Texts hold case ids and relative paths, never identifiers."""

    def note(self, text: str) -> None:
        """Say something worth knowing."""

    def warn(self, text: str) -> None:
        """Say something the user should look at."""

    def count(self, what: str, done: int, total: int) -> None:
        """Report progress of a preparation, such as reading volumes."""

    def start(self, *, first_epoch: int, epochs: int, steps: int, key_metric: str) -> None:
        """Training starts with ``first_epoch``; every epoch has ``steps`` optimizer steps."""

    def step(self, *, epoch: int, step: int, loss: float, lr: float) -> None:
        """Report one optimizer step."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report the end of an epoch; ``line`` is what ``metrics.jsonl`` holds."""

    def finish(self) -> None:
        """Close what was opened for drawing."""


class Silent:
    """A reporter that draws nothing and remembers what was said.

    Attributes:
        notes: Texts given to :meth:`note`.
        warnings: Texts given to :meth:`warn`.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        """Remember a note."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Remember a warning."""
        self.warnings.append(text)

    def count(self, what: str, done: int, total: int) -> None:
        """Ignore progress."""

    def start(self, *, first_epoch: int, epochs: int, steps: int, key_metric: str) -> None:
        """Ignore the start."""

    def step(self, *, epoch: int, step: int, loss: float, lr: float) -> None:
        """Ignore a step."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Ignore an epoch."""

    def finish(self) -> None:
        """Nothing was opened."""

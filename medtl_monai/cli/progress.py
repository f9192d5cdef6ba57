"""Drawing a run's progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextmanager
def closing_bars(reporter: RichReporter) -> Iterator[RichReporter]:
    """Yield the reporter and close its bars, however the block ends: an error must not be drawn over."""
    try:
        yield reporter
    finally:
        reporter.finish()


class RichReporter:
    """Progress bars with loss, metric and time left; a line an epoch where the output is not a terminal.

    Everything goes to standard error, so that ``--json`` on standard output stays clean.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._steps = 1
        self._epochs = 1
        self._key = ""
        self._score = ""

    def note(self, text: str) -> None:
        """Print a note."""
        self.console.print(text, style="dim", markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Move the bar of a preparation."""
        bars = self._open()
        if what not in self._tasks:
            self._tasks[what] = bars.add_task(what, total=total, info="")
        bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            bars.update(self._tasks.pop(what), visible=False)

    def start(self, *, first_epoch: int, epochs: int, steps: int, key_metric: str) -> None:
        """Open the training bar."""
        self._steps, self._epochs, self._key = steps, epochs, key_metric
        total = epochs * steps
        self._tasks["train"] = self._open().add_task("training", total=total, completed=first_epoch * steps, info="")

    def step(self, *, epoch: int, step: int, loss: float, lr: float) -> None:
        """Move the training bar."""
        info = f"epoch {epoch + 1}/{self._epochs}  loss {loss:.4f}{self._score}"
        self._open().update(self._tasks["train"], completed=epoch * self._steps + step + 1, info=info)

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Show the epoch's value of the key metric."""
        value = line.get(f"val/{self._key}")
        shown = "" if value is None else f"{self._key} {value:.4f}{' (best)' if line.get('best') else ''}"
        self._score = f"  {shown}" if shown else ""
        if not self.console.is_terminal:
            number = f"epoch {line['epoch'] + 1}/{self._epochs}"
            text = f"{number}  loss {line['loss']:.4f}  {shown}  {line['seconds']:.1f} s"
            self.console.print(text, markup=False, soft_wrap=True)

    def finish(self) -> None:
        """Close the bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _open(self) -> Progress:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[info]}"),
                console=self.console,
                transient=True,
                disable=not self.console.is_terminal,
            )
            self._bars.start()
        return self._bars

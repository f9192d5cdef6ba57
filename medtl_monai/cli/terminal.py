"""What reaches the terminal under ``--redact-paths``: all of it passes one place, where names become pseudonyms.

Standard output and standard error are replaced for the length of a command. Errors, notes, progress, log records,
warnings and tracebacks go through them, whoever writes them.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from medtl_monai.data.redaction import Redactor

VARIABLE = "MEDTL_REDACT_PATHS"


class RedactingStream(io.TextIOBase):
    """A text stream that shows no names. It has no ``buffer``, so nobody gets around it.

    Args:
        stream: Where texts go.
        redactor: Makes the pseudonyms.
    """

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self.stream = stream
        self._redactor = redactor
        self._held = ""
        self._lock = threading.RLock()  # progress bars write from a thread of their own

    def write(self, text: str) -> int:
        """Write whole lines; a beginning waits for its end, or a name could be cut in two."""
        with self._lock:
            done, newline, self._held = (self._held + text).rpartition("\n")
            if newline:
                self.stream.write(self._redactor.text(done) + newline)
        return len(text)

    def flush(self) -> None:
        """Write what waits, too."""
        with self._lock:
            held, self._held = self._held, ""
            if held:
                self.stream.write(self._redactor.text(held))
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether a terminal is at the other end."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream below."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What the stream below does with what it cannot encode."""
        return self.stream.errors


class _Session:
    """The redactor of the running command."""

    redactor: Redactor | None = None


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Give standard output and error back when a command ends; redact from its start where the user has said so."""
    before = sys.stdout, sys.stderr, _Session.redactor
    _Session.redactor = None
    if os.environ.get(VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off"):
        redact()
    try:
        yield
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, RedactingStream) and not stream.stream.closed:
                    stream.flush()
        finally:
            sys.stdout, sys.stderr, _Session.redactor = before


def redact() -> None:
    """Show no names of data files from here on, until the command ends."""
    if _Session.redactor is None:
        _Session.redactor = Redactor()
        sys.stdout = RedactingStream(sys.stdout, _Session.redactor)
        sys.stderr = RedactingStream(sys.stderr, _Session.redactor)


def is_redacting() -> bool:
    """Whether names are hidden."""
    return _Session.redactor is not None


def hide(*roots: Path | None) -> None:
    """Say where data lies: names below it are hidden, if names are to be hidden."""
    if _Session.redactor is not None:
        for root in roots:
            if root is not None:
                _Session.redactor.add_root(root)


def hide_paths(section: Any) -> None:
    """Hide every path that a section of the configuration holds, however deep."""
    if isinstance(section, Path):
        hide(section)
    elif isinstance(section, dict):
        hide_paths(list(section.values()))
    elif isinstance(section, (list, tuple)):
        for item in section:
            hide_paths(item)


def hide_words(words: Iterable[str]) -> None:
    """Hide words that the user typed, if names are to be hidden."""
    if _Session.redactor is not None:
        _Session.redactor.add_names(words)


def shown(value: Any) -> Any:
    """Return a value as it may be shown; for what is laid out or encoded before it is written."""
    return value if _Session.redactor is None else _Session.redactor.value(value)


def output() -> TextIO:
    """Return standard output for what has been through :func:`shown` already."""
    stream = sys.stdout
    if isinstance(stream, RedactingStream):
        stream.flush()
        return stream.stream
    return stream

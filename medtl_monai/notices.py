"""What the person at the terminal should know and no file may hold: names of files that were left out.

Log records can end up in files, and the notes of a volume end up in run folders; both hold numbers only. Names go to
whoever listens here: the command line does, and prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


def tell(text: str) -> None:
    """Tell the listeners something that names a file relative to the data root; without one nothing happens."""
    for listener in _listeners:
        listener(text)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Receive what is told while the block runs, in this process.

    Example:
        >>> with listening(print):
        ...     tell("a/IM0002 repeats a/IM0001 and is left out")
        a/IM0002 repeats a/IM0001 and is left out
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def kept_back() -> Iterator[list[str]]:
    """Keep what is told in a list, and from the listeners, for it to be told later.

    Example:
        >>> with listening(print), kept_back() as told:
        ...     tell("a/IM0002 repeats a/IM0001 and is left out")
        >>> told
        ['a/IM0002 repeats a/IM0001 and is left out']
    """
    told: list[str] = []
    others, _listeners[:] = _listeners[:], [told.append]
    try:
        yield told
    finally:
        _listeners[:] = others

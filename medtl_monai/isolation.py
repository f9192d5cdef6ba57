"""Running other people's code so that it can neither stop the host nor write into its output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from medtl_monai.errors import MedtlError

HEAVY = ("torch", "monai", "numpy", "pydicom", "pandas", "scipy", "matplotlib")
"""Packages that a plugin's hook module must not import: every command would wait for them."""

T = TypeVar("T")


def contained(call: Callable[[], T], failure: Callable[[BaseException], Exception]) -> T:
    """Run plugin code; what it prints goes to stderr, and whatever it raises becomes ``failure(error)``.

    ``SystemExit`` is caught, and so are other exceptions outside ``Exception``: extension modules raise those too
    (a panic in Rust code does). ``os._exit``, a crash of the process and an endless loop cannot be contained.

    Raises:
        KeyboardInterrupt: The user's, always.
        Exception: What ``failure`` returns, with the plugin's exception as its cause.
    """
    try:
        with stdout_to_stderr():
            return call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise failure(error) from error


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what is printed meanwhile, by Python and by the processes it starts alike."""
    if sys.stdout is not None:
        sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr), _descriptor_to_stderr():
        yield


@contextlib.contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    try:
        saved = os.dup(1)
    except OSError:  # stdout is closed: nothing can reach it
        yield
        return
    try:
        with contextlib.suppress(OSError):  # stderr is closed
            os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def heavy_modules() -> frozenset[str]:
    """Return which of the heavy packages this process has imported so far."""
    return frozenset(name for name in HEAVY if name in sys.modules)


def describe(error: BaseException) -> str:
    """Return one line that says what was raised; never raises itself.

    Example:
        >>> describe(KeyError("stage"))
        "KeyError: 'stage'"
    """
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # the plugin's own __str__
        return kind
    if isinstance(error, MedtlError):
        return text
    if isinstance(error, SystemExit):
        return f"SystemExit({error.code!r})"
    return f"{kind}: {text[:400]}" if text else kind

"""Keep pydicom quiet: its warnings and log records quote the values of attributes, names and identifiers too."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Let nothing that pydicom warns of or logs reach anybody while the block runs.

    What matters about a file becomes a typed error, which names attributes and not their values.
    """
    logger = logging.getLogger("pydicom")

    # A function of its own for each block: blocks may be nested, and the inner one must not end the outer one's.
    def drop(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(drop)

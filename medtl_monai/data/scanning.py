"""Scanning the user's studies, with what the last scan found."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from medtl_monai.data.cache.places import switched_off
from medtl_monai.data.identity import load_key
from medtl_monai.dicom import Memory, StudyIndex, index_path, scan
from medtl_monai.errors import StorageError

_log = logging.getLogger(__name__)


def scan_studies(
    path: Path, *, skip: Sequence[str] = (), workers: int | None = None, remember: bool = True
) -> StudyIndex:
    """Scan a tree of DICOM files, and remember what it holds so that the next scan reads only what has changed.

    The index lies in the user's own cache folder and is sealed with the key of the case ids. Where it cannot be used
    (no room, not allowed, another scan is writing to it), the tree is scanned all the same, and a warning says so.

    Args:
        path: The data root, a zip archive, or one file.
        skip: Patterns of files to leave out.
        workers: Processes that parse headers; None takes one a core.
        remember: Whether to use an index; ``MEDTL_CACHE=off`` says no for all.

    Raises:
        DicomError: ``path`` does not exist, or is an archive that may not be unpacked.
    """
    workers = workers or cores()
    if remember and path.is_dir() and not switched_off():
        try:
            return scan(path, workers=workers, skip=skip, memory=Memory(index_path(path, skip), load_key()))
        except StorageError as error:
            _log.warning("The scan could not be remembered: %s", error)
    return scan(path, workers=workers, skip=skip)


def cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""What a cache holds, and removing it. Nothing here imports numpy or torch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from medtl_monai.data.cache.places import ENTRIES, MARKER, SCAN_SUFFIX, STAMPS, is_cache
from medtl_monai.errors import StorageError

TEMPORARY = ".tmp"
_OURS = re.compile(r"[0-9a-f]{40}|\.[0-9a-f]{8}\.\w+\.tmp")
_ABANDONED_S = 6 * 3600.0
"""A temporary folder that old was left behind by a process that died."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """One entry, or one remembered scan.

    Attributes:
        name: Its name: a hash.
        bytes: Its size.
        used: When it was last used, in seconds since 1970.
        path: Where it is.
    """

    name: str
    bytes: int
    used: float
    path: Path = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Freed:
    """What was removed.

    Attributes:
        entries: How many.
        bytes: Their size.
    """

    entries: int = 0
    bytes: int = 0

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.entries + other.entries, self.bytes + other.bytes)


def entries(folder: Path) -> list[Stored]:
    """Return the entries of a cache, the least recently used first; none where there is no cache."""
    return [each for each in _folders(folder) if not each.name.endswith(TEMPORARY)]


def scans(folder: Path) -> list[Stored]:
    """Return the scans that were remembered in a folder, the least recently used first."""
    found = []
    with contextlib.suppress(OSError):
        for item in os.scandir(folder):
            if item.name.endswith(SCAN_SUFFIX) and item.is_file(follow_symlinks=False):
                status = item.stat(follow_symlinks=False)
                name = item.name.removesuffix(SCAN_SUFFIX)
                size, used = status.st_size, max(status.st_mtime, status.st_atime)
                found.append(Stored(name=name, bytes=size, used=used, path=Path(item.path)))
    return sorted(found, key=lambda each: each.used)


def other_bytes(folder: Path) -> int:
    """Return the size of what is in a cache beside its entries: what it remembers of files."""
    return sum(_size(folder / name) for name in (STAMPS, MARKER))


def clear(folder: Path, *, older_than_days: float = 0.0) -> Freed:
    """Remove the entries of a cache that were not used for so many days; runs that have them open are not harmed.

    Raises:
        StorageError: The folder is no cache of medtl; nothing is touched then.
    """
    if not is_cache(folder):
        what = "the folder is not a cache of medtl, nothing was removed"
        raise StorageError(what, where=folder.name, mend="Check cache.folder and MEDTL_CACHE")
    limit = time.time() - older_than_days * 86_400
    freed = Freed()
    for each in _folders(folder):
        abandoned = each.name.endswith(TEMPORARY) and each.used <= time.time() - _ABANDONED_S
        if abandoned or (not each.name.endswith(TEMPORARY) and each.used <= limit):
            freed += remove(each)
    return freed


def clear_scans(folder: Path, *, older_than_days: float = 0.0) -> Freed:
    """Remove remembered scans that were not used for so many days."""
    limit = time.time() - older_than_days * 86_400
    freed = Freed()
    for each in scans(folder):
        if each.used <= limit:
            with contextlib.suppress(OSError):
                each.path.unlink()
                freed += Freed(1, each.bytes)
            for rest in ("-journal", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    each.path.with_name(each.path.name + rest).unlink()
    return freed


def remove(each: Stored) -> Freed:
    """Remove an entry as a whole: it disappears under its name before its files do.

    Files that are mapped into a process stay there until it lets them go (POSIX).
    """
    doomed = each.path
    if not each.name.endswith(TEMPORARY):
        doomed = each.path.with_name(f".{each.name[:8]}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            each.path.rename(doomed)
        except OSError:
            # Another process was first.
            return Freed()
    shutil.rmtree(doomed, ignore_errors=True)
    return Freed(1, each.bytes)


def sweep(folder: Path) -> None:
    """Remove what processes left behind that died while they wrote."""
    for each in _folders(folder):
        if each.name.endswith(TEMPORARY) and each.used <= time.time() - _ABANDONED_S:
            remove(each)


def _folders(folder: Path) -> list[Stored]:
    return sorted(_scan(folder), key=lambda each: each.used)


def _scan(folder: Path) -> Iterator[Stored]:
    try:
        items = list(os.scandir(folder / ENTRIES))
    except OSError:
        return
    for item in items:
        # An entry may go while it is looked at.
        with contextlib.suppress(OSError):
            if _OURS.fullmatch(item.name) and item.is_dir(follow_symlinks=False):
                used = item.stat(follow_symlinks=False).st_mtime
                size = sum(file.stat(follow_symlinks=False).st_size for file in os.scandir(item.path))
                yield Stored(name=item.name, bytes=size, used=used, path=Path(item.path))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""What files hold, remembered: their sha256 by size, times and inode, so that a file is hashed only once.

A file is known by a keyed hash of its path, never by the path. What has changed within the precision of its time stamp
may change again unseen, and is not remembered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from medtl_monai.data.cache.places import MODE_FILE

FRESH_NS = 2_000_000_000
"""A file that changed so shortly before it was read is read again next time."""

_CHUNK = 500
_DAY = 86_400
_RENEWED_DAYS = 7
_PATIENCE_S = 10.0
_BLOCK = 1 << 20

Stamp = tuple[int, int, int, int]
"""Size in bytes, times of the last change of content and of inode in nanoseconds, inode."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Files at one moment.

    Attributes:
        files: The files.
        stamps: Their stamps, taken before their bytes were read.
        hashes: Sha256 of their bytes, as hex digits.
    """

    files: tuple[Path, ...] = dataclasses.field(repr=False)
    stamps: tuple[Stamp, ...]
    hashes: tuple[str, ...]

    def holds(self) -> bool:
        """Whether no file has changed since."""
        try:
            return all(stamp(file) == then for file, then in zip(self.files, self.stamps, strict=True))
        except OSError:
            return False


def stamp(file: Path) -> Stamp:
    """Return what tells whether a file has changed.

    Raises:
        OSError: There is no such file.
    """
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class Stamps:
    """Remembers what files hold.

    Args:
        path: The SQLite file. One that cannot be used costs time, never a result.
        key: Key of the hashes that stand for paths.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = key

    def snapshot(self, files: Sequence[Path]) -> Snapshot:
        """Return the content hashes of files; only those that are new or have changed are read.

        Raises:
            OSError: A file cannot be read.
        """
        stamps = tuple(stamp(file) for file in files)
        names = self._names(files)
        known = self._known(names)
        hashes, fresh, renewed = [], [], []
        today = int(time.time()) // _DAY
        for file, at, name in zip(files, stamps, names, strict=True):
            row = known.get(name)
            if row is not None and row[:4] == at:
                digest = row[4]
                if today - row[5] >= _RENEWED_DAYS:
                    renewed.append((today, name))
            else:
                digest = _sha256(file)
                if max(at[1:3]) + FRESH_NS <= time.time_ns() and stamp(file) == at:
                    fresh.append((name, *at, digest, today))
            hashes.append(digest)
        self._keep(fresh, renewed)
        return Snapshot(tuple(files), stamps, tuple(h.hex() for h in hashes))

    def forget(self, older_than_days: float = 0.0) -> None:
        """Forget files that were not asked for in so many days."""
        limit = int(time.time() - older_than_days * _DAY) // _DAY
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as base, base:
            base.execute("DELETE FROM files WHERE used <= ?", (limit,))

    def _names(self, files: Sequence[Path]) -> list[bytes]:
        folders: dict[Path, bytes] = {}
        names = []
        for file in files:
            if file.parent not in folders:
                folders[file.parent] = os.fsencode(os.path.realpath(file.parent))
            place = b"\0".join((folders[file.parent], os.fsencode(file.name)))
            names.append(hmac.digest(self._key, b"file\0" + place, "sha256")[:16])
        return names

    def _known(self, names: Sequence[bytes]) -> dict[bytes, tuple[int, int, int, int, bytes, int]]:
        found: dict[bytes, tuple[int, int, int, int, bytes, int]] = {}
        if not self._path.exists():
            return found
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as base:
            for first in range(0, len(names), _CHUNK):
                some = names[first : first + _CHUNK]
                marks = ",".join("?" * len(some))
                rows = base.execute(f"SELECT * FROM files WHERE name IN ({marks})", some).fetchall()
                found.update((row[0], row[1:]) for row in rows)
        return found

    def _keep(self, fresh: Sequence[tuple[object, ...]], renewed: Sequence[tuple[int, bytes]]) -> None:
        if not fresh and not renewed:
            return
        try:
            with contextlib.closing(self._open()) as base, base:
                base.executemany("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", fresh)
                base.executemany("UPDATE files SET used = ? WHERE name = ?", renewed)
        except sqlite3.OperationalError:
            # Locked for long, or the disk is full: these files are read again next time.
            return
        except (sqlite3.DatabaseError, OSError):
            # Damaged: what it knew is not worth saving.
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _open(self) -> sqlite3.Connection:
        # Made with its permissions before anything is in it; SQLite's journal takes them over.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), MODE_FILE))
        base = sqlite3.connect(self._path, timeout=_PATIENCE_S)
        try:
            base.execute("PRAGMA trusted_schema = OFF")
            base.execute(
                "CREATE TABLE IF NOT EXISTS files (name BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, "
                "ctime INTEGER, inode INTEGER, sha256 BLOB, used INTEGER) WITHOUT ROWID"
            )
        except BaseException:
            base.close()
            raise
        return base


def _sha256(file: Path) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.digest()

"""The folder of entries: atomic, bounded, shared by processes; whatever goes wrong with it costs time, never a run."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtl_monai.data.cache.entry import Array, Damaged, Entry, write_entry
from medtl_monai.data.cache.places import ENTRIES
from medtl_monai.data.cache.usage import TEMPORARY, Stored, entries, remove, sweep

DISK_SHARE = 0.5
"""Share of the disk's free space (its own included) that a cache may take, whatever its bound."""

_RECORD_BYTES = 4096
"""Estimate of what an entry needs beside its arrays."""

_TOUCH_S = 300.0
_RECOUNT_S = 30.0


class Store:
    """Entries by key.

    Args:
        folder: A cache folder, see :func:`medtl_monai.data.cache.places.make_folder`.
        max_bytes: Upper bound of all entries together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._entries = folder / ENTRIES
        self._folder = folder
        self.max_bytes = max_bytes
        self.trouble = ""
        """Why nothing more is written; empty while all is well."""
        self.crowded_out = 0
        """Entries that were not kept because this run's own fill the bound."""
        # File systems keep coarser time than this.
        self._started = time.time() - 1.0
        self._touched: dict[str, float] = {}
        self._sound: set[tuple[str, int, int]] = set()
        self._size = 0
        self._counted = float("-inf")
        sweep(folder)

    def find(self, key: str) -> Entry | None:
        """Return an entry that is there and whole. One that is damaged is removed."""
        folder = self._entries / key
        if not folder.is_dir():
            return None
        try:
            entry = Entry(folder, self._sound)
        except Damaged:
            remove(Stored(name=key, bytes=0, used=0.0, path=folder))
            return None
        self.touch(key)
        return entry

    def touch(self, key: str) -> None:
        """Note that an entry is in use, so that others are evicted before it."""
        now = time.time()
        if now - self._touched.get(key, 0.0) < _TOUCH_S:
            return
        self._touched[key] = now
        try:
            os.utime(self._entries / key)
        except OSError:
            # Gone, or not ours to touch: both only make its eviction more likely.
            return

    def put(self, key: str, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Entry | None:
        """Store an entry; if another process was faster, its entry counts.

        Returns:
            The entry; None where there is no room for it, or the disk refuses (see :attr:`trouble`).
        """
        if self.trouble:
            return None
        need = _RECORD_BYTES + sum(array.nbytes for array in arrays.values())
        try:
            if not self._make_room(need):
                self.crowded_out += 1
                return None
            temporary = Path(tempfile.mkdtemp(prefix=f".{key[:8]}.", suffix=TEMPORARY, dir=self._entries))
            try:
                write_entry(temporary, arrays, facts)
                self._publish(temporary, self._entries / key)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            self.trouble = _reason(error)
            return None
        self._size += need
        return self.find(key)

    def _publish(self, temporary: Path, final: Path) -> None:
        try:
            temporary.rename(final)
        except OSError as error:
            # Another process made the same entry meanwhile.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) and not final.is_dir():
                raise

    def _make_room(self, need: int) -> bool:
        """Evict what was used longest ago until ``need`` bytes fit; never what was used since this run started."""
        if time.monotonic() - self._counted < _RECOUNT_S and self._size + need <= self._limit(self._size):
            return True
        found = entries(self._folder)
        self._size = sum(each.bytes for each in found)
        self._counted = time.monotonic()
        limit = self._limit(self._size)
        for each in found:
            if self._size + need <= limit:
                break
            if each.name in self._touched or each.used >= self._started:
                continue
            self._size -= remove(each).bytes
        return self._size + need <= limit

    def _limit(self, own: int) -> int:
        return min(self.max_bytes, int(DISK_SHARE * (own + shutil.disk_usage(self._entries).free)))


def _reason(error: OSError) -> str:
    """Say what the system said, without the path."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "written" in str(error):
        # numpy reports a short write without a number.
        return "the disk is full"
    return os.strerror(error.errno) if error.errno else type(error).__name__

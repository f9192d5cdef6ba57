"""One entry: a folder of ``.npy`` files and ``entry.json``, which says what they are and whether they are whole."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtl_monai.data.cache.places import LAYOUT, MODE_FILE

Array = NDArray[Any]

RECORD = "entry.json"


class Damaged(Exception):  # noqa: N818
    """An entry is not what was written; it is made anew."""


class Entry:
    """An entry that was found whole.

    Args:
        folder: Where it is.
        sound: Files (with their times) that this process has read through; they are not read through again.

    Raises:
        Damaged: A file is missing, cut short or changed.
    """

    def __init__(self, folder: Path, sound: set[tuple[str, int, int]] | None = None) -> None:
        self._folder = folder
        self._sound = set() if sound is None else sound
        content = _read(folder / RECORD)
        self._files: dict[str, dict[str, Any]] = content["files"]
        self.facts: dict[str, Any] = content["facts"]
        """What was stored beside the arrays."""
        for name in self._files:
            self._check(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays' names."""
        return tuple(self._files)

    def open(self, name: str) -> Array:
        """Map an array into memory, read-only.

        Raises:
            Damaged: It has gone since the entry was opened.
        """
        try:
            return np.load(self._path(name), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise Damaged(name) from error

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _check(self, name: str) -> None:
        """Trust a file that has not changed since it was written; read through one that may have (a copy, a restore).

        A truncated file would end the process with SIGBUS once it is mapped, so sizes are always looked at.
        """
        record = self._files[name]
        try:
            status = os.stat(self._path(name))
        except OSError as error:
            raise Damaged(name) from error
        if status.st_size != record["bytes"]:
            raise Damaged(name)
        now = (str(self._path(name)), status.st_mtime_ns, status.st_ctime_ns)
        if list(now[1:]) == record["times"] or now in self._sound:
            return
        array = self.open(name)
        if str(array.dtype) != record["dtype"] or list(array.shape) != record["shape"]:
            raise Damaged(name)
        if zlib.crc32(np.ascontiguousarray(array).data) != record["crc32"]:
            raise Damaged(name)
        self._sound.add(now)


def write_entry(folder: Path, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """Write an entry into an empty folder; every byte is on the disk when this returns.

    Raises:
        OSError: The disk is full, or it is not allowed.
    """
    files: dict[str, Any] = {}
    for name, given in arrays.items():
        array = np.ascontiguousarray(given)
        path = folder / f"{name}.npy"
        with _new(path) as file:
            # Written, not mapped: a full disk is then an error and no SIGBUS.
            np.lib.format.write_array(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        status = os.stat(path)
        files[name] = {
            "bytes": status.st_size,
            "crc32": zlib.crc32(array.data),
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "times": [status.st_mtime_ns, status.st_ctime_ns],
        }
    content = {"layout": LAYOUT, "files": files, "facts": dict(facts)}
    text = json.dumps({"content": content, "crc32": _checksum(content)})
    with _new(folder / RECORD) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _new(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE_FILE), "wb")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        content: dict[str, Any] = value["content"]
        whole = value["crc32"] == _checksum(content) and content["layout"] == LAYOUT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(RECORD) from error
    if not whole:
        raise Damaged(RECORD)
    return content


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())

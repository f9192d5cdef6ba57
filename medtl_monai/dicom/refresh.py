"""Bring the index of a tree up to date: read what is new or changed, forget what is gone, group what that touches.

Reading, grouping and sealing are done by worker processes; this process walks over the tree and keeps the books.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import marshal
import sqlite3
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from medtl_monai.dicom import records
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.parse import Damaged, Skipped, parse_file
from medtl_monai.dicom.seal import Seal
from medtl_monai.dicom.split import split_series
from medtl_monai.dicom.store import GROUPS_OF_SERIES, Group, Store, series_headers
from medtl_monai.dicom.tree import File, Folder, walk_tree
from medtl_monai.notices import kept_back

FRESH_NS = 2_000_000_000
"""A file changed so shortly before it was read may have changed again within its time stamp's precision."""
LEFT_OUT = "left out as asked"
"""Reason of files that match a pattern of ``skip``."""
LINK = "a link that leads out of the data root, not followed"
"""Reason of links."""

CHUNK = 256
"""Files that a worker reads at a time."""
_SEALED_BYTES = 2**18
_RESULTS = 32
_UNSETTLED = (0, 0, 0, 0)

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
Chunk = tuple[str, list[File], bool]
"""A folder, some of its files, and whether these are the last."""
Part = tuple[int, bytes, int, bytes, bytes]
"""Number, version, number of slices, sealed summary and sealed order of the slices of a candidate volume."""


def refresh(store: Store, *, workers: int = 1, skip: Sequence[str] = ()) -> int:
    """Bring an index up to date.

    What is done is kept bit by bit: a refresh that is interrupted goes on where it was.

    Args:
        store: The index.
        workers: Processes.
        skip: Patterns of files to leave out; always the same ones for one index.

    Returns:
        The number of files that were read.

    Raises:
        StorageError: The index cannot be written.
    """
    with store.session() as base, _Books(base) as books, _Workers(workers) as pool:
        base.execute("CREATE TEMP TABLE present (id INTEGER PRIMARY KEY)")
        walk = _Walk(store, books, skip)
        for read in pool.map(_read, ((store.root, store.seal, task) for task in walk.tasks())):
            for found in read:
                walk.enter(found)
            books.turn_page()
        books.forget_absent()
        for regrouped in pool.map(_regroup, _dirty_series(store, base)):
            for key, parts in regrouped:
                books.replace_series(key, parts)
            books.turn_page()
    return walk.read


class _Books:
    """What is written, in pages: a page is kept as a whole or not at all."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        self._results = 0

    def __enter__(self) -> Self:
        self.base.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.base.execute("COMMIT" if kind is None else "ROLLBACK")

    def turn_page(self) -> None:
        """Keep what there is, now and then."""
        self._results += 1
        if self._results % _RESULTS == 0:
            self.base.execute("COMMIT")
            self.base.execute("BEGIN IMMEDIATE")

    def folder(self, place: bytes) -> tuple[int, bytes | None]:
        """Return number and signature of a folder, which is made if it is new, and take note that it is there."""
        row = self.base.execute("SELECT id, signature FROM folders WHERE place = ?", (place,)).fetchone()
        if row is None:
            number = self.base.execute("INSERT INTO folders (place) VALUES (?)", (place,)).lastrowid or 0
            row = (number, None)
        self.base.execute("INSERT INTO present VALUES (?)", (row[0],))
        return int(row[0]), row[1]

    def sign(self, folder: int, signature: bytes | None) -> None:
        """Say that a folder is known as it is, or is not."""
        self.base.execute("UPDATE folders SET signature = ? WHERE id = ?", (signature, folder))

    def add(self, folder: int, group: Group) -> None:
        """Add files of a folder."""
        values = (folder, group.series, group.skipped, group.notable, group.sealed)
        self.base.execute(
            "INSERT INTO groups (folder, series, skipped, notable, sealed) VALUES (?, ?, ?, ?, ?)", values
        )
        self.touch(group.series)

    def drop(self, group: int, series: bytes | None) -> None:
        """Forget files."""
        self.base.execute("DELETE FROM groups WHERE id = ?", (group,))
        self.touch(series)

    def touch(self, series: bytes | None) -> None:
        """Take a series off the index until it has been grouped anew."""
        if series is not None:
            self.base.execute("INSERT OR IGNORE INTO dirty VALUES (?)", (series,))
            self.base.execute("DELETE FROM series WHERE key = ?", (series,))

    def forget_absent(self) -> None:
        """Forget folders that are not there any more."""
        absent = "folder NOT IN (SELECT id FROM present)"
        for (series,) in self.base.execute(f"SELECT DISTINCT series FROM groups WHERE {absent}").fetchall():
            self.touch(series)
        self.base.execute(f"DELETE FROM groups WHERE {absent}")
        self.base.execute("DELETE FROM folders WHERE id NOT IN (SELECT id FROM present)")

    def replace_series(self, key: bytes, parts: Sequence[Part]) -> None:
        """Write the candidate volumes of a series."""
        self.base.execute("DELETE FROM series WHERE key = ?", (key,))
        self.base.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?)", [(key, *part) for part in parts])
        self.base.execute("DELETE FROM dirty WHERE key = ?", (key,))


class _Walk:
    """The walk over the tree: what must be read, and what has been."""

    def __init__(self, store: Store, books: _Books, skip: Sequence[str]) -> None:
        self.store = store
        self.books = books
        self.skip = skip
        self.read = 0
        self._open: dict[str, tuple[int, bytes]] = {}
        self._settled: dict[str, bool] = {}

    def tasks(self) -> Iterator[list[Chunk]]:
        """Yield files to read, some hundred at a time."""
        task: list[Chunk] = []
        room = CHUNK
        for folder in walk_tree(self.store.root, self.skip):
            for chunk in self._chunks(folder):
                task.append(chunk)
                room -= len(chunk[1])
                if room <= 0:
                    yield task
                    task, room = [], CHUNK
        if task:
            yield task

    def _chunks(self, folder: Folder) -> Iterator[Chunk]:
        """Yield what is new or changed in a folder; nothing if it is known as it is."""
        signature = self.store.seal.digest(marshal.dumps((folder.files, folder.left_out, folder.links), 0))
        number, known = self.books.folder(self.store.seal.name(folder.path))
        if known == signature:
            return
        self.books.sign(number, None)
        changed = self._changed(number, folder)
        self._open[folder.path] = (number, signature)
        self._settled[folder.path] = True
        for start in range(0, max(1, len(changed)), CHUNK):
            yield folder.path, changed[start : start + CHUNK], start + CHUNK >= len(changed)

    def _changed(self, number: int, folder: Folder) -> list[File]:
        """Forget what has changed in a folder, and return what must be read."""
        now = {file[0]: file for file in folder.files}
        seal = self.store.seal
        rows = self.books.base.execute("SELECT id, series, sealed FROM groups WHERE folder = ?", (number,)).fetchall()
        for group, series, sealed in rows:
            try:
                files = seal.open(sealed)[1]
            except ValueError:
                files = [None]
            kept = [file for file in files if file and now.get(file[0]) == (file[0], *file[1])]
            for file in kept:
                del now[file[0]]
            if len(kept) < len(files):
                self.books.drop(group, series)
                if kept:
                    self.books.add(number, Group.of(folder.path, series, kept, seal))
        left = [(name, _UNSETTLED, records.pack(Skipped(name, LEFT_OUT))) for name in folder.left_out]
        left += [(name, _UNSETTLED, records.pack(Skipped(name, LINK))) for name in folder.links]
        if left:
            self.books.add(number, Group.of(folder.path, None, left, seal))
        return list(now.values())

    def enter(self, found: _Read) -> None:
        """Write down what files turned out to be."""
        number, signature = self._open[found.folder]
        self.read += found.count
        self._settled[found.folder] &= found.settled
        for group in found.groups:
            self.books.add(number, group)
        if found.last:
            if self._settled.pop(found.folder):
                self.books.sign(number, signature)
            del self._open[found.folder]


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """What files of one folder turned out to be; settled when that will not change unless they do."""

    folder: str
    count: int
    last: bool
    groups: list[Group]
    settled: bool


def _read(task: tuple[Path, Seal, list[Chunk]]) -> list[_Read]:
    root, seal, chunks = task
    return [_read_chunk(root, seal, *chunk) for chunk in chunks]


def _read_chunk(root: Path, seal: Seal, folder: str, files: list[File], last: bool) -> _Read:
    """Read files of one folder and sort them by series."""
    prefix = f"{folder}/" if folder else ""
    found: dict[bytes | None, list[Any]] = defaultdict(list)
    settled = True
    for name, *stamp in files:
        now = time.time_ns()
        parsed = parse_file(root, prefix + name)
        fresh = max(stamp[1], stamp[2]) + FRESH_NS > now or (isinstance(parsed, Damaged) and parsed.transient)
        settled &= not fresh
        key = seal.name(*parsed.group) if isinstance(parsed, Header) else None
        found[key].append((name, _UNSETTLED if fresh else stamp, records.pack(parsed)))
    groups = [Group.of(folder, key, some, seal) for key, some in found.items()]
    return _Read(folder, len(files), last, groups, settled)


def _dirty_series(
    store: Store, base: sqlite3.Connection
) -> Iterator[tuple[Path, Seal, list[tuple[bytes, list[bytes]]]]]:
    task: list[tuple[bytes, list[bytes]]] = []
    size = 0
    for (key,) in base.execute("SELECT key FROM dirty ORDER BY key").fetchall():
        groups = [sealed for (sealed,) in base.execute(GROUPS_OF_SERIES, (key,))]
        task.append((key, groups))
        size += sum(map(len, groups))
        if size > _SEALED_BYTES:
            yield store.root, store.seal, task
            task, size = [], 0
    if task:
        yield store.root, store.seal, task


def _regroup(task: tuple[Path, Seal, list[tuple[bytes, list[bytes]]]]) -> list[tuple[bytes, list[Part]]]:
    root, seal, dirty = task
    return [(key, _parts(root, seal, [seal.open(sealed) for sealed in groups])) for key, groups in dirty]


def _parts(root: Path, seal: Seal, groups: list[Any]) -> list[Part]:
    """Split a series into its candidate volumes."""
    headers = series_headers(groups)
    if not headers:
        return []
    known = sorted(json.dumps([folder, name, record]) for folder, files in groups for name, _, record in files)
    version = hashlib.blake2b("\n".join(known).encode(), digest_size=16).digest()
    numbers = {header.path: number for number, header in enumerate(headers)}
    parts = []
    with kept_back() as told:
        candidates = split_series(root, headers)
    for number, series in enumerate(candidates):
        layout = [(numbers[item.header.path], item.frame) for item in series.slices]
        summary = seal.close([headers[0].path, [] if number else told, records.pack_series(series)])
        parts.append((number, version, len(layout), summary, seal.close(layout)))
    return parts


class _Workers:
    """Processes that are started when there is enough to do, and are never given much more than they can do."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(self, function: Callable[[TaskT], ResultT], tasks: Iterator[TaskT]) -> Iterator[ResultT]:
        """Yield the results in order."""
        first = next(tasks, None)
        second = next(tasks, None) if first is not None else None
        if first is None:
            return
        if self._count <= 1 or second is None:
            yield function(first)
            if second is not None:
                yield function(second)
            yield from map(function, tasks)
            return
        if self._pool is None:
            self._pool = self._stack.enter_context(ProcessPoolExecutor(self._count))
        waiting: deque[Future[ResultT]] = deque(self._pool.submit(function, task) for task in (first, second))
        for task in tasks:
            waiting.append(self._pool.submit(function, task))
            if len(waiting) > 4 * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""The index of a scanned tree: what its files and series are, in SQLite, sealed.

The unit of change is the folder: its signature covers the names, sizes, times and inodes of its files, so a scan of a
tree in which nothing has changed compares one number a folder. The unit of reading is the series: its slices are
fetched when somebody looks at them, so that a million files need no more memory than a thousand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from medtl_monai import __version__
from medtl_monai.dicom import records
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.seal import Seal
from medtl_monai.dicom.series import Slice
from medtl_monai.errors import DicomError, StorageError
from medtl_monai.files import translate_os_errors

_PATIENCE_S = 30.0
_RECENT = 4
_TABLES = {
    "about": "(key TEXT PRIMARY KEY, value TEXT)",
    "folders": "(id INTEGER PRIMARY KEY, place BLOB UNIQUE NOT NULL, signature BLOB)",
    "groups": "(id INTEGER PRIMARY KEY, folder INTEGER NOT NULL, series BLOB, skipped TEXT, notable INTEGER, "
    "sealed BLOB NOT NULL)",
    "series": "(key BLOB, part INTEGER, version BLOB, count INTEGER, summary BLOB, layout BLOB, "
    "PRIMARY KEY (key, part)) WITHOUT ROWID",
    "dirty": "(key BLOB PRIMARY KEY) WITHOUT ROWID",
}
_INDICES = ("CREATE INDEX by_folder ON groups (folder)", "CREATE INDEX by_series ON groups (series)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Files of one folder that belong to one series, or to none.

    Attributes:
        series: Keyed hash of the series; None for files that are no images.
        skipped: Reason → number of files, as JSON; None for images.
        notable: Whether some are more than junk: objects, damaged files, blank ones.
        sealed: The folder, and name, stamp and record of each file.
    """

    series: bytes | None
    skipped: str | None
    notable: bool
    sealed: bytes

    @classmethod
    def of(cls, folder: str, series: bytes | None, files: Sequence[Sequence[Any]], seal: Seal) -> Self:
        """Seal files given as (name, stamp, record)."""
        sealed = seal.close([folder, files])
        if series is not None:
            return cls(series=series, skipped=None, notable=False, sealed=sealed)
        kept = [record for _, _, record in files]
        skipped = Counter(record[1] for record in kept if record[0] == "S")
        notable = any(record[0] != "S" or record[2] for record in kept)
        return cls(series=None, skipped=json.dumps(skipped), notable=notable, sealed=sealed)


class DamagedIndexError(StorageError):
    """A record of an index cannot be opened: its bytes have changed."""


class Store:
    """The index of one tree.

    Args:
        path: The SQLite file; made, with mode 0600, if it is not there.
        root: The tree.
        seal: Closes and opens the records.
        about: What else the index depends on; an index made with anything else is emptied first.
        durable: Whether it must survive a power cut.

    Raises:
        StorageError: The file can neither be opened nor made, is something else, or another process is writing to it.
    """

    def __init__(self, path: Path, root: Path, seal: Seal, *, about: str = "", durable: bool = True) -> None:
        self.path = path
        self._durable = durable
        self.root = root
        self.seal = seal
        self._recent: tuple[tuple[tuple[bytes, int, bytes], list[Slice]], ...] = ()
        self._headers_of: tuple[tuple[bytes, bytes], list[Header]] | None = None
        real = seal.name(os.path.realpath(root), about).hex()
        self._about = {"program": "medtl scan", "tree": real, "version": __version__, "layout": records.LAYOUT}
        self._make_file()
        with self.writing() as base:
            self._prepare(base)

    @classmethod
    def temporary(cls, root: Path) -> Store:
        """Return an index that nobody can read and that goes when nothing refers to it any more."""
        folder = Path(tempfile.mkdtemp(prefix="medtl-"))
        store = cls(folder / "index.db", root, Seal(os.urandom(32)), durable=False)
        weakref.finalize(store, _remove_own, folder, os.getpid())
        return store

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open the index for a look at one moment's state. Connections are not shared: not with forked processes."""
        with self._translated(), contextlib.closing(self._connected()) as base:
            base.execute("BEGIN")
            yield base

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open the index for changes, which are kept together if the block ends without an error."""
        with self._translated(), contextlib.closing(self._connected()) as base, transaction(base):
            yield base

    @contextlib.contextmanager
    def session(self) -> Iterator[sqlite3.Connection]:
        """Open the index for several transactions."""
        with self._translated(), contextlib.closing(self._connected()) as base:
            yield base

    def slices(self, key: bytes, part: int, version: bytes) -> list[Slice]:
        """Return the slices of a series.

        Raises:
            DicomError: The series has been scanned anew since, and is another one.
            StorageError: The index cannot be read.
        """
        wanted = (key, part, version)
        # Whoever looks at one slice mostly looks at the others next.
        known = next((slices for name, slices in self._recent if name == wanted), None)
        if known is not None:
            return known
        with self.reading() as base:
            row = base.execute("SELECT version, layout FROM series WHERE key = ? AND part = ?", (key, part)).fetchone()
            if row is None or row[0] != version:
                what = "the files of a series have changed since they were scanned"
                raise DicomError(what, where=self.root.name, mend="Scan again")
            headers = self._headers(base, key, version)
            slices = [Slice(headers[number], frame) for number, frame in self.open(row[1])]
        self._recent = ((wanted, slices), *self._recent[: _RECENT - 1])
        return slices

    def _headers(self, base: sqlite3.Connection, key: bytes, version: bytes) -> list[Header]:
        # Parts of one series are mostly looked at one after another.
        if self._headers_of is None or self._headers_of[0] != (key, version):
            headers = series_headers([self.open(s) for (s,) in base.execute(GROUPS_OF_SERIES, (key,))])
            self._headers_of = ((key, version), headers)
        return self._headers_of[1]

    def open(self, sealed: bytes) -> Any:
        """Return what was sealed.

        Raises:
            DamagedIndexError: It cannot be opened.
        """
        try:
            return self.seal.open(sealed)
        except ValueError as error:
            raise DamagedIndexError("the index is damaged", where=self.path.name, mend="Remove it") from error

    def empty(self) -> None:
        """Forget everything."""
        with self.writing() as base:
            for name in _TABLES.keys() - {"about"}:
                base.execute(f"DELETE FROM {name}")

    def _make_file(self) -> None:
        with translate_os_errors(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Made with its permissions before anything is in it; SQLite's journal takes them over.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            except (IsADirectoryError, FileExistsError, NotADirectoryError) as error:
                raise StorageError("not a file", where=self.path.name, mend="Choose another index") from error

    def _connected(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)
        base.execute("PRAGMA trusted_schema = OFF")
        if not self._durable:
            base.execute("PRAGMA synchronous = OFF")
        return base

    def _prepare(self, base: sqlite3.Connection) -> None:
        tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and tables != set(_TABLES):
            raise sqlite3.DatabaseError("another program's")
        if tables and dict(base.execute("SELECT key, value FROM about").fetchall()) == self._about:
            return
        for name in tables:
            base.execute(f"DROP TABLE {name}")
        for name, columns in _TABLES.items():
            base.execute(f"CREATE TABLE {name} {columns}")
        for statement in _INDICES:
            base.execute(statement)
        base.executemany("INSERT INTO about VALUES (?, ?)", self._about.items())
        self.path.chmod(0o600)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            locked = getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY"
            what = "another scan is using the index" if locked else f"the index cannot be used ({error})"
            mend = "Wait for it, or scan without an index" if locked else "Remove it, or choose another file"
            raise StorageError(what, where=self.path.name, mend=mend) from error


GROUPS_OF_SERIES = "SELECT sealed FROM groups WHERE series = ? ORDER BY id"


@contextlib.contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[None]:
    """Keep changes together if the block ends without an error, else undo them."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        base.execute("ROLLBACK")
        raise
    base.execute("COMMIT")


def series_headers(groups: list[Any]) -> list[Header]:
    """Return the headers of a series, sorted by path, from its groups' records."""
    headers = []
    for folder, files in groups:
        for name, _, record in files:
            header = records.unpack(record, f"{folder}/{name}" if folder else name)
            if isinstance(header, Header):
                headers.append(header)
    headers.sort(key=lambda header: header.path)
    return headers


def _remove_own(folder: Path, pid: int) -> None:
    # A forked worker inherits the finaliser, but not the folder.
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)

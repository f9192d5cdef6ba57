"""An index of a scanned tree: the headers of its files in SQLite, so that a scan reads only what has changed.

It holds the identifiers that the files hold. It is therefore made on request only, stays in the user's own cache
folder, and nobody else may read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from medtl_monai import __version__
from medtl_monai.dicom import records
from medtl_monai.dicom.parse import Parsed
from medtl_monai.errors import StorageError
from medtl_monai.files import translate_os_errors

FRESH_NS = 2_000_000_000
"""A file changed so shortly before it was read may have changed again within its time stamp's precision."""

_PATIENCE_S = 30.0
_TABLES = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE files (folder BLOB, name BLOB, size INTEGER, mtime INTEGER, ctime INTEGER, record TEXT, "
    "PRIMARY KEY (folder, name)) WITHOUT ROWID",
)

Stamp = tuple[int, int, int]
"""Size in bytes, and times of the last change of content and of inode, in nanoseconds."""


def index_path(root: Path) -> Path:
    """Return where the index of a tree is: ``$XDG_CACHE_HOME/medtl/scans`` or ``~/.cache/medtl/scans``, by a hash."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "medtl" / "scans" / f"{_place(root)[:32]}.sqlite"


def _place(root: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()


def stamp(path: str) -> Stamp | None:
    """Return what tells whether a file has changed; None if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class HeaderIndex:
    """The index of one tree. Use it as a context: leaving it without an error keeps what was found.

    An index of another tree or of another version of medtl is emptied first.

    Args:
        path: The SQLite file.
        root: The tree.

    Raises:
        StorageError: The file can neither be opened nor made, is no index, or another scan is using it.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._about = {"root": _place(root), "version": __version__, "layout": records.LAYOUT}
        self._folder: bytes | None = None
        self._rows: dict[bytes, tuple[Stamp, str]] = {}
        with self._translated():
            self._base = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.closing(self._base), self._translated():
            if kind is None:
                self._base.commit()

    def find(self, name: str, now: Stamp) -> Parsed | None:
        """Return what the file was, if it has not changed since.

        Args:
            name: The file, relative to the root; files of one folder are best asked for one after another.
            now: Its stamp.
        """
        folder, leaf = _split(name)
        if folder != self._folder:
            self._enter(folder)
        known = self._rows.get(leaf)
        if known is None or known[0] != now:
            return None
        try:
            return records.unpack(known[1], name)
        except ValueError:
            return None

    def keep(self, name: str, at: Stamp, parsed: Parsed, read_ns: int) -> None:
        """Remember a file.

        Args:
            name: The file.
            at: Its stamp before it was read.
            parsed: What it is.
            read_ns: When it was read. If that is hardly after it changed, it is not remembered.
        """
        record = records.pack(parsed)
        with self._translated():
            if record is None or max(at[1:]) + FRESH_NS > read_ns:
                self._base.execute("DELETE FROM files WHERE folder = ? AND name = ?", _split(name))
                return
            self._base.execute("REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", (*_split(name), *at, record))

    def forget_others(self, names: Iterable[str]) -> int:
        """Drop files that are not among ``names``; return how many."""
        with self._translated():
            self._base.execute("CREATE TEMP TABLE present (folder BLOB, name BLOB, PRIMARY KEY (folder, name))")
            self._base.executemany("INSERT OR IGNORE INTO present VALUES (?, ?)", map(_split, names))
            gone = self._base.execute("DELETE FROM files WHERE (folder, name) NOT IN (SELECT * FROM present)")
            return gone.rowcount

    def _enter(self, folder: bytes) -> None:
        with self._translated():
            rows = self._base.execute(
                "SELECT name, size, mtime, ctime, record FROM files WHERE folder = ?", (folder,)
            ).fetchall()
        self._folder = folder
        self._rows = {name: ((size, mtime, ctime), record) for name, size, mtime, ctime, record in rows}

    def _open(self) -> sqlite3.Connection:
        with translate_os_errors(self._path):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Made with its permissions before anything is in it; SQLite's journal takes them over.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            except (IsADirectoryError, FileExistsError, NotADirectoryError) as error:
                raise StorageError("not a file", where=self._path.name, mend="Choose another index") from error
        base = sqlite3.connect(self._path, timeout=_PATIENCE_S)
        try:
            self._prepare(base)
        except BaseException:
            base.close()
            raise
        return base

    def _prepare(self, base: sqlite3.Connection) -> None:
        base.execute("PRAGMA trusted_schema = OFF")
        base.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and tables != {"about", "files"}:
            raise sqlite3.DatabaseError("another program's")
        if tables and dict(base.execute("SELECT key, value FROM about").fetchall()) == self._about:
            return
        for name in sorted(tables):
            base.execute(f"DROP TABLE {name}")
        for statement in _TABLES:
            base.execute(statement)
        base.executemany("INSERT INTO about VALUES (?, ?)", self._about.items())
        self._path.chmod(0o600)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            locked = getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY"
            what = "another scan is using the index" if locked else f"the index cannot be used ({error})"
            mend = "Wait for it, or scan without an index" if locked else "Remove it, or choose another file"
            raise StorageError(what, where=self._path.name, mend=mend) from error


def _split(name: str) -> tuple[bytes, bytes]:
    folder, _, leaf = name.rpartition("/")
    return os.fsencode(folder), os.fsencode(leaf)

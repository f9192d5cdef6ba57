"""Scan a tree for DICOM files: headers only, by content, never by name."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

from medtl_monai.dicom.archive import is_zip_file, remove, unpack
from medtl_monai.dicom.found import Found
from medtl_monai.dicom.parse import Parsed, Skipped, parse_file
from medtl_monai.dicom.recall import recall
from medtl_monai.dicom.refresh import LEFT_OUT, LINK, refresh
from medtl_monai.dicom.seal import Seal
from medtl_monai.dicom.series import StudyIndex
from medtl_monai.dicom.store import DamagedIndexError, Store
from medtl_monai.dicom.tree import Folder, walk_tree
from medtl_monai.errors import DicomError

_log = logging.getLogger(__name__)
_CHUNK = 256
SMALL = 4096
"""Most files of a tree whose headers are kept in memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Where a scan is remembered, so that the next one reads only what has changed.

    Attributes:
        file: The index; made if it is not there. See :func:`index_path`.
        key: Seals it: with another key it cannot be read, and is made anew.
    """

    file: Path
    key: bytes = dataclasses.field(repr=False)


def index_path(root: Path, skip: Sequence[str] = ()) -> Path:
    """Return where the index of a tree is: ``$XDG_CACHE_HOME/medtl/scans`` or ``~/.cache/medtl/scans``, by a hash."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    what = b"\0".join(map(os.fsencode, (os.path.realpath(root), *skip)))
    return folder / "medtl" / "scans" / f"{hashlib.sha256(what).hexdigest()[:32]}.db"


def scan(
    path: Path | str, *, workers: int | None = None, skip: Sequence[str] = (), memory: Memory | None = None
) -> StudyIndex:
    """Scan a folder recursively, a zip archive, or a single file.

    Every file is judged by its content. Symbolic links that lead out of the folder are not followed; a DICOMDIR is
    ignored as an index, the files it lists are found by themselves. A zip archive is unpacked into a private temporary
    folder, which is there until the index is closed or the process ends; archives inside of others are not opened.

    Headers of large trees are not kept in memory but in a temporary index, which goes when nothing refers to it.

    Args:
        path: The data root, or one file.
        workers: Processes that parse headers; None or 1 parses in this process.
        skip: Patterns such as ``"*.jpg"`` or ``"old"``: files are left out whose path below the root, or a part of
            it, matches one. They are counted.
        memory: Where to remember the headers of this folder: only files whose size, times or inode have changed are
            read, and what is gone is forgotten. For archives and single files it is not used.

    Returns:
        All candidate volumes, segmentations and structure sets, everything skipped with its reason, and the damaged
        files.

    Raises:
        DicomError: ``path`` does not exist, or is an archive that may not be unpacked.
        StorageError: There is no room to unpack an archive, or the index cannot be used.

    Example:
        >>> index = scan("studies")                                  # doctest: +SKIP
        >>> [series.summary() for series in index.series]            # doctest: +SKIP
        ['MR 35×51×35, 1×1×1 mm']
    """
    path = Path(path)
    if not path.exists():
        raise DicomError("no such file or folder", where=path.name, mend="Check the path")
    if path.is_file() and is_zip_file(path):
        folder = unpack(path)
        try:
            return dataclasses.replace(_scan_folder(folder, workers, skip, None), temporary=folder)
        except BaseException:
            remove(folder)
            raise
    if path.is_file():
        return _in_memory(path.parent, [Folder("", [(path.name, 0, 0, 0, 0)])], workers)
    return _scan_folder(path, workers, skip, memory)


def _scan_folder(root: Path, workers: int | None, skip: Sequence[str], memory: Memory | None) -> StudyIndex:
    if memory is not None:
        store = Store(memory.file, root, Seal(memory.key), about="\0".join(skip))
        try:
            return _from_store(store, workers, skip)
        except DamagedIndexError:
            _log.info("the index is damaged and is made anew")
            store.empty()
            return _from_store(store, workers, skip)
    folders, count = [], 0
    walk = walk_tree(root, skip)
    for folder in walk:
        folders.append(folder)
        count += len(folder.files) + len(folder.left_out)
        if count > SMALL:
            return _from_store(Store.temporary(root), workers, skip)
    return _in_memory(root, folders, workers)


def _from_store(store: Store, workers: int | None, skip: Sequence[str]) -> StudyIndex:
    read = refresh(store, workers=workers or 1, skip=skip)
    _log.info("%d file(s) are new or changed", read)
    return recall(store)


def _in_memory(root: Path, folders: Sequence[Folder], workers: int | None) -> StudyIndex:
    found = Found()
    for folder in folders:
        found.skipped += [Skipped(folder.place(name), LEFT_OUT) for name in folder.left_out]
        found.skipped += [Skipped(folder.place(name), LINK) for name in folder.links]
    names = list(chain.from_iterable(map(folder.place, (file[0] for file in folder.files)) for folder in folders))
    for parsed in _parse_all(root, names, workers):
        found.add(parsed)
    return found.index(root)


def _parse_all(root: Path, names: list[str], workers: int | None) -> Iterable[Parsed]:
    parse = partial(parse_file, root)
    if workers is None or workers <= 1 or len(names) < 2 * _CHUNK:
        return map(parse, names)
    return _parse_parallel(parse, names, workers)


def _parse_parallel(parse: partial[Parsed], names: list[str], workers: int) -> Iterator[Parsed]:
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(parse, names, chunksize=_CHUNK)

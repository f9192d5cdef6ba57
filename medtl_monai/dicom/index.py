"""Scan a tree for DICOM files: headers only, by content, never by name."""

from __future__ import annotations

import dataclasses
import fnmatch
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

from medtl_monai.dicom import sop
from medtl_monai.dicom.archive import is_zip_file, remove, unpack
from medtl_monai.dicom.header import Header, ObjectHeader
from medtl_monai.dicom.headers import HeaderIndex, stamp
from medtl_monai.dicom.parse import Damaged, Parsed, Skipped, parse_file
from medtl_monai.dicom.series import Reference, Series, StudyIndex
from medtl_monai.dicom.split import split_series
from medtl_monai.errors import DicomError

_log = logging.getLogger(__name__)
_CHUNK = 256
_WINDOW = 16384
LEFT_OUT = "left out as asked"
"""Reason of files that match a pattern of ``skip``."""


def scan(
    path: Path | str, *, workers: int | None = None, skip: Sequence[str] = (), index: Path | None = None
) -> StudyIndex:
    """Scan a folder recursively, a zip archive, or a single file.

    Every file is judged by its content. Symbolic links that lead out of the folder are not followed; a DICOMDIR is
    ignored as an index, the files it lists are found by themselves. A zip archive is unpacked into a private temporary
    folder, which is there until the index is closed or the process ends; archives inside of others are not opened.

    Args:
        path: The data root, or one file.
        workers: Processes that parse headers; None or 1 parses in this process.
        skip: Patterns such as ``"*.jpg"`` or ``"old"``: files are left out whose path below the root, or a part of
            it, matches one. They are counted.
        index: A file that remembers the headers of this folder, made if it is not there; see
            :func:`medtl_monai.dicom.headers.index_path`. Only files whose size or times have changed are read. It
            holds the identifiers that the files hold. None remembers nothing; for archives and single files it is
            not used.

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
            return dataclasses.replace(_scan(folder, workers, skip), temporary=folder)
        except BaseException:
            remove(folder)
            raise
    return _scan(path, workers, skip, index)


def _scan(path: Path, workers: int | None, skip: Sequence[str], remembered: Path | None = None) -> StudyIndex:
    root = path if path.is_dir() else path.parent
    names = list(_walk(path)) if path.is_dir() else [path.name]
    found = _Found()
    if skip:
        found.skipped += [Skipped(name, LEFT_OUT) for name in names if _matches(name, skip)]
        names = [name for name in names if not _matches(name, skip)]
    if remembered is None or not path.is_dir():
        for parsed in _parse_all(root, names, workers):
            found.add(parsed)
        return found.index(root)
    with HeaderIndex(remembered, root) as known:
        for parsed in _parse_changed(root, names, workers, known):
            found.add(parsed)
        if not skip:
            gone = known.forget_others(names)
            _log.info("%d file(s) are gone since the last scan", gone)
    return found.index(root)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    parts = (name, *name.split("/"))
    return any(fnmatch.fnmatchcase(part, pattern.rstrip("/")) for part in parts for pattern in patterns)


def _walk(root: Path) -> Iterator[str]:
    """Yield all regular files below ``root``, sorted, relative, with forward slashes; links out of it are left out."""
    real_root = os.path.realpath(root)
    seen = {real_root}
    stack = [""]
    while stack:
        folder = stack.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        folders = []
        for entry in listed:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink() and not _inside(entry.path, real_root):
                _log.warning("%s leads out of the data root and is not followed", name)
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in seen:
                    seen.add(real)
                    folders.append(name)
            elif entry.is_file():
                yield name
        stack.extend(reversed(folders))


def _inside(path: str, real_root: str) -> bool:
    real = os.path.realpath(path)
    return real == real_root or real.startswith(real_root.rstrip(os.sep) + os.sep)


def _parse_all(root: Path, names: list[str], workers: int | None) -> Iterable[Parsed]:
    parse = partial(parse_file, root)
    if workers is None or workers <= 1 or len(names) < 2 * _CHUNK:
        return map(parse, names)
    return _parse_parallel(parse, names, workers)


def _parse_changed(root: Path, names: list[str], workers: int | None, known: HeaderIndex) -> Iterator[Parsed]:
    """Take from the index what has not changed, read the rest, and keep the order of the names."""
    read = 0
    for start in range(0, len(names), _WINDOW):
        window = names[start : start + _WINDOW]
        stamps = {name: stamp(f"{root}/{name}") for name in window}
        found: dict[str, Parsed | None] = {
            name: known.find(name, now) for name, now in stamps.items() if now is not None
        }
        changed = [name for name in window if found.get(name) is None]
        now_ns = time.time_ns()
        for name, fresh in zip(changed, _parse_all(root, changed, workers), strict=True):
            found[name] = fresh
            at = stamps[name]
            if at is not None:
                known.keep(name, at, fresh, now_ns)
        read += len(changed)
        yield from (parsed for name in window if (parsed := found.get(name)) is not None)
    _log.info("%d of %d file(s) are new or changed", read, len(names))


def _parse_parallel(parse: partial[Parsed], names: list[str], workers: int) -> Iterator[Parsed]:
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(parse, names, chunksize=_CHUNK)


class _Found:
    """Collects what the files turned out to be."""

    def __init__(self) -> None:
        self.headers: dict[tuple[str, str, str, str], list[Header]] = defaultdict(list)
        self.objects: list[ObjectHeader] = []
        self.skipped: list[Skipped] = []
        self.damaged: list[Damaged] = []
        self.series_uids: set[str] = set()

    def add(self, parsed: Parsed) -> None:
        """File one result under its kind."""
        if isinstance(parsed, Header):
            self.headers[(parsed.issuer, parsed.patient_id, parsed.study_uid, parsed.series_uid)].append(parsed)
        elif isinstance(parsed, ObjectHeader):
            self.objects.append(parsed)
        elif isinstance(parsed, Skipped):
            self.skipped.append(parsed)
        else:
            self.damaged.append(parsed)

    def index(self, root: Path) -> StudyIndex:
        """Build the index."""
        self._lost_images()
        self.series_uids = {key[3] for key in self.headers}
        series: list[Series] = []
        for headers in sorted(self.headers.values(), key=lambda group: min(h.path for h in group)):
            series.extend(split_series(root, headers, self._damage(headers)))
        reasons: dict[str, list[str]] = defaultdict(list)
        for item in self.skipped:
            _log.debug("%s skipped: %s", item.path, item.reason)
            reasons[item.reason].append(item.path)
        if self.skipped:
            _log.info("%d file(s) skipped", len(self.skipped))
        return StudyIndex(
            root=root,
            series=series,
            segmentations=self._references(root, sop.SEGMENTATIONS),
            structure_sets=self._references(root, sop.STRUCTURE_SETS),
            skipped_files=dict(reasons),
            damaged={item.path: item.error for item in self.damaged},
        )

    def _references(self, root: Path, classes: frozenset[str]) -> list[Reference]:
        return [Reference(root=root, header=header) for header in self.objects if header.sop_class in classes]

    def _lost_images(self) -> None:
        """Turn empty files that are named like the images beside them into damaged ones."""
        if not any(item.blank for item in self.skipped):
            return
        places = {_place(h.path) for headers in self.headers.values() for h in headers}
        for item in [s for s in self.skipped if s.blank and _place(s.path) in places]:
            self.skipped.remove(item)
            error = DicomError(f"{item.reason} among images", where=item.path, mend="Copy the file again, or delete it")
            self.damaged.append(Damaged(item.path, error))

    def _damage(self, headers: list[Header]) -> DicomError | None:
        """Return the error of a damaged file that belongs to these, or may: it lies in a folder of theirs."""
        if not self.damaged:
            return None
        folders = {PurePosixPath(header.path).parent for header in headers}
        uid = headers[0].series_uid
        for item in self.damaged:
            # A series of its own would have other files; a damaged file's UID may be damaged too.
            stray = item.series_uid not in self.series_uids
            if item.series_uid == uid or (stray and PurePosixPath(item.path).parent in folders):
                return item.error
        return None


def _place(path: str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    return str(pure.parent), pure.suffix.lower() if not pure.name.startswith(".") else pure.name

"""Zip archives of DICOM files: checked as a whole first, then unpacked into a private temporary folder.

An archive may come from anywhere, so nothing it says about itself is believed: neither names nor sizes.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from medtl_monai.dicom.opened import PREAMBLE
from medtl_monai.errors import DicomError
from medtl_monai.files import translate_os_errors

MAX_MEMBERS = 100_000
"""Most files in an archive."""
MAX_BYTES = 2**36
"""Most bytes that an archive may expand to."""
MAX_RATIO = 200
"""Most times its own size that an archive may expand to; real images reach about ten."""
_SMALL = 2**26
_BLOCK = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DRIVE = re.compile("[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
_MEND = "Unpack it yourself if you trust it, and give the folder"


def is_zip(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of a zip archive and not of a DICOM file."""
    return head.startswith(_MARKS) and head[PREAMBLE : PREAMBLE + 4] != b"DICM"


def is_zip_file(path: Path) -> bool:
    """Whether a file is a zip archive, judged by its content."""
    try:
        with path.open("rb") as file:
            return is_zip(file.read(PREAMBLE + 4))
    except OSError:
        return False


def unpack(path: Path) -> Path:
    """Unpack an archive into a new folder that only the user can enter; it is removed when the process ends, or before.

    Members keep their names, which errors then show: every name is checked, and files are only ever created, so that
    none is written outside the folder or through a link.

    Args:
        path: The archive.

    Returns:
        The folder; :func:`remove` removes it.

    Raises:
        DicomError: The archive is damaged, encrypted, too large, or holds links, repeated or dangerous names.
        StorageError: The disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix="medtl-"))
    atexit.register(_remove_own, folder, os.getpid())
    try:
        with translate_os_errors(path), zipfile.ZipFile(path) as archive:
            members = _checked(archive, path)
            for member in members:
                _write(archive, member, folder, path.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        remove(folder)
        raise DicomError("the zip archive is damaged", where=path.name, mend="Copy it again") from error
    except BaseException:
        remove(folder)
        raise
    return folder


def remove(folder: Path) -> None:
    """Remove an unpacked archive; nothing happens if it is gone already."""
    shutil.rmtree(folder, ignore_errors=True)


def _remove_own(folder: Path, pid: int) -> None:
    # A forked worker inherits the handler, but not the folder.
    if os.getpid() == pid:
        remove(folder)


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Return the files of an archive, if it may be unpacked."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise _refused(path, f"it holds {len(entries)} files, more than {MAX_MEMBERS}")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        raise _refused(path, f"it expands to more than {MAX_BYTES / 2**30:.0f} GiB")
    if total > max(_SMALL, MAX_RATIO * path.stat().st_size):
        raise _refused(path, f"it expands to {total / path.stat().st_size:.0f} times its size")
    seen: set[str] = set()
    for entry in entries:
        problem = _problem(entry, seen)
        if problem:
            raise _refused(path, problem)
        seen.add(_plain(entry.filename))
    return [entry for entry in entries if not entry.is_dir()]


def _refused(path: Path, why: str) -> DicomError:
    return DicomError(f"the zip archive is refused: {why}", where=path.name, mend=_MEND)


def _problem(entry: zipfile.ZipInfo, seen: set[str]) -> str:
    """Say what is wrong with an entry, without its name, which may be that of a patient or worse."""
    # orig_filename is what the archive says; zipfile cuts filename at a NUL.
    raw = entry.orig_filename
    parts = PurePosixPath(entry.filename).parts
    mode = entry.external_attr >> 16
    checks = (
        (raw.startswith("/") or "\\" in raw or _DRIVE.match(raw) is not None, "a file name is absolute"),
        (".." in raw.split("/"), "a file name leads out of it"),
        (not parts or _CONTROL.search(raw) is not None, "a file name is empty or holds control characters"),
        (any(len(os.fsencode(part)) > 255 for part in parts), "a file name is too long"),
        (stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR), "it holds links or devices"),
        (_plain(entry.filename) in seen, "a file name repeats"),
        (bool(entry.flag_bits & 1), "it is encrypted"),
        (entry.compress_type not in _METHODS, "it is compressed by another method than deflate"),
    )
    return next((text for failed, text in checks if failed), "")


def _plain(name: str) -> str:
    # Some file systems take names that differ in case for one.
    return str(PurePosixPath(name)).casefold()


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, where: str) -> None:
    target = folder / PurePosixPath(member.filename)
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except (FileExistsError, NotADirectoryError):
        what = "the zip archive is refused: a file and a folder have one name"
        raise DicomError(what, where=where, mend=_MEND) from None
    with os.fdopen(handle, "wb") as out, archive.open(member) as source:
        _copy(source, out, member.file_size)


def _copy(source: IO[bytes], out: IO[bytes], size: int) -> None:
    """Copy a member, which must have the size that was counted."""
    left = size
    while block := source.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise zipfile.BadZipFile("larger than declared")
        out.write(block)
    if left:
        raise zipfile.BadZipFile("smaller than declared")

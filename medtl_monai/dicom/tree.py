"""Walk over a tree of files, folder by folder, without keeping it in memory."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence

File = tuple[str, int, int, int, int]
"""Name, and what tells whether a file has changed: size in bytes, times of the last change of content and of inode in
nanoseconds, inode."""


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """One folder of a tree.

    Attributes:
        path: Below the root, with forward slashes; empty for the root itself.
        files: Its regular files, sorted by name.
        left_out: Names of files that match a pattern to skip.
        links: Names of links that lead out of the root; they are not followed.
    """

    path: str
    files: list[File]
    left_out: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    def place(self, name: str) -> str:
        """Return the path of one of its files below the root."""
        return f"{self.path}/{name}" if self.path else name


def walk_tree(root: str | os.PathLike[str], skip: Sequence[str] = ()) -> Iterator[Folder]:
    """Yield every folder of a tree, each once, parents first, in the order of their names.

    Args:
        root: The folder.
        skip: Patterns; files whose path below the root, or a part of it, matches one are left out.
    """
    real_root = os.path.realpath(root)
    seen = {real_root}
    stack = [""]
    while stack:
        path = stack.pop()
        folder, below = _read(os.path.join(root, path), path, real_root, skip)
        yield folder
        for name in reversed(below):
            # A folder that is not a link lies where its parent lies: only links can lead to one a second time.
            real = os.path.realpath(os.path.join(root, name))
            if real not in seen:
                seen.add(real)
                stack.append(name)


def _read(place: str, path: str, real_root: str, skip: Sequence[str]) -> tuple[Folder, list[str]]:
    """Return a folder, and the paths of the folders in it."""
    folder = Folder(path, [])
    below: list[str] = []
    links: list[str] = []
    left_out: list[str] = []
    with os.scandir(place) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_symlink() and not _inside(entry.path, real_root):
                links.append(name)
            elif entry.is_dir():
                below.append(folder.place(name))
            elif skip and _matches(folder.place(name), skip):
                left_out.append(name)
            else:
                _add(folder.files, entry)
    folder.files.sort()
    below.sort()
    if links or left_out:
        folder = dataclasses.replace(folder, links=tuple(sorted(links)), left_out=tuple(sorted(left_out)))
    return folder, below


def _add(files: list[File], entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat()
    except OSError:
        # It was removed in between.
        return
    if stat.S_ISREG(status.st_mode):
        files.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


def _inside(path: str, real_root: str) -> bool:
    real = os.path.realpath(path)
    return real == real_root or real.startswith(real_root.rstrip(os.sep) + os.sep)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    parts = (name, *name.split("/"))
    return any(fnmatch.fnmatchcase(part, pattern.rstrip("/")) for part in parts for pattern in patterns)

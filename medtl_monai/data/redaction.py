"""Pseudonyms in place of the names of data files and folders, in any text that is about to be shown.

What a message says is not looked at: every name that occurs below a data root is replaced wherever it stands, so no
message can be forgotten. Names that could not identify anybody and that ordinary sentences hold (``studies``, ``12``)
are replaced only as part of a path.
"""

from __future__ import annotations

import bisect
import csv
import os
import re
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from medtl_monai.data.identity import load_key, pseudonym
from medtl_monai.errors import MedtlError

_SHORTEST = 3
_SHORTEST_NUMBER = 5
_COMMON = frozenset(
    {
        *("case", "cases", "data", "dcm", "derived", "dicom", "dicoms", "error", "file", "files", "folder", "image"),
        *(
            "images",
            "label",
            "labels",
            "localizer",
            "mask",
            "masks",
            "original",
            "patient",
            "patients",
            "scan",
            "scans",
        ),
        *("segmentation", "segmentations", "series", "studies", "study", "test", "train", "training", "val"),
        *("validation", "volume", "volumes"),
    }
)
"""Names of folders that tell nothing about anybody and occur in sentences."""

# Escape sequences that colour a terminal, and pseudonyms that stand there already.
_FIXED = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|(?<!\w)file-[0-9a-f]{12}(?!\w))")
_WORD = re.compile(r"[^\s'\"(),;:=]+")


class Redactor:
    """Replaces names of data files and folders by ``file-`` and 12 hex digits, the same for the same name.

    Roots are looked through when the first text is to be shown, so a command that shows none costs nothing.

    Args:
        roots: Data roots: folders, zip archives, tables, single files.
        key: Key of the pseudonyms; None takes the user's own.
    """

    def __init__(self, roots: Iterable[Path] = (), *, key: bytes | None = None) -> None:
        self._roots: list[Path] = []
        self._waiting: list[Path] = []
        self._names: dict[str, str] = {}
        self._starts: set[str] = set()
        self._longest = 0
        self._given_key = key
        for root in roots:
            self.add_root(root)

    def add_root(self, root: Path) -> None:
        """Hide everything below a data root, and the root's own name."""
        if root not in self._roots:
            self._roots.append(root)
            self._waiting.append(root)

    def add_names(self, names: Iterable[str]) -> None:
        """Hide the given names of files and folders; of a path, each part."""
        for name in names:
            for part in PurePosixPath(name).parts:
                self._add(part)

    def text(self, text: str) -> str:
        """Return ``text`` with pseudonyms in place of names; no line break is added or lost."""
        if not self._roots and not self._names:
            return text
        self._look()
        pieces = _FIXED.split(text)
        return "".join(piece if n % 2 else self._plain(piece) for n, piece in enumerate(pieces))

    def path(self, path: str) -> str:
        """Return a relative path with a pseudonym for each part."""
        if not self._roots and not self._names:
            return path
        return "/".join(part if part in (".", "") else self._pseudonym(part) for part in path.split("/"))

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it redacted; keys that are identifiers of a program stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {k if re.fullmatch(r"[a-z_]+", str(k)) else self.value(k): self.value(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    @cached_property
    def _key(self) -> bytes:
        if self._given_key is not None:
            return self._given_key
        try:
            return load_key()
        except MedtlError:
            # The key itself may be what the text complains about: then pseudonyms of this process alone.
            return secrets.token_bytes(32)

    def _pseudonym(self, name: str) -> str:
        return f"file-{pseudonym(self._key, 'path', name)}"

    # Collecting names

    def _look(self) -> None:
        while self._waiting:
            root = self._waiting.pop()
            for name in _names_of(root):
                self._add(name)
            # In a traceback the operating system names files with their absolute path.
            for whole in {str(root), str(root.absolute()), str(root.resolve())}:
                if len(whole) > _SHORTEST:
                    self._add(whole)

    def _add(self, name: str) -> None:
        if not name.strip("./\\ ") or name in self._names:
            return
        # Messages quote names, make control characters visible, or escape what is not ASCII.
        printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        for form in (name, printable, repr(name)[1:-1], ascii(name)[1:-1], *_stems(name)):
            self._names.setdefault(form, name)
            self._starts.add(form[:2])
            self._longest = max(self._longest, len(form))

    # Replacing them

    def _plain(self, text: str) -> str:
        edges = [n for n in range(len(text) + 1) if not _inside_word(text, n)]
        parts, done, place = [], 0, 0
        while place < len(edges):
            start = edges[place]
            end = self._match(text, start, edges[place + 1 : bisect.bisect_right(edges, start + self._longest)])
            if end is None:
                place += 1
                continue
            parts += [text[done:start], self._pseudonym(self._names[text[start:end]])]
            done = end
            place = edges.index(end, place)
        return "".join([*parts, text[done:]])

    def _match(self, text: str, start: int, edges: list[int]) -> int | None:
        """Return where the longest name that begins at ``start`` ends."""
        if text[start : start + 2] not in self._starts and text[start : start + 1] not in self._starts:
            return None
        for end in reversed(edges):
            name = text[start:end]
            if name in self._names and (not _is_weak(name) or self._is_place(text, start, end)):
                return end
        return None

    def _is_place(self, text: str, start: int, end: int) -> bool:
        """Whether what may be an ordinary word names a place: a number before a colon, or part of a telling path."""
        ends_path = text[end : end + 1] == "/" and not text[end + 1 : end + 2].isalnum()
        if ends_path or (text[start:end].isdigit() and text[end : end + 2] == ": "):
            return True
        if "/" not in text[max(start - 1, 0) : start] + text[end : end + 1]:
            return False
        word = next((m.group() for m in _WORD.finditer(text) if m.start() <= start < m.end()), "").rstrip(".")
        if any(part in self._names and not _is_weak(part) for part in word.split("/")):
            return True
        return any(os.path.lexists(root / word) for root in self._roots)


def _is_weak(name: str) -> bool:
    # 0042 is a name, 42 is a number.
    number = name.isdigit() and not name.startswith("0")
    short = len(name) < (_SHORTEST_NUMBER if number else _SHORTEST)
    return short or name.casefold() in _COMMON


def _inside_word(text: str, place: int) -> bool:
    """Whether a place lies between two characters of one word."""
    return 0 < place < len(text) and _is_word(text[place - 1]) and _is_word(text[place])


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _stems(name: str) -> Iterator[str]:
    stem = name.removesuffix(".gz")
    head, dot, suffix = stem.rpartition(".")
    if dot and suffix.isalpha() and len(head) >= _SHORTEST_NUMBER:
        yield head


def _names_of(root: Path) -> Iterator[str]:
    """Yield the name of a root and of everything below it."""
    yield root.name or root.resolve().name
    if root.is_dir():
        for _, folders, files in os.walk(root):
            yield from folders
            yield from files
    elif root.suffix.lower() in (".csv", ".tsv", ".txt"):
        yield from _paths_in_table(root)
    elif root.is_file() and zipfile.is_zipfile(root):
        try:
            with zipfile.ZipFile(root) as archive:
                for member in archive.namelist():
                    yield from PurePosixPath(member).parts
        except (OSError, zipfile.BadZipFile):
            return


def _paths_in_table(table: Path) -> Iterator[str]:
    """Yield the parts of every cell of a table that looks like a path or leads to a file."""
    try:
        text = table.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return
    for line in csv.reader(
        text.replace("\0", "").splitlines(), delimiter=max(",;\t", key=text.partition("\n")[0].count)
    ):
        for cell in map(str.strip, line):
            if cell and (
                "/" in cell or "\\" in cell or re.search(r"\.[A-Za-z][A-Za-z0-9]*$", cell) or _there(table, cell)
            ):
                yield from re.split(r"[/\\]+", cell)


def _there(table: Path, cell: str) -> bool:
    return "\0" not in cell and len(cell) < 4096 and os.path.lexists(table.parent / cell)

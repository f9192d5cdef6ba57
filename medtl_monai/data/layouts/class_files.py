"""The files of a data set that has one folder a class, and what they are."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from medtl_monai.data.layouts.manifest import hidden, refuse_lost_link
from medtl_monai.data.masks import is_dicom
from medtl_monai.data.nifti import is_nifti
from medtl_monai.data.table import listing
from medtl_monai.errors import DataError

PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""Folder names (in lower case) that stand for a part."""

PICTURES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy", ".npz",
)  # fmt: skip
"""Endings of images in formats that are not read."""

_JUNK = "__MACOSX"
_SHOWN = 5
_END = 65536
# DICOM without preamble starts with an element of group 0002 or 0008, in either byte order; the scan decides.
_BARE = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """One image file.

    Attributes:
        file: Relative to the data set's folder, with forward slashes.
        part: train, val or test; empty where the data set gives none.
        label: The class: name of the class folder.
        folder: The folder right below the class; empty if there is none.
    """

    file: str
    part: str
    label: str
    folder: str

    @property
    def place(self) -> tuple[str, str]:
        """Part and class."""
        return self.part, self.label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """What lies in the class folders.

    Attributes:
        nifti: NIfTI images.
        dicom: Files that are, or may be, DICOM.
        others: Number of other files.
        loose: Files of a ``test`` folder without class folders: images without labels.
        labels: All classes.
    """

    nifti: tuple[Found, ...]
    dicom: tuple[Found, ...]
    others: int
    loose: tuple[str, ...]
    labels: tuple[str, ...]


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not hidden(p.name) and p.name != _JUNK)


def is_split(root: Path) -> bool:
    """Whether the data set gives its parts: folders train, val, test with class folders in them.

    Raises:
        DataError: If there are such folders and others, or no train folder.
    """
    names = subfolders(root)
    parts = [name for name in names if name.casefold() in PARTS]
    if not parts or (len(parts) == 1 and not subfolders(root / parts[0])):
        return False
    others = [name for name in names if name not in parts]
    if others:
        what = f"{listing('folder', parts)} stand beside {listing('folder', others, _SHOWN)}"
        mend = "Put all class folders into folders train, val and test, or none"
        raise DataError(what, where=root.name, mend=mend)
    repeated = [part for part, n in Counter(PARTS[name.casefold()] for name in parts).items() if n > 1]
    if repeated:
        what = f"two folders stand for {repeated[0]} ({', '.join(parts)})"
        raise DataError(what, where=root.name, mend="Keep one of them")
    if "train" not in {PARTS[name.casefold()] for name in parts}:
        what = f"there are {listing('folder', parts)} and none called train"
        raise DataError(what, where=root.name, mend="Add the training cases")
    return True


def holds_images(root: Path) -> bool:
    """Whether there is an image, of whatever format, in a folder of the root, at any depth."""
    return any(_kind(path) != "other" for name in subfolders(root) for path, _ in _walk(root / name))


def count_nifti(root: Path, split: bool) -> dict[str, int]:
    """Return the number of NIfTI files of each class that has some, from names alone."""
    counts: Counter[str] = Counter()
    for top in subfolders(root):
        for name in subfolders(root / top) if split else [""]:
            counts[name or top] += sum(is_nifti(path) for path, _ in _walk(root / top / name))
    return {name: n for name, n in counts.items() if n}


def find_files(root: Path) -> Files:
    """Look through the class folders.

    Raises:
        DataError: If images lie outside of class folders, a class folder holds none, there is one class only, or
            images are in a format that is not read.
    """
    split = is_split(root)
    found: dict[str, list[Found]] = defaultdict(list)
    strays = _images_in(root)
    loose: list[str] = []
    places = []
    for top in subfolders(root):
        part = PARTS[top.casefold()] if split else ""
        classes = subfolders(root / top) if split else [""]
        if split:
            images = _images_in(root / top)
            (loose if part == "test" and not classes else strays).extend(f"{top}/{name}" for name in images)
        for name in classes:
            place = root / top / name
            places.append((part, name or top, place.relative_to(root).as_posix()))
            for path, folder in _walk(place):
                file = f"{places[-1][2]}/{folder + '/' if folder else ''}{path.name}"
                found[_kind(path)].append(
                    Found(file=file, part=part, label=name or top, folder=folder.partition("/")[0])
                )
    # Beside NIfTI, a file that might be DICOM without preamble is most likely something else.
    found["other" if found["nifti"] else "dicom"] += found.pop("bare", [])
    _refuse_strays(root, strays)
    _refuse_pictures(root, [item.file for item in found["picture"]])
    _refuse_empty(root, places, [*found["nifti"], *found["dicom"]])
    return Files(
        nifti=tuple(found["nifti"]),
        dicom=tuple(found["dicom"]),
        others=len(found["other"]),
        loose=tuple(loose),
        labels=tuple(sorted({label for _, label, _ in places})),
    )


def refuse_copies(root: Path, images: Sequence[Found]) -> None:
    """Refuse files of the same bytes in two classes or parts.

    Only files of one size are compared, by their ends first: the rest of a large file is read where those are equal.

    Raises:
        DataError: That lists them.
    """
    twins: dict[tuple[int, bytes], list[Found]] = defaultdict(list)
    sizes = Counter((root / item.file).stat().st_size for item in images)
    for item in images:
        size = (root / item.file).stat().st_size
        if sizes[size] > 1:
            twins[size, _ends(root / item.file, size)].append(item)
    same: dict[bytes, list[Found]] = defaultdict(list)
    for item in (item for own in twins.values() if len({i.place for i in own}) > 1 for item in own):
        with (root / item.file).open("rb") as file:
            same[hashlib.file_digest(file, "sha256").digest()].append(item)
    torn = [own for own in same.values() if len({item.place for item in own}) > 1]
    if torn:
        pairs = "; ".join(" = ".join(item.file for item in own[:_SHOWN]) for own in torn[:_SHOWN])
        what = f"the same image lies in two class folders: {pairs}" + (
            f" ({len(torn)} in all)" if len(torn) > 1 else ""
        )
        raise DataError(what, where=root.name, mend="Keep the one that is right")


def _ends(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        start = file.read(_END)
        file.seek(max(0, size - _END))
        return hashlib.sha256(start + file.read(_END)).digest()


def _walk(top: Path) -> Iterator[tuple[Path, str]]:
    """Yield files and the folder they are in, relative to ``top``, sorted. Links are followed, each folder once.

    Raises:
        DataError: If a link leads nowhere.
        OSError: If a folder cannot be read.
    """
    seen: set[str] = set()
    for folder, below, names in os.walk(top, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not hidden(name) and name != _JUNK)
        inner = Path(folder).relative_to(top).as_posix()
        for name in [] if real in seen else sorted(names):
            path = Path(folder) / name
            refuse_lost_link(path, f"{top.name}/{inner}/{name}".replace("/./", "/"))
            if not hidden(name) and path.is_file():
                yield path, "" if inner == "." else inner
        seen.add(real)


def _raise(error: OSError) -> None:
    # os.walk passes over folders that it cannot read; their images would be missing without a word.
    raise error


def _kind(path: Path) -> Literal["nifti", "dicom", "bare", "picture", "other"]:
    if is_nifti(path):
        return "nifti"
    if is_dicom(path):
        return "dicom"
    if path.suffix.lower() in PICTURES:
        return "picture"
    with path.open("rb") as file:
        return "bare" if file.read(2) in _BARE else "other"


def _images_in(folder: Path) -> list[str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not hidden(path.name))
    return [path.name for path in files if _kind(path) in ("nifti", "dicom")]


def _refuse_strays(root: Path, strays: Sequence[str]) -> None:
    if strays:
        what = f"images lie outside of the class folders: {listing('file', strays, _SHOWN)}"
        raise DataError(what, where=root.name, mend="Put them into the folder of their class, or take them out")


def _refuse_pictures(root: Path, pictures: Sequence[str]) -> None:
    if pictures:
        endings = Counter(Path(file).suffix.lower() for file in pictures)
        counted = ", ".join(f"{n} {ending}" for ending, n in endings.most_common())
        what = f"images are in formats that are not read: {counted} ({listing('file', pictures, 3)})"
        mend = "Convert them to NIfTI (.nii.gz), which keeps spacing and orientation, or give the DICOM they came from"
        raise DataError(what, where=root.name, mend=mend)


def _refuse_empty(root: Path, places: Sequence[tuple[str, str, str]], images: Sequence[Found]) -> None:
    held = {item.place for item in images}
    empty = [name for part, label, name in places if (part, label) not in held]
    if empty:
        what = f"no image in the class {listing('folder', empty, _SHOWN)}"
        raise DataError(what, where=root.name, mend="Add images, or take the folder out")
    labels = {label for _, label, _ in places}
    if len(labels) < 2:
        what = f"there is one class folder only ({', '.join(labels)})" if labels else "there are no class folders"
        raise DataError(what, where=root.name, mend="Each class needs a folder of its own")

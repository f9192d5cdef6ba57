"""One folder a class (``DIR/CLASS/…``), with or without given parts (``DIR/train/CLASS/…``): NIfTI or DICOM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medtl_monai.config import DataConfig
from medtl_monai.data.join import Joined
from medtl_monai.data.layouts.class_files import Files, Found, count_nifti, find_files, is_split, refuse_copies
from medtl_monai.data.layouts.class_studies import Placed, find_studies
from medtl_monai.data.layouts.layout import CLASS, FOLDER, IMAGE, SPLIT, Layout, Listing, Named, Profile, made_table
from medtl_monai.data.table import MISSING, Table
from medtl_monai.errors import DataError

_IMAGES = frozenset({"image", "images", "img", "imgs", "imagestr", "imagests", "scan", "scans", "volume", "volumes"})
_LABELS = frozenset(
    {"label", "labels", "labelstr", "labelsts", "mask", "masks", "seg", "segs", "segmentation", "segmentations", "gt",
     "annotation", "annotations"}
)  # fmt: skip
_MANY_CLASSES = 20
_FEW_CASES = 5
_SHOWN = 10


def profile(root: Path, config: DataConfig) -> Profile:
    """Return that the folders are classes, and whether parts are given.

    Raises:
        DataError: If folders for parts are mixed with others; or if nobody has said that they are classes and there
            are many of few images each, as folders of patients are: class names go into the run folder.
    """
    split = is_split(root)
    if config.layout == "auto":
        counts = count_nifti(root, split)
        if len(counts) > _MANY_CLASSES and sum(counts.values()) < _FEW_CASES * len(counts):
            what = f"{len(counts)} folders with {sum(counts.values())} images look like patients, not like classes"
            mend = "Name images and labels in a table (--labels); if they are classes, say data.layout=class-folders"
            raise DataError(what, where=root.name, mend=mend)
    return Profile(kind="class", settings={"target": [CLASS], **({"split": SPLIT} if split else {})})


def read(root: Path, config: DataConfig) -> Listing:
    """List the images by class.

    Raises:
        DataError: If images lie outside of class folders, a class has none, NIfTI and DICOM are mixed, formats are not
            read, or an image or study lies in two class folders.
    """
    files = find_files(root)
    _refuse_names(root, files)
    if files.nifti and files.dicom:
        what = f"there are {len(files.nifti)} NIfTI and {len(files.dicom)} DICOM files"
        raise DataError(what, where=root.name, mend="Keep one of the two: they may be the same images twice")
    if files.dicom:
        placed, notes = find_studies(root, files.dicom, config)
        table = _table(root, [_study_row(item) for item in placed])
        joined = Joined(images={row.number: item.sources for row, item in zip(table.rows, placed, strict=True)})
        found = _counts([item.found for item in placed], "DICOM image")
    else:
        refuse_copies(root, files.nifti)
        table, joined = _table(root, [_file_row(item) for item in files.nifti]), None
        found, notes = _counts(files.nifti, "NIfTI image"), _patients(files.nifti, config)
        if files.others:
            notes = (*notes, f"{files.others} files that are no images were left out")
    if files.loose:
        notes = (
            *notes,
            f"{len(files.loose)} files in 'test' have no class: medtl predict RUN DATASET/test predicts them",
        )
    return Listing(table=table, found=found, notes=notes, joined=joined)


def looks_like_masks(names: Sequence[str]) -> bool:
    """Whether folder names say images and masks, not classes."""
    plain = {name.casefold() for name in names}
    return bool(plain & _IMAGES and plain & _LABELS)


def _refuse_names(root: Path, files: Files) -> None:
    bad = [name for name in files.labels if name.casefold() in MISSING or not name.isprintable()]
    if bad:
        what = f"a class cannot be called {', '.join(map(repr, bad))}"
        raise DataError(what, where=root.name, mend="Rename the folder: tables read this as 'no value'")


def _table(root: Path, rows: Sequence[Named]) -> Table:
    columns = [IMAGE, CLASS]
    for column in (SPLIT, FOLDER):
        if any(cells[column] for _, cells in rows):
            columns.append(column)
    # The data set's folder has no file that says it all; only the name and the folder of this path are used.
    return made_table(root / root.resolve().name, columns, rows)


def _file_row(item: Found) -> Named:
    return item.file, {IMAGE: item.file, CLASS: item.label.strip(), SPLIT: item.part, FOLDER: item.folder}


def _study_row(item: Placed) -> Named:
    own = item.found
    return item.folder, {IMAGE: item.folder, CLASS: own.label.strip(), SPLIT: own.part, FOLDER: own.folder}


def _counts(items: Sequence[Found], what: str) -> str:
    classes = Counter(item.label for item in items)
    parts = Counter(item.part for item in items if item.part)
    shown = [f"{name} {n}" for name, n in sorted(classes.items())]
    names = ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
    text = f"{len(items)} {what}s in {len(shown)} classes ({names})"
    return text + (f"; {', '.join(f'{part} {n}' for part, n in parts.items())}" if parts else "")


def _patients(items: Sequence[Found], config: DataConfig) -> tuple[str, ...]:
    if config.group_by is not None:
        return ()
    shared = any(n > 1 for n in Counter(item.folder for item in items if item.folder).values())
    mend = (
        "set data.group_by=folder if the folders below the classes are patients"
        if shared
        else "where patients have several, train from a labels table with a patient column (--labels)"
    )
    return (f"each file is taken for one patient: {mend}",)


LAYOUT = Layout(name="class-folders", title="one folder a class", profile=profile, read=read)

"""One case: an image, or several that become its channels, and its target, known only by a pseudonym."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from medtl_monai.data.join import Source
from medtl_monai.data.targets import Target
from medtl_monai.dicom import Series
from medtl_monai.errors import MedtlError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One image, or several that become its channels, with its target; ``repr`` shows pseudonyms only.

    Attributes:
        case_id: 12 hex digits: HMAC of the StudyInstanceUID, or of the path relative to the table.
        group: Pseudonym of the patient, or of the value of ``data.group_by``.
        row: Row of the table, as a spreadsheet counts; 0 without a table.
        split: Given part (train, val, test), if the table gives one.
        image: A DICOM series, or a NIfTI file. Of several, the first, whose grid all have.
        others: The other images, in the order of the inputs; None where one is missing and will be filled.
        target: Class index, numbers or label values (NaN = not labelled), a mask file, or None.
        source: Where the image is, relative to the data root: for the terminal, never for files.
        fingerprints: Per DICOM image a hash of its SOPInstanceUIDs; empty for NIfTI.
        present: Labels that the mask holds, where that is known.
        problem: Why the image cannot be read; raised when it is.
    """

    case_id: str
    group: str
    row: int = 0
    split: str | None = None
    image: Source = dataclasses.field(repr=False)
    others: tuple[Source | None, ...] = dataclasses.field(default=(), repr=False)
    target: Target | None = dataclasses.field(default=None, repr=False)
    source: str = dataclasses.field(default="", repr=False)
    fingerprints: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    present: tuple[int, ...] | None = dataclasses.field(default=None, repr=False)
    problem: MedtlError | None = dataclasses.field(default=None, repr=False)

    @property
    def sources(self) -> tuple[Source | None, ...]:
        """All images, in the order of the inputs."""
        return (self.image, *self.others)

    @property
    def files(self) -> tuple[Path, ...]:
        """Absolute paths of all files of all images, in order."""
        return tuple(path.absolute() for source in self.sources if source is not None for path in _files(source))

    @property
    def selection(self) -> str:
        """What of :attr:`files` is read as which image: parts and frames; ``missing`` for one that is not there.

        The names of parts may hold free text of the files: for hashing, never for showing.
        """
        return "\n".join(_selection(source) for source in self.sources)


def folder_of(series: Series) -> str:
    """Return the folder of a series below the data root."""
    return series.first_file.rpartition("/")[0] or series.first_file


def fingerprints(sources: Sequence[Source | None]) -> tuple[str, ...]:
    """Return a hash of the SOPInstanceUIDs of each DICOM series."""
    return tuple(filter(None, (_fingerprint_of(source) for source in sources if isinstance(source, Series))))


def _fingerprint_of(series: Series) -> str:
    uids = sorted(f"{item.header.instance_uid} {item.frame}" for item in series.slices)
    return hashlib.sha256("\n".join(uids).encode()).hexdigest() if uids else ""


def _files(source: Source) -> Sequence[Path]:
    return [source.root / name for name in source.files] if isinstance(source, Series) else [source]


def _selection(source: Source | None) -> str:
    if not isinstance(source, Series):
        return "missing" if source is None else "whole"
    order = {name: n for n, name in enumerate(source.files)}
    frames = " ".join(f"{order[item.header.path]}:{item.frame}" for item in source.slices)
    return f"{source.part!r} {frames}"

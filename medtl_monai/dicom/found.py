"""What the files of a tree turned out to be, and which of them stand in the way of a series."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from medtl_monai.dicom import sop
from medtl_monai.dicom.header import Header, ObjectHeader
from medtl_monai.dicom.parse import Damaged, Parsed, Skipped
from medtl_monai.dicom.series import Reference, Series, StudyIndex
from medtl_monai.dicom.split import split_series
from medtl_monai.errors import DicomError

_log = logging.getLogger(__name__)


class Found:
    """Collects what files turned out to be, in memory."""

    def __init__(self) -> None:
        self.headers: dict[tuple[str, str, str, str], list[Header]] = defaultdict(list)
        self.objects: list[ObjectHeader] = []
        self.skipped: list[Skipped] = []
        self.damaged: list[Damaged] = []

    def add(self, parsed: Parsed) -> None:
        """File one result under its kind."""
        if isinstance(parsed, Header):
            self.headers[parsed.group].append(parsed)
        elif isinstance(parsed, ObjectHeader):
            self.objects.append(parsed)
        elif isinstance(parsed, Skipped):
            self.skipped.append(parsed)
        else:
            self.damaged.append(parsed)

    def index(self, root: Path) -> StudyIndex:
        """Build the index."""
        places = {place_of(h.path) for headers in self.headers.values() for h in headers}
        lost = lost_images((item for item in self.skipped if item.blank), places)
        names = {item.path for item in lost}
        reasons: dict[str, list[str]] = defaultdict(list)
        for item in sorted(self.skipped, key=lambda item: item.path):
            if item.path not in names:
                reasons[item.reason].append(item.path)
        damage = Damage([*self.damaged, *lost], {key[3] for key in self.headers})
        series: list[Series] = []
        for headers in sorted(self.headers.values(), key=lambda group: min(h.path for h in group)):
            folders = {str(PurePosixPath(header.path).parent) for header in headers}
            error = damage.of(headers[0].series_uid, folders)
            series.extend(with_damage(item, error) for item in split_series(root, headers))
        return study_index(root, series, self.objects, reasons, damage)


class Damage:
    """The damaged files of a tree.

    Args:
        damaged: The files.
        series_uids: The series that images belong to.
    """

    def __init__(self, damaged: Iterable[Damaged], series_uids: set[str]) -> None:
        self.files = sorted(damaged, key=lambda item: item.path)
        self._own: dict[str, DicomError] = {}
        self._stray: dict[str, DicomError] = {}
        for item in self.files:
            if item.series_uid in series_uids:
                self._own.setdefault(item.series_uid, item.error)
            else:
                # A series of its own would have other files; a damaged file's UID may be damaged too.
                self._stray.setdefault(str(PurePosixPath(item.path).parent), item.error)

    @property
    def folders(self) -> frozenset[str]:
        """Folders with damaged files that may belong to any series there."""
        return frozenset(self._stray)

    def of(self, series_uid: str, folders: Iterable[str]) -> DicomError | None:
        """Return the error of a damaged file that belongs to a series, or may: it lies in a folder of its files."""
        if series_uid in self._own:
            return self._own[series_uid]
        return next((self._stray[folder] for folder in sorted(folders) if folder in self._stray), None)


def with_damage(series: Series, error: DicomError | None) -> Series:
    """Return a series with the error of a damaged file as its problem."""
    return series if error is None else dataclasses.replace(series, problem=error, gap=None, spacing_mm=None)


def lost_images(blank: Iterable[Skipped], places: set[tuple[str, str]]) -> list[Damaged]:
    """Turn empty files that are named like the images beside them into damaged ones.

    Args:
        blank: Empty files.
        places: Where there are images, from :func:`place_of`.
    """
    mend = "Copy the file again, or delete it"
    return [
        Damaged(item.path, DicomError(f"{item.reason} among images", where=item.path, mend=mend))
        for item in blank
        if place_of(item.path) in places
    ]


def place_of(path: str) -> tuple[str, str]:
    """Return the folder of a file, and what its name has in common with those of the same kind."""
    pure = PurePosixPath(path)
    return str(pure.parent), pure.suffix.lower() if not pure.name.startswith(".") else pure.name


def study_index(
    root: Path,
    series: list[Series],
    objects: Iterable[ObjectHeader],
    skipped: Mapping[str, Sequence[str]],
    damage: Damage,
) -> StudyIndex:
    """Return the index of a tree."""
    ordered = sorted(objects, key=lambda header: header.path)
    count = sum(len(files) for files in skipped.values())
    if count:
        _log.info("%d file(s) skipped", count)
    return StudyIndex(
        root=root,
        series=series,
        segmentations=[Reference(root=root, header=h) for h in ordered if h.sop_class in sop.SEGMENTATIONS],
        structure_sets=[Reference(root=root, header=h) for h in ordered if h.sop_class in sop.STRUCTURE_SETS],
        skipped_files=dict(skipped),
        damaged={item.path: item.error for item in damage.files},
    )

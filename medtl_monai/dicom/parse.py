"""One file → a header, an object reference, or the reason why it is neither."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset

from medtl_monai.dicom import sop
from medtl_monai.dicom.archive import is_zip
from medtl_monai.dicom.elements import Elements, Raws
from medtl_monai.dicom.header import Header, ObjectHeader
from medtl_monai.dicom.image import identity, image_header
from medtl_monai.dicom.opened import META_START, PREAMBLE, Opened, open_dataset
from medtl_monai.dicom.quiet import quiet
from medtl_monai.errors import DicomError

_DISPLACED = 1024
"""How far behind its place the mark of a damaged file is looked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A file that takes no part.

    Attributes:
        path: File, relative to the root.
        reason: Why, one of few phrases.
        blank: Whether it is empty or all zeros: a lost image, if its neighbours are images.
    """

    path: str
    reason: str
    blank: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Damaged:
    """A DICOM file that cannot be used.

    Attributes:
        path: File, relative to the root.
        error: What is wrong.
        series_uid: The series it says it belongs to; empty where unknown.
        transient: Whether it may be readable another time though nothing about it has changed.
    """

    path: str
    error: DicomError
    series_uid: str = dataclasses.field(default="", repr=False)
    transient: bool = False


Parsed = Header | ObjectHeader | Skipped | Damaged


def parse_file(root: Path, path: str) -> Parsed:
    """Read the header of one file.

    Args:
        root: Folder that ``path`` is relative to.
        path: The file, with forward slashes.
    """
    try:
        # pydicom's warnings quote values; what matters about a file becomes a typed error.
        with open(root / path, "rb") as stream, quiet():
            return _parse_stream(stream, path)
    except OSError as error:
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        mend = "Check the disk and the file's permissions"
        return Damaged(path, DicomError(what, where=path, mend=mend), transient=True)


def _parse_stream(stream: BinaryIO, path: str) -> Parsed:
    head = stream.read(PREAMBLE + 4 + len(META_START))
    mark = head[PREAMBLE : PREAMBLE + 4]
    if mark != b"DICM":
        verdict = _without_mark(stream, head, path)
        if verdict is not None:
            return verdict
    stream.seek(0)
    try:
        opened = open_dataset(stream, path, force=mark != b"DICM")
    except DicomError as error:
        return Damaged(path, error)
    elements = Elements(opened.dataset, path)
    try:
        if mark != b"DICM" and not elements.code("SOPClassUID"):
            return Skipped(path, "not DICOM")
        return _route(opened, elements)
    except DicomError as error:
        return Damaged(path, error, _series_of(elements))


def _series_of(elements: Elements) -> str:
    """Return the series that a damaged file says it belongs to, if it can still say so."""
    try:
        return elements.code("SeriesInstanceUID")
    except DicomError:
        return ""


def _without_mark(stream: BinaryIO, head: bytes, path: str) -> Skipped | Damaged | None:
    """Judge a file without DICM at byte 128; None where it may still be a data set without preamble."""
    if not head.strip(b"\0"):
        size = os.fstat(stream.fileno()).st_size
        if size <= len(head) or not stream.read(4096).strip(b"\0"):
            return Skipped(path, "empty file" if size == 0 else "nothing but zeros", blank=True)
    if head.endswith(META_START) and len(head) == PREAMBLE + 4 + len(META_START):
        what = "the DICM mark is damaged"
        return Damaged(path, DicomError(what, where=path, mend="Copy or export the file again, or remove it"))
    if not head[:PREAMBLE].strip(b"\0"):
        return Skipped(path, "begins with zeros", blank=True)
    if is_zip(head):
        return Skipped(path, "zip archive, not opened")
    if b"DICM" + META_START in head + stream.read(_DISPLACED):
        what = "the DICM mark is not at byte 128"
        return Damaged(path, DicomError(what, where=path, mend="Copy or export the file again, or remove it"))
    # Without preamble, a data set starts with an element of group 0002 or 0008, in either byte order.
    bare = len(head) > 8 and head[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
    return None if bare else Skipped(path, "not DICOM")


def _route(opened: Opened, elements: Elements) -> Parsed:
    """Decide by SOP class what the file is."""
    path = elements.path
    sop_class = elements.code("SOPClassUID")
    if sop_class == sop.MEDIA_DIRECTORY or _is_directory(opened.meta):
        return Skipped(path, "DICOMDIR")
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not elements.code(keyword):
            raise DicomError(f"{keyword} is missing", where=path, mend="The file may be cut short: copy it again")
    if sop_class in sop.SEGMENTATIONS | sop.STRUCTURE_SETS:
        return _object_header(elements, sop_class)
    if sop_class in sop.NOT_VOLUMES or "Rows" not in elements:
        name = sop.uid_name(sop_class)
        image = "Image Storage" in name or (name == "unknown" and elements.code("Modality") in sop.VOLUMETRIC)
        if image and sop_class not in sop.NOT_VOLUMES:
            raise DicomError("Rows is missing", where=path, mend="The file may be cut short: copy it again")
        return Skipped(path, f"no image ({name})")
    return image_header(opened, elements, sop_class)


def _is_directory(meta: Dataset | Raws) -> bool:
    return Elements(meta, "").code("MediaStorageSOPClassUID") == sop.MEDIA_DIRECTORY


def _object_header(elements: Elements, sop_class: str) -> ObjectHeader:
    references = _referenced_series(elements)
    return ObjectHeader(**identity(elements, sop_class), references=tuple(dict.fromkeys(references)))


def _referenced_series(elements: Elements) -> list[str]:
    """SeriesInstanceUIDs in ReferencedSeriesSequence, or within a structure set's frames of reference."""
    found = [Elements(i, elements.path).code("SeriesInstanceUID") for i in elements.items("ReferencedSeriesSequence")]
    for frame in elements.items("ReferencedFrameOfReferenceSequence"):
        for study in Elements(frame, elements.path).items("RTReferencedStudySequence"):
            for series in Elements(study, elements.path).items("RTReferencedSeriesSequence"):
                found.append(Elements(series, elements.path).code("SeriesInstanceUID"))
    return [uid for uid in found if uid]

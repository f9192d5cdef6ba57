"""One file → a header, an object reference, or the reason why it is neither."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset

from medtl_monai.dicom import sop
from medtl_monai.dicom.elements import Elements, tag
from medtl_monai.dicom.functional import frame_planes
from medtl_monai.dicom.header import SPLITTERS, Header, ObjectHeader, PixelData, PixelFormat, Plane
from medtl_monai.errors import DicomError

PREAMBLE = 128
_META_START = b"\x02\0\0\0UL\x04\0"
MAX_INFLATED = 2**31
"""Largest data set that a deflated file may expand to, in bytes."""

_KEYWORDS = """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID AcquisitionTime ContentTime AccessionNumber Modality
    SeriesDescription PatientID IssuerOfPatientID SliceThickness EchoTime EchoNumbers TriggerTime DiffusionBValue
    ViewPosition ImagerPixelSpacing NominalScannedPixelSpacing StudyInstanceUID SeriesInstanceUID AcquisitionNumber
    ImagePositionPatient ImageOrientationPatient TemporalPositionIdentifier ImageComments ImageLaterality
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns PixelSpacing
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleIntercept
    RescaleSlope RescaleType ModalityLUTSequence Units RedPaletteColorLookupTableDescriptor
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence ReferencedSeriesSequence
    ReferencedFrameOfReferenceSequence SequenceOfUltrasoundRegions
"""
_OVERLAY_BIT_POSITION = 0x60000102
_TAGS = [*(tag(keyword) for keyword in _KEYWORDS.split()), _OVERLAY_BIT_POSITION]
_PIXEL_ELEMENTS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


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
    """

    path: str
    error: DicomError
    series_uid: str = dataclasses.field(default="", repr=False)


Parsed = Header | ObjectHeader | Skipped | Damaged


def parse_file(root: Path, path: str) -> Parsed:
    """Read the header of one file.

    Args:
        root: Folder that ``path`` is relative to.
        path: The file, with forward slashes.
    """
    try:
        with open(root / path, "rb") as stream:
            return _parse_stream(stream, path)
    except OSError as error:
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        return Damaged(path, DicomError(what, where=path, mend="Check the disk and the file's permissions"))


def _parse_stream(stream: BinaryIO, path: str) -> Parsed:
    head = stream.read(PREAMBLE + 4 + len(_META_START))
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
    if mark != b"DICM" and not elements.code("SOPClassUID"):
        return Skipped(path, "not DICOM")
    try:
        return _route(opened, elements)
    except DicomError as error:
        return Damaged(path, error, elements.code("SeriesInstanceUID"))


def _without_mark(stream: BinaryIO, head: bytes, path: str) -> Skipped | Damaged | None:
    """Judge a file without DICM at byte 128; None where it may still be a data set without preamble."""
    if not head.strip(b"\0"):
        size = os.fstat(stream.fileno()).st_size
        if size <= len(head) or not stream.read(4096).strip(b"\0"):
            return Skipped(path, "empty file" if size == 0 else "nothing but zeros", blank=True)
    if head.endswith(_META_START) and len(head) == PREAMBLE + 4 + len(_META_START):
        what = "the DICM mark is damaged"
        return Damaged(path, DicomError(what, where=path, mend="Copy or export the file again, or remove it"))
    # Without preamble, a data set starts with an element of group 0002 or 0008, in either byte order.
    bare = len(head) > 8 and head[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
    return None if bare else Skipped(path, "not DICOM")


@dataclasses.dataclass(slots=True)
class Opened:
    """A dataset up to its pixels, and the stream standing at them."""

    dataset: Dataset
    stream: BinaryIO
    syntax: str
    implicit: bool
    little: bool
    size: int


def open_dataset(stream: BinaryIO, path: str, *, force: bool = False) -> Opened:
    """Parse a stream up to the pixel data; inflate it first where it is deflated.

    Raises:
        DicomError: Not parseable, or inflating to more than :data:`MAX_INFLATED` bytes.
    """
    plain = inflated(stream, path)
    deflated, stream = plain is not stream, plain
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=_TAGS)
    except Exception as error:  # damaged bytes provoke nearly any exception inside the parser
        raise DicomError(
            f"the header is damaged ({type(error).__name__})", where=path, mend="Export the file again, or remove it"
        ) from error
    implicit, little = dataset.original_encoding
    syntax = sop.DEFLATED if deflated else Elements(dataset.file_meta, path).code("TransferSyntaxUID")
    if not syntax:
        syntax = sop.IMPLICIT_LITTLE if implicit else sop.EXPLICIT_LITTLE if little else sop.EXPLICIT_BIG
    position = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return Opened(dataset, stream, syntax, bool(implicit), bool(little), size)


def inflated(stream: BinaryIO, path: str) -> BinaryIO:
    """Return the stream itself, or for a deflated file an in-memory copy as Explicit VR Little Endian."""
    head = stream.read(2048)
    stream.seek(0)
    marker = sop.DEFLATED.encode()
    if marker not in head or head[PREAMBLE : PREAMBLE + 4] != b"DICM":
        return stream
    group_length = head[PREAMBLE + 4 : PREAMBLE + 16]
    if group_length[:8] != _META_START:
        raise DicomError("the file meta group has no length", where=path, mend="Export the file again")
    end = PREAMBLE + 16 + struct.unpack("<I", group_length[8:])[0]
    if head.find(marker) >= end:
        return stream
    meta = stream.read(end).replace(marker, sop.EXPLICIT_LITTLE.encode().ljust(len(marker), b"\0"))
    return io.BytesIO(meta + _inflate(stream.read(), path))


def _inflate(data: bytes, path: str) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise DicomError("the deflated data are damaged", where=path, mend="Export the file again") from error
    if inflater.unconsumed_tail:
        raise DicomError(
            f"the deflated data expand to more than {MAX_INFLATED / 2**30:.0f} GiB",
            where=path,
            mend="Store the file uncompressed if it is genuine",
        )
    if not inflater.eof:
        raise DicomError("the deflated data end early", where=path, mend="Copy or export the file again")
    return body


def _route(opened: Opened, elements: Elements) -> Parsed:
    """Decide by SOP class what the file is."""
    path = elements.path
    sop_class = elements.code("SOPClassUID")
    if sop_class == sop.MEDIA_DIRECTORY or "DirectoryRecordSequence" in elements or _is_directory(opened.dataset):
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
    return _image_header(opened, elements, sop_class)


def _is_directory(dataset: Dataset) -> bool:
    return Elements(dataset.file_meta, "").code("MediaStorageSOPClassUID") == sop.MEDIA_DIRECTORY


def _identity(elements: Elements, sop_class: str) -> dict[str, str]:
    return {
        "path": elements.path,
        "patient_id": elements.text("PatientID"),
        "issuer": elements.text("IssuerOfPatientID"),
        "study_uid": elements.code("StudyInstanceUID"),
        "accession_number": elements.text("AccessionNumber"),
        "series_uid": elements.code("SeriesInstanceUID"),
        "instance_uid": elements.code("SOPInstanceUID"),
        "sop_class": sop_class,
        "modality": elements.code("Modality"),
    }


def _object_header(elements: Elements, sop_class: str) -> ObjectHeader:
    references = _referenced_series(elements)
    return ObjectHeader(**_identity(elements, sop_class), references=tuple(dict.fromkeys(references)))


def _referenced_series(elements: Elements) -> list[str]:
    """SeriesInstanceUIDs in ReferencedSeriesSequence, or within a structure set's frames of reference."""
    found = [Elements(i, elements.path).code("SeriesInstanceUID") for i in elements.items("ReferencedSeriesSequence")]
    for frame in elements.items("ReferencedFrameOfReferenceSequence"):
        for study in Elements(frame, elements.path).items("RTReferencedStudySequence"):
            for series in Elements(study, elements.path).items("RTReferencedSeriesSequence"):
                found.append(Elements(series, elements.path).code("SeriesInstanceUID"))
    return [uid for uid in found if uid]


def _image_header(opened: Opened, elements: Elements, sop_class: str) -> Header:
    frames = elements.integer("NumberOfFrames", 1)
    if not 1 <= frames <= 1_000_000:
        raise elements.invalid("NumberOfFrames", f"is {frames}")
    form = _pixel_format(elements)
    enhanced = frame_planes(elements, frames)
    padding = _padding(elements)
    return Header(
        **_identity(elements, sop_class),
        image_type=elements.codes("ImageType"),
        description=elements.text("SeriesDescription"),
        frames=frames,
        format=form,
        pixels=_pixel_data(opened, elements, form, frames),
        planes=enhanced or (_plane(elements),),
        enhanced=bool(enhanced),
        padding=padding,
        lut="ModalityLUTSequence" in elements,
        units=elements.code("Units"),
        overlay_bits=_overlay_bits(opened.dataset),
        laterality=elements.code("ImageLaterality"),
        view=elements.code("ViewPosition"),
    )


def _overlay_bits(dataset: Dataset) -> bool:
    item = dataset.get_item(_OVERLAY_BIT_POSITION) if _OVERLAY_BIT_POSITION in dataset else None
    return item is not None and item.value not in (b"\0\0", 0, b"", None)


def _padding(elements: Elements) -> tuple[int, int] | None:
    low = elements.word("PixelPaddingValue")
    high = elements.word("PixelPaddingRangeLimit")
    return None if low is None else (low, low if high is None else high)


def _pixel_format(elements: Elements) -> PixelFormat:
    allocated = elements.integer("BitsAllocated")
    stored = elements.integer("BitsStored", allocated)
    form = PixelFormat(
        rows=elements.integer("Rows"),
        columns=elements.integer("Columns"),
        samples=elements.integer("SamplesPerPixel", 1),
        photometric=elements.code("PhotometricInterpretation") or "MONOCHROME2",
        allocated=allocated,
        stored=stored,
        high_bit=elements.integer("HighBit", stored - 1),
        signed=elements.integer("PixelRepresentation", 0) == 1,
        planar=elements.integer("PlanarConfiguration", 0),
    )
    for keyword, value, allowed in (
        ("Rows", form.rows, range(1, 65536)),
        ("Columns", form.columns, range(1, 65536)),
        ("SamplesPerPixel", form.samples, (1, 3, 4)),
        ("BitsAllocated", form.allocated, (1, 8, 16, 32, 64)),
        ("BitsStored", form.stored, range(1, form.allocated + 1)),
        ("HighBit", form.high_bit, range(form.stored - 1, form.allocated)),
    ):
        if value not in allowed:
            raise elements.invalid(keyword, f"is {value}")
    return form


def _pixel_data(opened: Opened, elements: Elements, form: PixelFormat, frames: int) -> PixelData:
    """Find the pixel element's value and check its length against the header before anything is decoded."""
    order = "<" if opened.little else ">"
    offset = opened.stream.tell()
    head = opened.stream.read(12)
    group, element = struct.unpack(order + "HH", head[:4]) if len(head) >= 8 else (0, 0)
    keyword = _PIXEL_ELEMENTS.get(group << 16 | element)
    if keyword is None:
        raise DicomError("PixelData is missing", where=elements.path, mend="The file may be cut short: copy it again")
    long_form = not opened.implicit and head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    if long_form:
        (length,) = struct.unpack(order + "I", head[8:12].ljust(4, b"\0"))
    else:
        (length,) = struct.unpack(order + "I", head[4:8])
    start = offset + (12 if long_form else 8)
    undefined = length == 0xFFFFFFFF
    pixels = PixelData(opened.syntax, start, -1 if undefined else length, opened.little, keyword)
    _check_length(pixels, form, frames, opened.size, elements)
    _check_tail(opened, pixels, elements)
    return pixels


def _check_tail(opened: Opened, pixels: PixelData, elements: Elements) -> None:
    """Check that another element, or zeros, follow the pixels: otherwise bytes were put in or lost."""
    if pixels.length < 0:
        return
    opened.stream.seek(pixels.offset + pixels.length)
    tail = opened.stream.read(8)
    order = "<" if opened.little else ">"
    if tail.strip(b"\0") and (len(tail) < 8 or struct.unpack(order + "H", tail[:2])[0] < 0x7FE0):
        raise DicomError(
            "bytes follow PixelData that are no element", where=elements.path, mend="Copy or export the file again"
        )


def _check_length(pixels: PixelData, form: PixelFormat, frames: int, size: int, elements: Elements) -> None:
    available = size - pixels.offset
    if pixels.length > available:
        raise DicomError(
            f"PixelData is truncated: {max(available, 0)} of {pixels.length} bytes",
            where=elements.path,
            mend="Copy or export the file again",
        )
    if pixels.syntax not in sop.NATIVE:
        return
    expected = (form.rows * form.columns * form.samples * form.allocated * frames + 7) // 8
    if form.photometric == "YBR_FULL_422":
        expected = expected // 3 * 2
    # Writers pad a little; a whole row too many means that the header and the pixels disagree.
    slack = max(1, min(64, form.frame_bytes // form.rows - 1))
    if not expected <= pixels.length <= expected + slack:
        raise DicomError(
            f"PixelData has {pixels.length} bytes; Rows, Columns, BitsAllocated and NumberOfFrames ask for {expected}",
            where=elements.path,
            mend="Copy or export the file again",
        )


def _plane(elements: Elements) -> Plane:
    position = elements.numbers("ImagePositionPatient", 3)
    spacing = elements.numbers("PixelSpacing", 2)
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if spacing is None and elements.code("Modality") not in sop.VOLUMETRIC:
            spacing = elements.numbers(keyword, 2)
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if slope == 0:
        raise elements.invalid("RescaleSlope", "is 0")
    return Plane(
        position=(position[0], position[1], position[2]) if position else None,
        orientation=elements.numbers("ImageOrientationPatient", 6),
        spacing=(spacing[0], spacing[1]) if spacing else None,
        thickness=elements.number("SliceThickness"),
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        rescale_type=elements.code("RescaleType"),
        rescaled=slope is not None and intercept is not None,
        splits=tuple(_split_value(elements, keyword) for keyword in SPLITTERS),
    )


def _split_value(elements: Elements, keyword: str) -> str:
    if keyword == "ImageComments":
        return elements.text(keyword)
    if keyword == "DiffusionBValue":
        value = elements.numbers(keyword)
        return "" if value is None else f"{value[0]:g}"
    return "\\".join(elements.codes(keyword)[2:] if keyword == "ImageType" else elements.codes(keyword))

"""The header of an image file: pixel format, planes, and pixels whose length agrees with both."""

from __future__ import annotations

import struct

from medtl_monai.dicom import sop
from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.functional import frame_planes, rescale
from medtl_monai.dicom.header import SPLITTERS, Header, PixelData, PixelFormat, Plane
from medtl_monai.dicom.opened import OVERLAY_BIT_POSITION, Opened
from medtl_monai.errors import DicomError

_PIXEL_ELEMENTS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


def identity(elements: Elements, sop_class: str) -> dict[str, str]:
    """Return what identifies a file, by the names of :class:`Header` and :class:`ObjectHeader`."""
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


def image_header(opened: Opened, elements: Elements, sop_class: str) -> Header:
    """Return the header of an image file.

    Args:
        opened: The file, its stream standing at the pixels.
        elements: Its elements.
        sop_class: Its SOP class.

    Raises:
        DicomError: An attribute is missing or impossible, or the pixels' length does not agree with them.
    """
    frames = elements.integer("NumberOfFrames", 1)
    if not 1 <= frames <= 1_000_000:
        raise elements.invalid("NumberOfFrames", f"is {frames}")
    form = _pixel_format(elements)
    enhanced = frame_planes(elements, frames)
    padding = _padding(elements)
    return Header(
        **identity(elements, sop_class),
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
        frame_of_reference=elements.code("FrameOfReferenceUID"),
        overlay_bits=_overlay_bits(elements),
        laterality=elements.code("ImageLaterality"),
        view=elements.code("ViewPosition"),
    )


def _overlay_bits(elements: Elements) -> bool:
    item = elements.raw(OVERLAY_BIT_POSITION, "OverlayBitPosition")
    return item is not None and item.value not in (b"\0\0", 0, b"", None)


def _padding(elements: Elements) -> tuple[int, int] | None:
    low = elements.word("PixelPaddingValue")
    high = elements.word("PixelPaddingRangeLimit")
    return None if low is None else (low, low if high is None else high)


def _pixel_format(elements: Elements) -> PixelFormat:
    # Nothing here has a default: every one of them changes the values (DICOM PS3.3 C.7.6.3, all type 1).
    samples, stored = elements.integer("SamplesPerPixel"), elements.integer("BitsStored")
    form = PixelFormat(
        rows=elements.integer("Rows"),
        columns=elements.integer("Columns"),
        samples=samples,
        photometric=elements.code("PhotometricInterpretation"),
        allocated=elements.integer("BitsAllocated"),
        stored=stored,
        high_bit=elements.integer("HighBit", stored - 1),
        signed=elements.integer("PixelRepresentation") == 1,
        planar=elements.integer("PlanarConfiguration", None if samples in (3, 4) else 0),
    )
    if not form.photometric:
        raise elements.missing("PhotometricInterpretation")
    for keyword, value, allowed in (
        ("Rows", form.rows, range(1, 65536)),
        ("Columns", form.columns, range(1, 65536)),
        ("SamplesPerPixel", form.samples, (1, 3, 4)),
        ("BitsAllocated", form.allocated, (1, 8, 16, 32, 64)),
        ("BitsStored", form.stored, range(1, form.allocated + 1)),
        ("HighBit", form.high_bit, range(form.stored - 1, form.allocated)),
        ("PixelRepresentation", elements.integer("PixelRepresentation"), (0, 1)),
        ("PlanarConfiguration", form.planar, (0, 1)),
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
    _check_length(opened, pixels, form, frames, elements)
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


def _zeros(opened: Opened, pixels: PixelData, count: int) -> bool:
    """Whether the last ``count`` bytes of the pixel element are zeros."""
    opened.stream.seek(pixels.offset + pixels.length - count)
    return not opened.stream.read(count).strip(b"\0")


def _check_length(opened: Opened, pixels: PixelData, form: PixelFormat, frames: int, elements: Elements) -> None:
    available = opened.size - pixels.offset
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
    # Writers pad, mostly by one byte. More than that must be zeros, or the header and the pixels disagree.
    excess = pixels.length - expected
    if excess < 0 or excess >= max(2, form.frame_bytes) or (excess > 1 and not _zeros(opened, pixels, excess)):
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
    slope, intercept = rescale(elements)
    return Plane(
        position=(position[0], position[1], position[2]) if position else None,
        orientation=elements.numbers("ImageOrientationPatient", 6),
        spacing=(spacing[0], spacing[1]) if spacing else None,
        thickness=elements.number("SliceThickness"),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        rescale_type=elements.code("RescaleType"),
        rescaled=slope is not None,
        splits=tuple(_split_value(elements, keyword) for keyword in SPLITTERS),
    )


def _split_value(elements: Elements, keyword: str) -> str:
    if keyword == "ImageComments":
        return elements.text(keyword)
    if keyword == "DiffusionBValue":
        value = elements.numbers(keyword)
        return "" if value is None else f"{value[0]:g}"
    return "\\".join(elements.codes(keyword)[2:] if keyword == "ImageType" else elements.codes(keyword))

"""A file opened up to its pixels, by the fast walk where the header is ordinary, else by pydicom."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medtl_monai.dicom import sop
from medtl_monai.dicom.elements import Elements, Raws, tag
from medtl_monai.dicom.quiet import quiet
from medtl_monai.dicom.walk import HEAD_BYTES, walk
from medtl_monai.errors import DicomError

PREAMBLE = 128
META_START = b"\x02\0\0\0UL\x04\0"
UNDEFINED = 0xFFFFFFFF
"""The length of sequences and encapsulated pixels that end with a delimiter."""
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
    FrameOfReferenceUID ReferencedFrameOfReferenceSequence SequenceOfUltrasoundRegions
"""
OVERLAY_BIT_POSITION = 0x60000102
WANTED = {key: (Tag(key), dictionary_VR(key)) for key in [*map(tag, _KEYWORDS.split()), OVERLAY_BIT_POSITION]}


@dataclasses.dataclass(slots=True)
class Opened:
    """A dataset up to its pixels, and the stream standing at them."""

    dataset: Dataset | Raws
    meta: Dataset | Raws
    stream: BinaryIO
    syntax: str
    implicit: bool
    little: bool
    size: int


class Bounded:
    """A stream that never sets memory aside for more than it holds, whatever length a damaged element announces.

    Args:
        stream: The stream; it is read through and stays where reading leaves it.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        at = stream.tell()
        self._size = stream.seek(0, os.SEEK_END)
        stream.seek(at)
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1, /) -> bytes:
        """Read at most ``count`` bytes; all that is left if negative."""
        if count > HEAD_BYTES:
            count = max(0, min(count, self._size - self._stream.tell()))
        return self._stream.read(count)


def open_dataset(stream: BinaryIO, path: str, *, force: bool = False) -> Opened:
    """Parse a stream up to the pixel data; inflate it first where it is deflated.

    Raises:
        DicomError: Not parseable, or inflating to more than :data:`MAX_INFLATED` bytes.
    """
    walked = None if force else walk(stream.read(HEAD_BYTES), WANTED)
    if walked is not None:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(walked.end)
        return Opened(walked.elements, walked.meta, stream, walked.syntax, walked.implicit, True, size)
    stream.seek(0)
    return _open_with_pydicom(stream, path, force)


def _open_with_pydicom(stream: BinaryIO, path: str, force: bool) -> Opened:
    plain = inflated(stream, path)
    try:
        with quiet():
            source: Any = Bounded(plain)
            dataset = pydicom.dcmread(source, stop_before_pixels=True, force=force, specific_tags=list(WANTED))
    except Exception as error:  # damaged bytes provoke nearly any exception inside the parser
        raise DicomError(
            f"the header is damaged ({type(error).__name__})", where=path, mend="Export the file again, or remove it"
        ) from error
    implicit, little = dataset.original_encoding
    syntax = Elements(dataset.file_meta, path).code("TransferSyntaxUID")
    if plain is not stream:
        syntax = sop.DEFLATED
    elif not syntax:
        syntax = sop.IMPLICIT_LITTLE if implicit else sop.EXPLICIT_LITTLE if little else sop.EXPLICIT_BIG
    position = plain.tell()
    size = plain.seek(0, os.SEEK_END)
    plain.seek(position)
    return Opened(dataset, dataset.file_meta, plain, syntax, bool(implicit), bool(little), size)


def sop_class_of(file: Path, path: str) -> str:
    """Return the SOPClassUID of a file; empty where it has none.

    Args:
        file: The file.
        path: Its name for errors, relative to the data root.

    Raises:
        DicomError: It cannot be read or parsed.
    """
    try:
        with open(file, "rb") as stream:
            return Elements(open_dataset(stream, path).dataset, path).code("SOPClassUID")
    except OSError as error:
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise DicomError(what, where=path, mend="Check the path") from error


def read_object(file: Path, path: str) -> Dataset:
    """Read a whole file that holds no image: a segmentation or a structure set.

    Args:
        file: The file.
        path: Its name for errors, relative to the data root.

    Raises:
        DicomError: It cannot be read or parsed, or is cut short.
    """
    try:
        with quiet(), open(file, "rb") as stream:
            source: Any = Bounded(inflated(stream, path))
            dataset = pydicom.dcmread(source, force=True)
            _check_whole(dataset, path)
            return dataset
    except OSError as error:
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise DicomError(what, where=path, mend="Check the path") from error
    except DicomError:
        raise
    except Exception as error:  # damaged bytes provoke nearly any exception inside the parser
        raise DicomError(
            f"the file is damaged ({type(error).__name__})", where=path, mend="Export the file again"
        ) from error


def _check_whole(dataset: Dataset, path: str) -> None:
    """Refuse a file that ends within a value: pydicom takes what there is, and a sequence would have fewer items."""
    for element in map(dataset.get_item, dataset.keys()):
        if isinstance(element, RawDataElement) and _is_short(element):
            keyword = dictionary_keyword(element.tag) if dictionary_has_tag(element.tag) else "a private element"
            raise DicomError(f"the file is cut short in {keyword}", where=path, mend="Copy or export the file again")


def _is_short(element: RawDataElement) -> bool:
    return isinstance(element.value, bytes) and element.length != UNDEFINED and len(element.value) < element.length


def inflated(stream: BinaryIO, path: str) -> BinaryIO:
    """Return the stream itself, or for a deflated file an in-memory copy as Explicit VR Little Endian."""
    head = stream.read(2048)
    stream.seek(0)
    marker = sop.DEFLATED.encode()
    if marker not in head or head[PREAMBLE : PREAMBLE + 4] != b"DICM":
        return stream
    group_length = head[PREAMBLE + 4 : PREAMBLE + 16]
    if group_length[:8] != META_START:
        raise DicomError("the file meta group has no length", where=path, mend="Export the file again")
    end = PREAMBLE + 16 + struct.unpack("<I", group_length[8:])[0]
    if head.find(marker) >= end:
        return stream
    meta = Bounded(stream).read(end).replace(marker, sop.EXPLICIT_LITTLE.encode().ljust(len(marker), b"\0"))
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

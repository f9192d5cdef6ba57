"""The contents of a DICOM SEG file: segments, planes, and frames as label numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from medtl_monai.dicom import sop
from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.functional import frame_planes, frame_segments
from medtl_monai.dicom.header import Plane
from medtl_monai.dicom.opened import read_object
from medtl_monai.dicom.quiet import quiet
from medtl_monai.errors import DicomError

MAX_FRAMES = 1_000_000


@dataclasses.dataclass(kw_only=True, eq=False)
class SegFile:
    """One opened SEG.

    Attributes:
        path: The file, relative to the data root.
        dataset: Its data set.
        syntax: TransferSyntaxUID.
        kind: SegmentationType: BINARY, FRACTIONAL or LABELMAP.
        frames: NumberOfFrames.
        rows: Rows.
        columns: Columns.
        names: Segment labels in order of segment number, background left out.
        numbers: Segment number → value 1, 2, … of ``names``.
        segments: The segment number of every frame (0 for LABELMAP).
        planes: The plane of every frame; empty where there are none.
        references: SeriesInstanceUIDs it was made for.
        notes: What is unusual.
    """

    path: str
    dataset: Dataset = dataclasses.field(repr=False)
    syntax: str
    kind: str
    frames: int
    rows: int
    columns: int
    names: tuple[str, ...]
    numbers: dict[int, int]
    segments: tuple[int, ...]
    planes: tuple[Plane, ...]
    references: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def values(self, frame: int) -> NDArray[np.int16]:
        """Return one frame as int16 ``[rows, columns]`` of values 0 … ``len(names)``."""
        stored = self._packed(frame) if self._is_packed else self._decoded(frame)
        if self.kind == "LABELMAP":
            return self._relabelled(stored)
        if self.kind == "FRACTIONAL":
            highest = Elements(self.dataset, self.path).integer("MaximumFractionalValue", 255)
            stored = 2 * stored.astype(np.int64) >= highest
        return np.asarray((stored != 0) * np.int16(self.numbers[self.segments[frame]]), np.int16)

    @property
    def _is_packed(self) -> bool:
        return self.kind == "BINARY" and self.syntax in sop.NATIVE and int(self.dataset.BitsAllocated) == 1

    def _packed(self, frame: int) -> NDArray[Any]:
        """Unpack one frame's bits; frames follow each other without padding, lowest bit first."""
        count = self.rows * self.columns
        first = frame * count
        data = self.dataset.PixelData[first // 8 : (first + count + 7) // 8]
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[first % 8 :][:count].reshape(self.rows, self.columns)

    def _decoded(self, frame: int) -> NDArray[Any]:
        try:
            with quiet():
                values = np.asarray(pixel_array(self.dataset, index=frame))
        except Exception as error:  # decoders raise whatever damaged bytes provoke
            raise DicomError(
                f"PixelData ({sop.uid_name(self.syntax)}) cannot be decoded ({type(error).__name__})",
                where=self.path,
                mend="Install the decoders with: pip install medtl-monai[codecs], or export the file again",
            ) from error
        if values.shape != (self.rows, self.columns):
            raise DicomError("the frames are not Rows×Columns", where=self.path, mend="Export the file again")
        return values

    def _relabelled(self, stored: NDArray[Any]) -> NDArray[np.int16]:
        out = np.zeros(stored.shape, np.int16)
        nothing = (0, Elements(self.dataset, self.path).word("PixelPaddingValue"))
        for number in np.unique(stored):
            value = self.numbers.get(int(number))
            if value is None and number not in nothing:
                raise DicomError(
                    f"value {number} is no segment", where=f"{self.path}, SegmentSequence", mend="Export the file again"
                )
            out[stored == number] = value or 0
        return out


def open_seg(file: Path, path: str) -> SegFile:
    """Open a SEG file and check that it is whole.

    Args:
        file: The file.
        path: Its name for errors, relative to the data root.

    Raises:
        DicomError: Not a readable SEG.
    """
    dataset = read_object(file, path)
    elements = Elements(dataset, path)
    sop_class = elements.code("SOPClassUID")
    if sop_class not in sop.SEGMENTATIONS:
        raise DicomError(
            f"not a segmentation but {sop.uid_name(sop_class) if sop_class else 'unknown'}",
            where=path,
            mend="Give a DICOM SEG file",
        )
    seg = _describe(dataset, elements)
    _check_pixels(seg, elements)
    return seg


def _describe(dataset: Dataset, elements: Elements) -> SegFile:
    path = elements.path
    kind = elements.code("SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise elements.invalid("SegmentationType", f"is {kind or 'missing'}")
    frames = elements.integer("NumberOfFrames", 1)
    if not 0 < frames <= MAX_FRAMES:
        raise elements.invalid("NumberOfFrames", f"is {frames}")
    numbers, names = _segments(elements)
    planes = frame_planes(elements, frames)
    if any(None in (plane.position, plane.orientation, plane.spacing) for plane in planes):
        raise DicomError(
            "a frame lacks position, orientation or spacing",
            where=f"{path}, PerFrameFunctionalGroupsSequence",
            mend="Export the segmentation again",
        )
    segments = (0,) * frames if kind == "LABELMAP" else frame_segments(elements, frames)
    for number in segments:
        if kind != "LABELMAP" and number not in numbers:
            raise elements.invalid("ReferencedSegmentNumber", f"{number} is no segment")
    references = [Elements(i, path).code("SeriesInstanceUID") for i in elements.items("ReferencedSeriesSequence")]
    return SegFile(
        path=path,
        dataset=dataset,
        syntax=str(dataset.file_meta.get("TransferSyntaxUID", sop.EXPLICIT_LITTLE)),
        kind=kind,
        frames=frames,
        rows=elements.integer("Rows"),
        columns=elements.integer("Columns"),
        names=names,
        numbers=numbers,
        segments=segments,
        planes=planes,
        references=tuple(uid for uid in references if uid),
    )


def _segments(elements: Elements) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return segment number → value, and the labels in order of number; number 0 is a label map's background."""
    labels: dict[int, str] = {}
    for item in elements.items("SegmentSequence"):
        segment = Elements(item, elements.path)
        number = segment.integer("SegmentNumber")
        if number in labels:
            raise elements.invalid("SegmentNumber", f"{number} occurs twice")
        labels[number] = segment.text("SegmentLabel") or f"segment-{number}"
    labels.pop(0, None)
    if not labels or len(labels) > np.iinfo(np.int16).max:
        raise elements.invalid("SegmentSequence", f"has {len(labels)} segments")
    order = sorted(labels)
    return {number: value for value, number in enumerate(order, 1)}, tuple(labels[number] for number in order)


def _check_pixels(seg: SegFile, elements: Elements) -> None:
    """Check the pixel element against the header before anything is decoded."""
    bits = elements.integer("BitsAllocated")
    if "PixelData" not in elements:
        raise DicomError("PixelData is missing", where=seg.path, mend="Copy or export the file again")
    if seg.rows < 1 or seg.columns < 1 or bits not in (1, 8, 16):
        raise elements.invalid("Rows, Columns or BitsAllocated")
    expected = (seg.rows * seg.columns * seg.frames * bits + 7) // 8
    data = elements.dataset.PixelData
    length = len(data)
    if seg.syntax in sop.NATIVE and length < expected:
        raise DicomError(
            f"PixelData is truncated: {length} of {expected} bytes",
            where=seg.path,
            mend="Copy or export the file again",
        )
    excess = length - expected
    # Writers pad, mostly by one byte. More than that must be zeros, or the header and the pixels disagree.
    if seg.syntax in sop.NATIVE and (
        excess * 8 >= max(16, seg.rows * seg.columns * bits) or data[expected + 1 :].strip(b"\0")
    ):
        raise DicomError(
            f"PixelData has {length} bytes; Rows, Columns and NumberOfFrames ask for {expected}",
            where=seg.path,
            mend="Copy or export the file again",
        )

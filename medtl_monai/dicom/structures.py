"""The contents of an RTSTRUCT file: regions of interest and their contours (DICOM PS3.3 A.19, C.8.8.5, C.8.8.6)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medtl_monai.dicom import sop
from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.opened import read_object
from medtl_monai.errors import DicomError

MAX_POINTS = 20_000_000
"""Most points of one region."""
MAX_MM = 1e6
"""Largest coordinate that can be meant."""

FILLED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
OPEN = frozenset({"OPEN_PLANAR", "OPEN_NONPLANAR"})
_TYPES = FILLED | OPEN | {"POINT"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contour:
    """One closed contour.

    Attributes:
        number: Its place in the region's ContourSequence, from 1.
        points: float64 ``[n, 3]``, LPS millimetres; the last is joined to the first.
    """

    number: int
    points: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Roi:
    """One region of interest.

    Attributes:
        path: The file, relative to the data root.
        number: ROINumber.
        name: ROIName.
        frame_uid: ReferencedFrameOfReferenceUID.
        items: Its ContourSequence.
    """

    path: str
    number: int
    name: str
    frame_uid: str = dataclasses.field(default="", repr=False)
    items: tuple[Dataset, ...] = dataclasses.field(default=(), repr=False)

    @property
    def where(self) -> str:
        """The region's place, for errors."""
        return f"{self.path}, ROI {self.name!r}"

    @cached_property
    def types(self) -> Mapping[str, int]:
        """ContourGeometricType → number of contours.

        Raises:
            DicomError: A type is missing or unknown.
        """
        return Counter(self._type(number) for number in range(1, len(self.items) + 1))

    @property
    def filled(self) -> bool:
        """Whether any contour encloses an area."""
        return not FILLED.isdisjoint(self.types)

    def contours(self) -> list[Contour]:
        """Read the closed contours.

        Raises:
            DicomError: Naming the contour: coordinates missing, not finite, not in triplets, or of another number than
                said; more than :data:`MAX_POINTS`.
        """
        found, total = [], 0
        for number, item in enumerate(self.items, 1):
            if self._type(number) not in FILLED:
                continue
            contour = Contour(number=number, points=_points(self._elements(number, item)))
            total += len(contour.points)
            if total > MAX_POINTS:
                mend = "Draw it with fewer points"
                raise DicomError(f"the region has more than {MAX_POINTS} points", where=self.where, mend=mend)
            found.append(contour)
        return found

    def _elements(self, number: int, item: Dataset) -> Elements:
        return Elements(item, f"{self.where}, contour {number}")

    def _type(self, number: int) -> str:
        elements = self._elements(number, self.items[number - 1])
        kind = elements.code("ContourGeometricType")
        if kind not in _TYPES:
            raise elements.invalid("ContourGeometricType", "is unknown" if kind else "is missing")
        return kind


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StructureSet:
    """An opened RTSTRUCT.

    Attributes:
        path: The file, relative to the data root.
        rois: Its regions in order of the StructureSetROISequence.
        frames: Each frame of reference, and the SeriesInstanceUIDs in it that the structure set was drawn on.
    """

    path: str
    rois: tuple[Roi, ...]
    frames: tuple[tuple[str, frozenset[str]], ...] = dataclasses.field(default=(), repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all regions, each once."""
        return tuple(dict.fromkeys(roi.name for roi in self.rois))

    @property
    def filled(self) -> tuple[str, ...]:
        """The names of regions that enclose an area, each once."""
        return tuple(dict.fromkeys(roi.name for roi in self.rois if roi.filled))


def open_structures(file: Path, path: str) -> StructureSet:
    """Open an RTSTRUCT file.

    Args:
        file: The file.
        path: Its name for errors, relative to the data root.

    Raises:
        DicomError: Not a readable RTSTRUCT, or its sequences do not belong together.
    """
    elements = Elements(read_object(file, path), path)
    sop_class = elements.code("SOPClassUID")
    if sop_class not in sop.STRUCTURE_SETS:
        name = sop.uid_name(sop_class) if sop_class else "unknown"
        raise DicomError(f"not a structure set but {name}", where=path, mend="Give a DICOM RTSTRUCT file")
    contours = _contours(elements)
    rois: dict[int, Roi] = {}
    for dataset in elements.items("StructureSetROISequence"):
        roi = Elements(dataset, path)
        number = roi.integer("ROINumber")
        if number in rois:
            raise roi.invalid("ROINumber", f"{number} occurs twice")
        rois[number] = Roi(
            path=path,
            number=number,
            name=roi.text("ROIName") or f"roi-{number}",
            frame_uid=roi.code("ReferencedFrameOfReferenceUID"),
            items=tuple(contours.pop(number, ())),
        )
    if not rois:
        raise elements.invalid("StructureSetROISequence", "has no items")
    if contours:
        raise elements.invalid("ReferencedROINumber", f"{min(contours)} is no region")
    return StructureSet(path=path, rois=tuple(rois.values()), frames=_frames(elements))


def _contours(elements: Elements) -> dict[int, list[Dataset]]:
    """Return ROI number → items of its ContourSequence."""
    if "ROIContourSequence" not in elements:
        mend = "The file may be cut short: copy or export it again"
        raise DicomError("ROIContourSequence is missing", where=elements.path, mend=mend)
    found: dict[int, list[Dataset]] = {}
    for dataset in elements.items("ROIContourSequence"):
        item = Elements(dataset, elements.path)
        number = item.integer("ReferencedROINumber")
        if number in found:
            raise item.invalid("ReferencedROINumber", f"{number} occurs twice")
        found[number] = item.items("ContourSequence")
    return found


def _frames(elements: Elements) -> tuple[tuple[str, frozenset[str]], ...]:
    found = []
    for frame in elements.items("ReferencedFrameOfReferenceSequence"):
        item = Elements(frame, elements.path)
        series = [
            Elements(one, elements.path).code("SeriesInstanceUID")
            for study in item.items("RTReferencedStudySequence")
            for one in Elements(study, elements.path).items("RTReferencedSeriesSequence")
        ]
        found.append((item.code("FrameOfReferenceUID"), frozenset(uid for uid in series if uid)))
    return tuple(found)


def _points(elements: Elements) -> NDArray[np.float64]:
    values = elements.numbers("ContourData") or ()
    count = elements.integer("NumberOfContourPoints")
    if len(values) % 3 or len(values) != 3 * count:
        what = f"has {len(values)} values, and NumberOfContourPoints is {count}"
        raise elements.invalid("ContourData", what)
    if any(elements.numbers("ContourOffsetVector") or ()):
        raise elements.invalid("ContourOffsetVector", "shifts the contour, which is not supported")
    points = np.array(values, np.float64).reshape(-1, 3)
    if points.size and np.abs(points).max() > MAX_MM:
        raise elements.invalid("ContourData", f"has coordinates beyond {MAX_MM:g} mm")
    return points

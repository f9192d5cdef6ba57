"""Planes of enhanced multi-frame images, from their functional groups (DICOM PS3.3 C.7.6.16)."""

from __future__ import annotations

from pydicom.dataset import Dataset

from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.header import SPLITTERS, Plane


def frame_planes(elements: Elements, frames: int) -> tuple[Plane, ...]:
    """Return one plane a frame, or an empty tuple where there are no functional groups with positions.

    Raises:
        DicomError: The number of groups is not the number of frames.
    """
    planes = tuple(_plane(group) for group in _groups(elements, frames))
    return planes if any(plane.position for plane in planes) else ()


def rescale(elements: Elements) -> tuple[float | None, float | None]:
    """Return RescaleSlope and RescaleIntercept; None, None where there are neither.

    Raises:
        DicomError: One is there without the other (each requires the other, DICOM PS3.3 C.11.1.1), or the slope is 0.
    """
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if (slope is None) != (intercept is None):
        keyword, other = ("RescaleSlope", "RescaleIntercept")[:: 1 if slope is None else -1]
        raise elements.invalid(keyword, f"is missing beside {other}")
    if slope == 0:
        raise elements.invalid("RescaleSlope", "is 0")
    return slope, intercept


def frame_segments(elements: Elements, frames: int) -> tuple[int, ...]:
    """Return the ReferencedSegmentNumber of every frame of a segmentation.

    Raises:
        DicomError: A frame does not tell.
    """
    groups = _groups(elements, frames)
    if not groups:
        raise elements.invalid("PerFrameFunctionalGroupsSequence", "is missing")
    return tuple(g.find("SegmentIdentificationSequence").integer("ReferencedSegmentNumber") for g in groups)


def _groups(elements: Elements, frames: int) -> list[_Group]:
    groups = elements.items("PerFrameFunctionalGroupsSequence")
    shared = [Elements(item, elements.path) for item in elements.items("SharedFunctionalGroupsSequence")[:1]]
    if groups and len(groups) != frames:
        raise elements.invalid("PerFrameFunctionalGroupsSequence", f"has {len(groups)} items for {frames} frames")
    return [_Group(Elements(group, elements.path), *shared) for group in groups]


class _Group:
    """A frame's own functional groups, with the shared ones behind them."""

    def __init__(self, own: Elements, shared: Elements | None = None) -> None:
        self.sources = (own, shared) if shared else (own,)

    def find(self, *sequences: str) -> Elements:
        """Return the first item of the first of ``sequences`` that is there; an empty one otherwise."""
        for source in self.sources:
            for sequence in sequences:
                items = source.items(sequence)
                if items:
                    return Elements(items[0], source.path)
        return Elements(Dataset(), self.sources[0].path)


def _plane(group: _Group) -> Plane:
    position = group.find("PlanePositionSequence").numbers("ImagePositionPatient", 3)
    measures = group.find("PixelMeasuresSequence")
    spacing = measures.numbers("PixelSpacing", 2)
    transformation = group.find("PixelValueTransformationSequence")
    slope, intercept = rescale(transformation)
    return Plane(
        position=(position[0], position[1], position[2]) if position else None,
        orientation=group.find("PlaneOrientationSequence").numbers("ImageOrientationPatient", 6),
        spacing=(spacing[0], spacing[1]) if spacing else None,
        thickness=measures.number("SliceThickness"),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        rescale_type=transformation.code("RescaleType"),
        rescaled=slope is not None,
        splits=_splits(group),
    )


def _splits(group: _Group) -> tuple[str, ...]:
    content = group.find("FrameContentSequence")
    echo = group.find("MREchoSequence").number("EffectiveEchoTime")
    diffusion = group.find("MRDiffusionSequence").number("DiffusionBValue")
    trigger = group.find("CardiacSynchronizationSequence").number("NominalCardiacTriggerDelayTime")
    frame_type = group.find("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
    values = {
        "AcquisitionNumber": _shown(content.number("FrameAcquisitionNumber")),
        "EchoTime": _shown(echo),
        "TemporalPositionIdentifier": _shown(content.number("TemporalPositionIndex")),
        "TriggerTime": _shown(trigger),
        "DiffusionBValue": _shown(diffusion),
        "ImageType": "\\".join(frame_type.codes("FrameType")[2:]),
        "ImageComments": content.text("FrameComments"),
        "AcquisitionTime": content.code("FrameAcquisitionDateTime"),
    }
    return tuple(values.get(keyword, "") for keyword in SPLITTERS)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"

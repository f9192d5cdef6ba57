"""A DICOM SEG on its own grid, for resampling onto an image that has another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtl_monai.dicom import stack
from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.functional import slice_distance
from medtl_monai.dicom.geometry import SHEAR_TOLERANCE, Affine, Geometry, Volume, shear
from medtl_monai.dicom.header import Plane
from medtl_monai.dicom.seg import SegMask, place_frames
from medtl_monai.dicom.segfile import SegFile
from medtl_monai.errors import DicomError


def place_on_own_grid(seg: SegFile, segments: Sequence[str] | None = None) -> tuple[SegMask, Affine]:
    """Place the frames of an opened DICOM SEG on the regular grid that they make.

    Args:
        seg: The SEG.
        segments: As in :func:`medtl_monai.dicom.read_seg`.

    Returns:
        The labels, and the affine from their indices to RAS millimetres.

    Raises:
        DicomError: The frames do not make a regular grid; otherwise as :func:`medtl_monai.dicom.read_seg`.
    """
    affine, slices = _grid(seg)
    empty = np.broadcast_to(np.float32(0), (seg.columns, seg.rows, slices))
    geometry: Geometry = "sheared" if shear(affine) > SHEAR_TOLERANCE else "regular"
    return place_frames(seg, Volume(array=empty, affine=affine, geometry=geometry), segments), affine


def _grid(seg: SegFile) -> tuple[Affine, int]:
    """Return affine and number of slices of the regular grid that holds all frames, stored or not."""
    if not seg.planes:
        raise _irregular(seg, "frames have no position in the patient")
    normal = stack.normal(seg.planes[0].orientation or ())
    along = np.array([np.dot(normal, plane.position or ()) for plane in seg.planes])
    first, last = seg.planes[int(along.argmin())], seg.planes[int(along.argmax())]
    if any(_turned(plane, first) for plane in seg.planes):
        raise _irregular(seg, "frames differ in orientation or spacing")
    height = float(np.ptp(along))
    if height < stack.POSITION_TOLERANCE:
        return stack.plane_affine(first, normal * (_said(seg) or first.thickness or 1.0)), 1
    step = _step(seg, along)
    count = round(height / step)
    places = (along - along.min()) / (height / max(count, 1))
    if not count or np.abs(places - np.rint(places)).max() > stack.SPACING_TOLERANCE:
        raise _irregular(seg, f"frames do not lie {step:.4g} mm or a multiple of it apart")
    advance = (np.array(last.position) - np.array(first.position)) / count
    return stack.plane_affine(first, advance), count + 1


def _step(seg: SegFile, along: NDArray[np.float64]) -> float:
    """Return the slice distance: as the file says, for sparse frames do not show it; else the least it can be."""
    gaps = np.diff(np.sort(along))
    least = float(gaps[gaps > stack.POSITION_TOLERANCE].min())
    return _said(seg) or min(least, seg.planes[0].thickness or least)


def _said(seg: SegFile) -> float | None:
    return slice_distance(Elements(seg.dataset, seg.path), seg.frames)


def _turned(plane: Plane, other: Plane) -> bool:
    direction = np.abs(np.array(plane.orientation) - np.array(other.orientation)).max()
    spacing = np.abs(np.array(plane.spacing) / np.array(other.spacing) - 1).max()
    return bool(direction > stack.DIRECTION_TOLERANCE or spacing > stack.SPACING_TOLERANCE)


def _irregular(seg: SegFile, what: str) -> DicomError:
    return DicomError(
        f"the segmentation cannot be resampled: {what}",
        where=f"{seg.path}, PlanePositionSequence and PixelMeasuresSequence",
        mend="Resample it onto the image with other software, and save it again",
    )

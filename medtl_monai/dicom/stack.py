"""The geometry of a stack of planes: order, spacing, gaps, tilt, affine.

Slices are ordered by the projection of ImagePositionPatient on the slice normal; nothing else ever orders them.
Tolerances follow the conventions of the field: directions agree within 1e-3, spacings within 1 %.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtl_monai.dicom.geometry import SHEAR_TOLERANCE, Affine, Geometry
from medtl_monai.dicom.header import Plane
from medtl_monai.dicom.series import Slice
from medtl_monai.errors import DicomError

DIRECTION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine between slices of one volume."""
SPACING_TOLERANCE = 0.01
"""Largest relative difference between slice distances."""
POSITION_TOLERANCE = 0.01
"""Slices nearer than this, in millimetres along the normal, are at one position."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MEND_GAP = "Export the missing slices, or set on_gap to 'interpolate' or 'split'"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Where every slice of a volume goes.

    Attributes:
        slices: In order along the normal.
        places: Position of each on the regular k axis; whole numbers unless slices are unevenly spaced.
        count: Number of slices of the volume.
        affine: Voxel to RAS millimetres.
        geometry: Whether the axes are perpendicular.
        gap: The error that describes missing or uneven slices, or None.
        notes: What is unusual.
    """

    slices: tuple[Slice, ...]
    places: NDArray[np.float64]
    count: int
    affine: Affine
    geometry: Geometry = "regular"
    gap: DicomError | None = None
    notes: tuple[str, ...] = ()


def normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    """Return the unit slice normal (row direction × column direction), LPS."""
    vector = np.cross(orientation[:3], orientation[3:])
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def plane_of(item: Slice) -> Plane:
    """Return the plane of a slice."""
    return item.header.plane(item.frame)


def name_of(item: Slice) -> str:
    """Name a slice for an error: its file, and its frame in a multi-frame file."""
    return f"{item.header.path} frame {item.frame + 1}" if item.header.frames > 1 else item.header.path


def orientation_name(item: Slice) -> str:
    """Return axial, coronal or sagittal, whichever is nearest to the slice normal."""
    direction = np.abs(normal(plane_of(item).orientation or ()))
    return ("sagittal", "coronal", "axial")[int(np.argmax(direction))]


def require_geometry(item: Slice) -> None:
    """Check that a slice has position, orientation and spacing, all of them possible.

    Raises:
        DicomError: Naming the file and the attribute.
    """
    plane = plane_of(item)
    mend = "Export the original series: without it, a voxel's place in the patient is unknown"
    for keyword, value in (
        ("ImagePositionPatient", plane.position),
        ("ImageOrientationPatient", plane.orientation),
        ("PixelSpacing", plane.spacing),
    ):
        if value is None:
            raise DicomError(f"{keyword} is missing", where=name_of(item), mend=mend)
    check_spacing(item)
    if not _perpendicular(plane.orientation or ()):
        raise DicomError(
            "ImageOrientationPatient does not hold two perpendicular unit vectors", where=name_of(item), mend=mend
        )


@functools.lru_cache(256)
def _perpendicular(orientation: tuple[float, ...]) -> bool:
    """Whether an orientation holds two perpendicular unit vectors; a scan asks for each slice of a series."""
    axes = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    return not (np.abs(lengths - 1).max() > 0.01 or abs(float(axes[0] @ axes[1])) > 0.01)


def check_spacing(item: Slice) -> None:
    """Check that a slice's pixel spacing, if any, is positive.

    Raises:
        DicomError: Naming the file.
    """
    spacing = plane_of(item).spacing
    if spacing is not None and min(spacing) <= 0:
        raise DicomError(
            f"PixelSpacing is {spacing[0]:g}\\{spacing[1]:g}", where=name_of(item), mend="Export the file again"
        )


def distances(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Return each slice's distance along the normal of the first, in millimetres."""
    direction = normal(plane_of(slices[0]).orientation or ())
    return np.array([plane_of(item).position for item in slices], np.float64) @ direction


def build_stack(slices: Sequence[Slice]) -> Stack:
    """Order the slices of one volume and find its grid.

    Args:
        slices: At least one; equal orientation, size and pixel spacing, no position twice.

    Raises:
        DicomError: Slices do not lie on one line, or one alone has no thickness.
    """
    along = distances(slices)
    order = np.argsort(along, kind="stable")
    ordered = tuple(slices[i] for i in order)
    along = along[order]
    positions = np.array([plane_of(item).position for item in ordered], np.float64)
    if len(ordered) == 1:
        return _single(ordered[0])
    step_length, places, gap = _regularity(ordered, along)
    step = (positions[-1] - positions[0]) / (along[-1] - along[0]) * step_length
    _check_line(ordered, positions, along, step / step_length)
    affine = plane_affine(plane_of(ordered[0]), step)
    tilt = _tilt(plane_of(ordered[0]), step)
    sheared = tilt > SHEAR_TOLERANCE
    notes = ("the slices are tilted against their stacking direction: the affine is sheared",) if sheared else ()
    return Stack(
        slices=ordered,
        places=places,
        count=round(float(places[-1])) + 1,
        affine=affine,
        geometry="sheared" if sheared else "regular",
        gap=gap,
        notes=notes,
    )


def _single(item: Slice) -> Stack:
    plane = plane_of(item)
    if not plane.thickness or plane.thickness <= 0:
        raise DicomError(
            "SliceThickness is missing, and one slice alone has no slice distance",
            where=name_of(item),
            mend="Export the whole series",
        )
    affine = plane_affine(plane, normal(plane.orientation or ()) * plane.thickness)
    return Stack(slices=(item,), places=np.zeros(1), count=1, affine=affine)


def plane_affine(plane: Plane, step: NDArray[np.float64]) -> Affine:
    """Return the affine (to RAS) of a stack that starts at ``plane`` and moves by ``step`` (LPS mm) a slice.

    PixelSpacing is (between rows, between columns): the first goes with the column direction (j), the second with
    the row direction (i). See DICOM PS3.3 C.7.6.2.1.1.
    """
    between_rows, between_columns = plane.spacing or (1.0, 1.0)
    orientation = np.array(plane.orientation or (1, 0, 0, 0, 1, 0), np.float64).reshape(2, 3)
    row_direction, column_direction = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
    affine = np.eye(4)
    affine[:3, 0] = row_direction * between_columns
    affine[:3, 1] = column_direction * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = plane.position or (0, 0, 0)
    return _LPS_TO_RAS @ affine


def _tilt(plane: Plane, step: NDArray[np.float64]) -> float:
    """Largest cosine between the stacking direction and the slice plane's axes."""
    axes = np.array(plane.orientation, np.float64).reshape(2, 3)
    return float(np.abs(axes @ step).max() / np.linalg.norm(step))


def _regularity(
    ordered: Sequence[Slice], along: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], DicomError | None]:
    """Return the slice distance along the normal, every slice's place in units of it, and a gap's description."""
    steps = np.diff(along)
    base = float(np.median(steps))
    if np.abs(steps - base).max() <= max(SPACING_TOLERANCE * base, POSITION_TOLERANCE):
        return float(along[-1] - along[0]) / len(steps), np.arange(len(along), dtype=np.float64), None
    base = float(steps.min())
    whole = np.round(steps / base)
    missing = bool((np.abs(steps - whole * base) <= SPACING_TOLERANCE * base).all())
    if missing:
        base = float(along[-1] - along[0]) / float(whole.sum())
        places = np.concatenate([[0.0], np.cumsum(whole)])
    else:
        places = (along - along[0]) / base
        places *= np.floor(places[-1] + 1e-6) / places[-1]
        base = float(along[-1] - along[0]) / places[-1]
    return base, places, _gap_error(ordered, steps, missing)


def _gap_error(ordered: Sequence[Slice], steps: NDArray[np.float64], missing: bool) -> DicomError:
    worst = int(np.argmax(steps))
    between = f"between {name_of(ordered[worst])} and {name_of(ordered[worst + 1])}"
    base = float(steps.min())
    if missing:
        lost = int(np.round(steps / base).sum()) - len(steps)
        times = round(float(steps[worst]) / base)
        what = f"{lost} slice(s) missing: gap {steps[worst]:.4g} mm = {times}×{base:.4g} mm"
    else:
        what = f"slices are unevenly spaced ({base:.4g} to {steps[worst]:.4g} mm)"
    return DicomError(what, where=f"ImagePositionPatient {between}", mend=_MEND_GAP)


def _check_line(
    ordered: Sequence[Slice], positions: NDArray[np.float64], along: NDArray[np.float64], slope: NDArray[np.float64]
) -> None:
    """Check that all positions lie on one straight line, within 1 % of the slice distance or 0.01 mm."""
    line = positions[0] + np.outer(along - along[0], slope)
    off = np.linalg.norm(positions - line, axis=1)
    worst = int(np.argmax(off))
    tolerance = max(POSITION_TOLERANCE, SPACING_TOLERANCE * float(np.diff(along).min()))
    if off[worst] > tolerance:
        raise DicomError(
            f"the slice lies {off[worst]:.4g} mm beside the line through the others",
            where=f"{name_of(ordered[worst])}, ImagePositionPatient",
            mend="Export the acquisitions of this series apart",
        )

"""The contours of one RTSTRUCT region in the index space of an image: which slice each lies in, and what it fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtl_monai.dicom.geometry import Volume
from medtl_monai.dicom.polygon import Points, Window, even_odd
from medtl_monai.dicom.structures import FILLED, OPEN, Contour, Roi
from medtl_monai.errors import DicomError

Mask = NDArray[np.bool_]

FLAT_TOLERANCE = 0.1
"""How far, in slices, the points of a contour may lie beside its plane."""
EDGE_TOLERANCE = 0.1
"""How far, in voxels, a contour may reach beyond the outer faces of the image."""

_HALF_WAY = 1e-3
"""Contours nearer than this, in slices, to the middle between two slices belong to neither."""
_DIGITS = 6
"""Decimals of an index that count: rounding errors do not decide on which side of a contour a voxel centre is."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MEND_IMAGE = "Give the image the structures were drawn on"


class Notes(list[str]):
    """Notes; numbers stand in brackets at the end, so that equal notes of several cases can be counted."""

    def add(self, text: str, number: int, what: str) -> None:
        """Add a note unless ``number`` is 0."""
        if number:
            self.append(f"{text} ({number} {what})")


class Region:
    """The contours of one region in the image's index space.

    Args:
        roi: The region.
        like: The image.
        notes: Takes what is unusual.
    """

    def __init__(self, roi: Roi, like: Volume, notes: Notes) -> None:
        self.roi = roi
        self.shape = like.shape
        self.notes = notes
        self.inverse = np.linalg.inv(_LPS_TO_RAS @ like.affine)
        self.planes: dict[int, float] = {}

    def masks(self) -> list[tuple[int, Window, Mask]]:
        """Return slice index, window (i, j) and mask of every slice that has contours."""
        self._check_open()
        slices = self._by_slice(self._usable())
        self._check_steps(sorted(slices))
        found = []
        crossing = 0
        for index, contours in slices.items():
            polygons = [points for _, points in contours]
            found.append((index, *even_odd(polygons, self.shape[:2])))
            crossing += len(polygons) > 1 and _cross(polygons, self.shape[:2])
        text = f"contours of region {self.roi.name!r} cross each other; what two of them share is outside (even-odd)"
        self.notes.add(text, crossing, "slices")
        if slices and not any(mask.any() for _, _, mask in found):
            what = "no voxel centre is inside the contours"
            mend = "Choose other regions (data.structures), or give an image of smaller voxels"
            raise DicomError(what, where=self.roi.where, mend=mend)
        return found

    def _check_open(self) -> None:
        kinds = self.roi.types
        count = sum(kinds.get(kind, 0) for kind in OPEN)
        if count:
            what = f"{count} open contours beside closed ones"
            raise DicomError(what, where=self.roi.where, mend="Close or delete them in the planning system")
        self.notes.add(f"points of region {self.roi.name!r} were left out", kinds.get("POINT", 0), "points")

    def _usable(self) -> list[Contour]:
        """Leave out contours that enclose nothing, and all but one of those that are there several times."""
        contours = [c for c in self.roi.contours() if len(c.points) > 2]
        small = sum(self.roi.types.get(kind, 0) for kind in FILLED) - len(contours)
        text = f"contours of region {self.roi.name!r} with fewer than three points were left out"
        self.notes.add(text, small, "contours")
        extents = Counter(_extent(contour.points) for contour in contours)
        unique = {
            extent if extents[extent] == 1 else _outline(contour.points): contour
            for contour in reversed(contours)
            for extent in (_extent(contour.points),)
        }
        text = f"contours of region {self.roi.name!r} that repeat another one were left out"
        self.notes.add(text, len(contours) - len(unique), "contours")
        return sorted(unique.values(), key=lambda contour: contour.number)

    def _by_slice(self, contours: list[Contour]) -> dict[int, list[tuple[Contour, Points]]]:
        slices: dict[int, list[tuple[Contour, Points]]] = {}
        beside = 0
        for contour in contours:
            indices = self._indices(contour.points)
            plane = float(np.median(indices[:, 2]))
            self._check_flat(contour, indices, plane)
            index = self._slice(contour, indices, plane)
            beside += abs(plane - index) > FLAT_TOLERANCE
            slices.setdefault(index, []).append((contour, indices[:, :2]))
        text = f"contours of region {self.roi.name!r} lie between slices and were drawn on the nearest"
        self.notes.add(text, beside, "contours")
        return slices

    def _indices(self, points: Points) -> Points:
        # Term by term: unlike a matrix product, this gives equal numbers for equal points of different contours.
        x, y, z = points.T
        rows = [row[0] * x + row[1] * y + row[2] * z + row[3] for row in self.inverse[:3]]
        return np.round(np.stack(rows, axis=1), _DIGITS)

    def _check_flat(self, contour: Contour, indices: Points, plane: float) -> None:
        off = np.abs(indices[:, 2] - plane).max()
        if off > FLAT_TOLERANCE:
            span = np.ptp(indices[:, 2])
            raise self._refused(
                contour,
                f"the contour is not in a slice of the image: it spans {span:.3g} slices",
                "Draw it on this image's own slices, or give an image whose slices are parallel to the contours",
            )

    def _slice(self, contour: Contour, indices: Points, plane: float) -> int:
        """Return the slice a contour lies in; refuse one outside, half-way, or in another plane than its fellows."""
        index = int(np.rint(plane))
        distance = abs(plane - index)
        low, high = indices[:, :2].min(axis=0), indices[:, :2].max(axis=0)
        beyond = float(max((-0.5 - low).max(), (high - np.array(self.shape[:2]) + 0.5).max()))
        if not 0 <= index < self.shape[2]:
            off = -plane if plane < 0 else plane - self.shape[2] + 1
            raise self._refused(contour, f"the contour is {off:.3g} slices outside the image", _MEND_IMAGE)
        if beyond > EDGE_TOLERANCE:
            raise self._refused(
                contour,
                f"the contour reaches {beyond:.3g} voxels beyond the image",
                f"{_MEND_IMAGE}, or choose other regions (rois, or data.structures)",
            )
        if distance > 0.5 - _HALF_WAY:
            raise self._refused(contour, "the contour is half-way between two slices", _MEND_IMAGE)
        if abs(self.planes.setdefault(index, plane) - plane) > FLAT_TOLERANCE:
            what = "the contour and another one of the region are in different planes within one slice"
            raise self._refused(contour, what, _MEND_IMAGE)
        return index

    def _check_steps(self, indices: Sequence[int]) -> None:
        """Refuse a region that was drawn on every n-th slice; note slices that were left out here and there.

        A region may well be in several pieces, but when the commonest step from one drawn slice to the next is more
        than one, the slices between were meant to be interpolated, and a mask without them would be wrong.
        """
        steps = np.diff(indices)
        if not len(steps):
            return
        values, counts = np.unique(steps, return_counts=True)
        step, times = int(values[counts.argmax()]), int(counts.max())
        empty = int((steps - 1).sum())
        if step > 1 and times > 1:
            what = f"the region is drawn on one of every {step} slices only ({empty} slices between have no contour)"
            mend = "Interpolate the contours in the planning system, or choose other regions (data.structures)"
            raise DicomError(what, where=self.roi.where, mend=mend)
        text = f"region {self.roi.name!r} has no contour in slices between others; it is absent there"
        self.notes.add(text, empty, "slices")

    def _refused(self, contour: Contour, what: str, mend: str) -> DicomError:
        return DicomError(what, where=f"{self.roi.where}, contour {contour.number}, ContourData", mend=mend)


def _extent(points: Points) -> bytes:
    """Return what only contours that might be the same have in common."""
    return np.concatenate([[len(points)], points.min(axis=0), points.max(axis=0)]).tobytes()


def _outline(points: Points) -> bytes:
    """Return what contours along the same edges have in common, from whichever point and whichever way round."""
    vertices, ranks = np.unique(points, axis=0, return_inverse=True)
    edges = np.sort(np.stack([ranks.ravel(), np.roll(ranks.ravel(), -1)], axis=1), axis=1)
    return vertices.tobytes() + edges[np.lexsort(edges.T)].tobytes()


def _cross(polygons: Sequence[Points], shape: tuple[int, int]) -> bool:
    """Whether two contours share some pixels without one being a hole or an island in the other."""
    masks = [even_odd([polygon], shape) for polygon in polygons]
    sizes = [np.count_nonzero(mask) for _, mask in masks]
    for n, one in enumerate(masks):
        for m, other in enumerate(masks[:n]):
            both = _shared(one, other)
            if both and (both not in (sizes[n], sizes[m]) or sizes[n] == sizes[m]):
                return True
    return False


def _shared(one: tuple[Window, Mask], other: tuple[Window, Mask]) -> int:
    """Count the pixels that two masks share."""
    cuts: list[tuple[slice, slice]] = []
    for a, b in zip(one[0], other[0], strict=True):
        low, high = max(a.start, b.start), min(a.stop, b.stop)
        if low >= high:
            return 0
        cuts.append((slice(low - a.start, high - a.start), slice(low - b.start, high - b.start)))
    return int(np.count_nonzero(one[1][cuts[0][0], cuts[1][0]] & other[1][cuts[0][1], cuts[1][1]]))

"""DICOM SEG onto an image's grid, by geometry alone (DICOM PS3.3 A.51, C.8.20).

Every stored frame carries its own position, orientation and spacing; frames may be sparse, in any order, turned or
flipped against the image. Each is mapped through the image's affine; a frame that does not fall onto voxel centres is
refused, never resampled in silence.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtl_monai.dicom import stack
from medtl_monai.dicom.geometry import Affine, Volume
from medtl_monai.dicom.header import Plane
from medtl_monai.dicom.segfile import SegFile, open_seg
from medtl_monai.dicom.series import Reference
from medtl_monai.errors import DicomError, did_you_mean

GRID_TOLERANCE = 0.01
"""How far, in voxels or millimetres (whichever is more), a frame's pixels may lie beside voxel centres."""

Labels = NDArray[np.int16]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SegMask:
    """A segmentation on the grid of an image.

    Attributes:
        labels: int16 ``[i, j, k]``; 0 is background, n the n-th name.
        names: Segment labels in order of segment number; the n-th name (from 1) is value n.
        notes: What was done beyond plain reading.
    """

    labels: Labels
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class OffGridError(DicomError):
    """A segmentation does not lie on its image's grid."""


def read_seg(path: Path | str | Reference, like: Volume, *, segments: Sequence[str] | None = None) -> SegMask:
    """Read a DICOM SEG onto the grid of ``like``.

    BINARY and LABELMAP segments are taken as stored, FRACTIONAL ones where the fraction is at least one half. Slices
    without a stored frame are background.

    Args:
        path: A SEG file, or a segmentation of a scan.
        like: The image; where it knows its series and the SEG names its own, they must agree.
        segments: Labels of the segments wanted, for values 1, 2, …, the others being background; by default all, in
            order of segment number.

    Raises:
        DicomError: Not a SEG; made for another series; off the image's grid; a wanted segment is not there; segments
            overlap; damaged.

    Example:
        >>> mask = read_seg("seg.dcm", volume)                       # doctest: +SKIP
        >>> mask.names, mask.labels.max()                            # doctest: +SKIP
        (('Anterior', 'Posterior'), 2)
    """
    seg = (
        open_seg(path.path, path.header.path) if isinstance(path, Reference) else open_seg(Path(path), Path(path).name)
    )
    check_reference(seg, like)
    return place_frames(seg, like, segments)


def place_frames(seg: SegFile, like: Volume, segments: Sequence[str] | None = None) -> SegMask:
    """Place the frames of an opened SEG onto a grid; only shape and affine of ``like`` count.

    Raises:
        DicomError: As :func:`read_seg`.
    """
    placer = _Placer(like, seg, _wanted(seg, segments))
    for frame in range(seg.frames):
        placer.place(frame)
    placer.check_overlaps()
    return SegMask(labels=placer.labels, names=placer.names, notes=tuple(placer.notes))


def _wanted(seg: SegFile, segments: Sequence[str] | None) -> tuple[str, ...]:
    if segments is None:
        return seg.names
    absent = [name for name in segments if name not in seg.names]
    if absent:
        mend = did_you_mean(absent[0], seg.names)
        raise DicomError(f"there is no segment {absent[0]!r}", where=f"{seg.path}, SegmentSequence", mend=mend)
    return tuple(segments)


def check_reference(seg: SegFile, like: Volume) -> None:
    """Refuse a SEG that names other series than the image's.

    Raises:
        DicomError: It does.
    """
    if like.series_uid and seg.references and like.series_uid not in seg.references:
        raise DicomError(
            "the segmentation was made for another series",
            where=f"{seg.path}, ReferencedSeriesSequence",
            mend="Give the segmentation of this series, or the series it was made for",
        )


class _Placer:
    """Writes frames into the label array and remembers where segments meet."""

    def __init__(self, like: Volume, seg: SegFile, names: tuple[str, ...]) -> None:
        self.seg = seg
        self.names = names
        own = range(1, len(names) + 1) if names == seg.names else map(_index(names).get, seg.names)
        self.values = np.array([0, *(value or 0 for value in own)], np.int16)
        self.like = like
        self.labels: Labels = np.zeros(like.shape, np.int16)
        self.inverse: Affine = np.asarray(np.linalg.inv(like.affine), np.float64)
        self.overlaps: Counter[tuple[int, int]] = Counter()
        self.notes = list(seg.notes)

    def place(self, frame: int) -> None:
        """Place one stored frame.

        Raises:
            DicomError: It is not on the image's grid, or has foreground outside the image.
        """
        number = self.seg.segments[frame]
        if number and not self.values[self.seg.numbers[number]]:
            return
        values = self.values[self.seg.values(frame)]
        if not values.any():
            return
        plane = self.seg.planes[frame] if self.seg.planes else None
        view, values = self._onto(values, plane, frame)
        clash = (view != 0) & (values != 0) & (view != values)
        for one, other in np.unique(np.stack([view[clash], values[clash]]), axis=1).T:
            both = (view == one) & (values == other) & clash
            self.overlaps[(min(int(one), int(other)), max(int(one), int(other)))] += int(both.sum())
        np.copyto(view, values, where=values != 0)

    def _onto(self, values: Labels, plane: Plane | None, frame: int) -> tuple[Labels, Labels]:
        """Return the part of the label array a frame covers, as a view, and the frame turned to match it."""
        if plane is None:
            return self._unplaced(values)
        matrix = self.inverse @ stack.plane_affine(plane, np.zeros(3))
        rows, columns = values.shape
        ends = np.array([[0, columns - 1, 0], [0, 0, rows - 1], [0, 0, 0], [1, 1, 1]], np.float64)
        origin, right, below = (matrix @ ends)[:3].T
        start = np.round(origin)
        axis_i, sign_i = _step(matrix[:3, 0])
        axis_j, sign_j = _step(matrix[:3, 1])
        expected = [start.copy() for _ in range(3)]
        expected[1][axis_i] += sign_i * (columns - 1)
        expected[2][axis_j] += sign_j * (rows - 1)
        off = np.abs(np.array([origin, right, below]) - np.array(expected))
        tolerance = np.maximum(GRID_TOLERANCE, GRID_TOLERANCE / np.array(self.like.spacing_mm))
        if axis_i == axis_j or (off > tolerance).any():
            raise self._off_grid(frame, float(off.max()))
        turned = values.T[::sign_i, ::sign_j]
        low = [int(min(start[axis], end[axis])) for axis, end in ((axis_i, expected[1]), (axis_j, expected[2]))]
        if axis_i > axis_j:
            turned, low = turned.T, low[::-1]
        across = 3 - axis_i - axis_j
        return self._crop(turned, low, across, int(start[across]), frame)

    def _crop(self, turned: Labels, low: list[int], across: int, index: int, frame: int) -> tuple[Labels, Labels]:
        sizes = [n for axis, n in enumerate(self.like.shape) if axis != across]
        inside = [
            slice(max(0, -start), min(length, size - start))
            for start, length, size in zip(low, turned.shape, sizes, strict=True)
        ]
        part = turned[inside[0], inside[1]] if all(s.start < s.stop for s in inside) else turned[:0, :0]
        hit = 0 <= index < self.like.shape[across]
        if not hit or np.count_nonzero(part) != np.count_nonzero(turned):
            raise DicomError(
                f"frame {frame + 1} has foreground outside the image",
                where=f"{self.seg.path}, ImagePositionPatient",
                mend="Give the image the segmentation was drawn on",
            )
        place = [slice(start + cut.start, start + cut.stop) for start, cut in zip(low, inside, strict=True)]
        view = np.moveaxis(self.labels, across, 0)[index][place[0], place[1]]
        return view, part

    def _unplaced(self, values: Labels) -> tuple[Labels, Labels]:
        """A frame without a place fits one case only: the mask of a single two-dimensional image of its size."""
        if self.like.shape != (values.shape[1], values.shape[0], 1):
            raise DicomError(
                "frames have no position in the patient",
                where=f"{self.seg.path}, PlanePositionSequence",
                mend="Only masks of single two-dimensional images of the same size may lack positions",
            )
        return self.labels[:, :, 0], values.T

    def _off_grid(self, frame: int, distance: float) -> DicomError:
        return OffGridError(
            f"frame {frame + 1} is not on the image's grid (off by {distance:.3g} voxels)",
            where=f"{self.seg.path}, PlanePositionSequence and PixelMeasuresSequence",
            mend="Give the image it was drawn on, or set data.off_grid_masks=nearest",
        )

    def check_overlaps(self) -> None:
        """Refuse segments that claim the same voxels.

        Raises:
            DicomError: Naming the segments and the number of voxels.
        """
        if not self.overlaps:
            return
        names = self.names
        pairs = "; ".join(
            f"{names[a - 1]!r} and {names[b - 1]!r} in {n} voxels" for (a, b), n in sorted(self.overlaps.items())[:5]
        )
        raise DicomError(
            f"segments overlap: {pairs}",
            where=self.seg.path,
            mend="Choose segments by name (segments, or data.structures): one label a voxel is learnt",
        )


def _index(names: Sequence[str]) -> dict[str, int]:
    return {name: value for value, name in enumerate(names, 1)}


def _step(column: NDArray[np.float64]) -> tuple[int, int]:
    """Return the index axis a frame axis runs along, and its sign."""
    axis = int(np.argmax(np.abs(column)))
    return axis, 1 if column[axis] > 0 else -1

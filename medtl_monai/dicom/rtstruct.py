"""RTSTRUCT contours onto an image's grid, by geometry alone (DICOM PS3.3 A.19, C.8.8.6).

Contours are points in the patient, in millimetres, and so is ImagePositionPatient: the centre of the first voxel
(C.7.6.2.1.1). Mapped through the inverse of the image's affine, a contour's points are voxel indices, in which voxel
centres are whole numbers; no half voxel is added anywhere. A voxel belongs to a region when its centre is inside:

- All closed contours of a region in one slice are combined by exclusive disjunction (C.8.8.6.3), so that a contour
  within another one is a hole, an island in the hole is inside again, and a keyhole contour keeps its hole.
- A centre exactly on a contour belongs to the side of higher index (see :mod:`medtl_monai.dicom.polygon`). C.8.8.6.3
  counts the contour itself as part of the region; half-open edges give up that infinitely thin line so that neighbours
  that share a contour never overlap.
- A contour fills its own slice only. Nothing is interpolated between slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medtl_monai.dicom.geometry import Volume
from medtl_monai.dicom.polygon import Window
from medtl_monai.dicom.region import Mask, Notes, Region
from medtl_monai.dicom.seg import Labels, SegMask
from medtl_monai.dicom.series import Reference
from medtl_monai.dicom.structures import Roi, StructureSet, open_structures
from medtl_monai.errors import DicomError, did_you_mean

_MEND_IMAGE = "Give the image the structures were drawn on"
_MEND_NAMES = "Choose regions by name (rois, or data.structures)"


def read_rtstruct(path: Path | str | Reference, like: Volume, *, rois: Sequence[str] | None = None) -> SegMask:
    """Read an RTSTRUCT onto the grid of ``like``.

    Args:
        path: An RTSTRUCT file, or a structure set of a scan.
        like: The image; where it knows its series and the file names its own, they must agree.
        rois: Names of the regions wanted, for values 1, 2, …; by default all that enclose an area.

    Returns:
        The labels. Notes tell what was left out: points, contours of fewer than three points, repeated contours,
        regions without contours, and slices without a contour between others.

    Raises:
        DicomError: Not an RTSTRUCT; drawn on another series; damaged; a wanted region is not there, or there twice; a
            contour does not lie in a slice, or is outside the image; no voxel centre is inside a region; a region is
            drawn on every n-th slice only, or has open contours; regions overlap.

    Example:
        >>> mask = read_rtstruct("rs.dcm", volume, rois=["Liver", "GTV"])      # doctest: +SKIP
        >>> mask.names, mask.labels.max()                                      # doctest: +SKIP
        (('Liver', 'GTV'), 2)
    """
    file, name = (path.path, path.header.path) if isinstance(path, Reference) else (Path(path), Path(path).name)
    return draw(open_structures(file, name), like, rois)


def draw(structures: StructureSet, like: Volume, rois: Sequence[str] | None = None) -> SegMask:
    """Draw regions of an opened structure set onto the grid of ``like``.

    Raises:
        DicomError: As :func:`read_rtstruct`.
    """
    if not like.spacing_known:
        mend = "Structures can be placed on images with known spacing only"
        raise DicomError("the image's pixel spacing is unknown", where=structures.path, mend=mend)
    notes = Notes()
    wanted = _wanted(structures, rois, notes)
    _check_reference(structures, wanted, like, notes)
    drawing = _Drawing(like, structures.path)
    for roi in wanted:
        drawing.add(Region(roi, like, notes).masks())
    drawing.check_overlaps([roi.name for roi in wanted])
    return SegMask(labels=drawing.labels, names=tuple(roi.name for roi in wanted), notes=tuple(notes))


def _wanted(structures: StructureSet, names: Sequence[str] | None, notes: Notes) -> list[Roi]:
    """Return the regions to draw, in order."""
    if names is None:
        for roi in structures.rois:
            if not roi.filled:
                notes.append(f"region {roi.name!r} encloses no area and was left out")
        names = structures.filled
    if not names:
        raise DicomError("no region encloses an area", where=structures.path, mend="Export the contours")
    if len(set(names)) < len(names):
        raise DicomError("a region is asked for twice", where=structures.path, mend=_MEND_NAMES)
    return [_one(structures, name, notes) for name in names]


def _one(structures: StructureSet, name: str, notes: Notes) -> Roi:
    same = [roi for roi in structures.rois if roi.name == name]
    if not same:
        mend = did_you_mean(name, structures.names)
        raise DicomError(f"there is no region {name!r}", where=structures.path, mend=mend)
    found = [roi for roi in same if roi.filled] or same
    if len(found) > 1:
        mend = "Rename one of them in the planning system"
        raise DicomError(f"{len(found)} regions are called {name!r}", where=structures.path, mend=mend)
    roi = found[0]
    if not roi.items:
        notes.append(f"region {name!r} has no contours")
    elif not roi.filled:
        what = f"the region encloses no area: its contours are {', '.join(sorted(roi.types))}"
        raise DicomError(what, where=roi.where, mend="Choose regions of closed contours")
    return roi


def _check_reference(structures: StructureSet, wanted: Sequence[Roi], like: Volume, notes: Notes) -> None:
    """Refuse regions that were drawn on another series or in another frame of reference."""
    if not like.series_uid:
        return
    if not any(series for _, series in structures.frames):
        notes.append("the structure set names no series; it was placed by its coordinates alone")
        return
    own = {frame for frame, series in structures.frames if like.series_uid in series}
    others = {frame for frame, _ in structures.frames} - own
    if not own:
        raise DicomError(
            "the structures were drawn on another series",
            where=f"{structures.path}, RTReferencedSeriesSequence",
            mend="Give the structure set of this series, or the series it was drawn on",
        )
    for roi in wanted:
        if roi.frame_uid in others:
            raise DicomError(
                "the region is in another frame of reference than the image",
                where=f"{roi.where}, ReferencedFrameOfReferenceUID",
                mend=_MEND_IMAGE,
            )


class _Drawing:
    """The label array, and where regions meet."""

    def __init__(self, like: Volume, path: str) -> None:
        # Slices are contiguous in memory, since they are drawn one by one.
        self.labels: Labels = np.zeros(like.shape[::-1], np.int16).T
        self.path = path
        self.count = 0
        self.overlaps: Counter[tuple[int, int]] = Counter()

    def add(self, masks: Sequence[tuple[int, Window, Mask]]) -> None:
        """Draw the next region."""
        self.count += 1
        for index, window, mask in masks:
            view = self.labels[:, :, index][window]
            taken = view[mask]
            for value, number in zip(*np.unique(taken[taken != 0], return_counts=True), strict=True):
                self.overlaps[(int(value), self.count)] += int(number)
            view[mask] = self.count

    def check_overlaps(self, names: Sequence[str]) -> None:
        """Refuse regions that claim the same voxels.

        Raises:
            DicomError: Naming the regions and the number of voxels.
        """
        if not self.overlaps:
            return
        pairs = "; ".join(
            f"{names[a - 1]!r} and {names[b - 1]!r} in {n} voxels" for (a, b), n in sorted(self.overlaps.items())[:5]
        )
        mend = f"{_MEND_NAMES}: one label a voxel is learnt"
        raise DicomError(f"regions overlap: {pairs}", where=self.path, mend=mend)

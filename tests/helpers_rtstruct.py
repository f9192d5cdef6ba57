"""Writes small valid RTSTRUCT files from contours in voxel indices, and says which voxels are inside by brute force."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from helpers_dicom import EXPLICIT, Edit, Recipe, instance, item, save
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclasses.dataclass(kw_only=True)
class Drawn:
    """One contour: its points (i, j) in voxel indices, and its slice; or all three indices."""

    points: Sequence[Sequence[float]]
    k: float = 0
    kind: str = "CLOSED_PLANAR"

    def lps(self, recipe: Recipe) -> np.ndarray:
        points = np.asarray(self.points, float)
        if points.shape[1] == 2:
            points = np.column_stack([points, np.full(len(points), self.k)])
        return points @ recipe.affine_lps[:3, :3].T + recipe.affine_lps[:3, 3]


Rois = dict[str, Sequence[Drawn] | None]


def write_rtstruct(
    path: Path,
    rois: Rois,
    recipe: Recipe,
    *,
    syntax: str = EXPLICIT,
    edit: Edit | None = None,
) -> Path:
    """Write regions as an RTSTRUCT; those that are None have no ROI Contour item's sequence."""
    dataset = instance(RTSTRUCT, syntax, recipe.study, generate_uid(), recipe.patient)
    frame = recipe.study[:60] + ".1"
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", "synthetic"
    series = item(SeriesInstanceUID=recipe.series, ContourImageSequence=Items())
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=recipe.study,
        RTReferencedSeriesSequence=Items([series]),
    )
    dataset.ReferencedFrameOfReferenceSequence = Items(
        [item(FrameOfReferenceUID=frame, RTReferencedStudySequence=Items([study]))]
    )
    dataset.StructureSetROISequence = Items(
        item(
            ROINumber=n,
            ReferencedFrameOfReferenceUID=frame,
            ROIName=name.strip("*"),
            ROIGenerationAlgorithm="MANUAL",
        )
        for n, name in enumerate(rois, 1)
    )
    dataset.ROIContourSequence = Items(_roi(n, drawn, recipe) for n, drawn in enumerate(rois.values(), 1))
    dataset.RTROIObservationsSequence = Items(
        item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        for n in range(1, len(rois) + 1)
    )
    dataset.ApprovalStatus = "UNAPPROVED"
    if edit is not None:
        edit(dataset, 0)
    save(dataset, path)
    return path


def _roi(number: int, drawn: Sequence[Drawn] | None, recipe: Recipe) -> object:
    roi = item(ROIDisplayColor=[255, 0, 0], ReferencedROINumber=number)
    if drawn is not None:
        roi.ContourSequence = Items(
            item(
                ContourGeometricType=one.kind,
                NumberOfContourPoints=len(one.points),
                ContourData=[f"{v:.9g}" for v in one.lps(recipe).ravel()],
            )
            for one in drawn
        )
    return roi


def circle(centre: Sequence[float], radius: Sequence[float] | float, points: int = 400) -> np.ndarray:
    angle = np.arange(points) / points * 2 * np.pi
    return np.asarray(centre) + np.column_stack([np.cos(angle), np.sin(angle)]) * radius


def box(i0: float, j0: float, i1: float, j1: float) -> np.ndarray:
    return np.array([(i0, j0), (i1, j0), (i1, j1), (i0, j1)])


def inside(polygons: Iterable[Sequence[Sequence[float]]], shape: tuple[int, int]) -> np.ndarray:
    """Count, edge by edge, the crossings to the left of or at each pixel's centre."""
    out = np.zeros(shape, bool)
    i, j = np.mgrid[: shape[0], : shape[1]]
    for polygon in polygons:
        points = [tuple(p) for p in polygon]
        for edge in zip(points, [*points[1:], points[0]], strict=True):
            (x0, y0), (x1, y1) = sorted(edge, key=lambda e: (e[1], e[0]))
            if y0 < y1:
                out ^= (y0 <= j) & (j < y1) & (x0 + (j - y0) * ((x1 - x0) / (y1 - y0)) <= i)
    return out

"""RTSTRUCT onto the image's grid: right by geometry, in whatever plane and spacing, or refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import (
    ACCESSION,
    AXIAL,
    BIG,
    CORONAL,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    PATIENT,
    SAGITTAL,
    Recipe,
    item,
    oblique,
    save,
)
from helpers_rtstruct import Drawn, box, circle, inside, write_rtstruct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from medtl_monai.dicom import SegMask, Volume, read_rtstruct, read_volume, scan
from medtl_monai.dicom.structures import open_structures
from medtl_monai.errors import DicomError

SHAPE = (11, 9, 6)


def setup(tmp_path: Path, **options: object) -> tuple[Recipe, Volume]:
    recipe = Recipe(**{"columns": SHAPE[0], "rows": SHAPE[1], "slices": SHAPE[2], **options}).write(tmp_path / "image")
    return recipe, read_volume(tmp_path / "image")


def read(tmp_path: Path, rois, *, names=None, written=None, **options: object) -> SegMask:
    recipe, volume = setup(tmp_path, **options)
    path = write_rtstruct(tmp_path / "rs.dcm", rois, recipe, **(written or {}))
    return read_rtstruct(path, volume, rois=names)


def boxes(*slices: int, value: np.ndarray | None = None) -> list[Drawn]:
    return [Drawn(points=box(1.5, 2.5, 6.5, 4.5) if value is None else value, k=k) for k in slices]


def expected(*slices: int, value: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.int16)
    labels[2:7, 3:5, list(slices)] = value
    return labels


GEOMETRIES = {
    "axial": {},
    "coronal": {"orientation": CORONAL},
    "sagittal": {"orientation": SAGITTAL},
    "oblique": {"orientation": oblique(20, -13, 41)},
    "anisotropic": {"spacing": (2.7, 0.4), "step": 1.1},
    "flipped": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "upside-down": {"orientation": (-1, 0, 0, 0, -1, 0)},
    "sheared": {"tilt": (0.0, 0.8, 0.0)},
    "sheared-oblique": {"orientation": oblique(20, -13, 41), "tilt": (0.3, 0.5, -0.2)},
    "far-away": {"origin": (-1200.5, 873.25, 5000.125)},
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("syntax", [EXPLICIT])
def test_a_box_on_voxel_faces_in_any_geometry(name: str, syntax: str, tmp_path: Path) -> None:
    mask = read(tmp_path, {"Liver": boxes(1, 2, 3)}, **GEOMETRIES[name])
    assert np.array_equal(mask.labels, expected(1, 2, 3))
    assert mask.labels.dtype == np.int16
    assert (mask.names, mask.notes) == (("Liver",), ())


@pytest.mark.parametrize("name", ["axial", "oblique", "anisotropic", "sheared"])
def test_a_disc_in_millimetres(name: str, tmp_path: Path) -> None:
    """Round in the patient: judged by the distance of every voxel centre, through the volume's own affine."""
    options = {"spacing": (1.7, 0.6), "columns": 40, "rows": 20, **GEOMETRIES[name]}
    recipe, volume = setup(tmp_path, **options)
    radius, k = 6.5, 2
    angle = np.arange(720) / 720 * 2 * np.pi
    right, down = np.array(recipe.orientation[:3]), np.array(recipe.orientation[3:])
    centre = (recipe.affine_lps @ [19.3, 9.6, k, 1])[:3]
    points = centre + radius * (np.cos(angle)[:, None] * right + np.sin(angle)[:, None] * down)
    indices = np.linalg.solve(recipe.affine_lps, np.column_stack([points, np.ones(720)]).T)[:3].T
    path = write_rtstruct(tmp_path / "rs.dcm", {"Ball": [Drawn(points=indices)]}, recipe)
    labels = read_rtstruct(path, volume).labels
    i, j = np.mgrid[: volume.shape[0], : volume.shape[1]]
    places = np.stack([i, j, np.full_like(i, k), np.ones_like(i)], -1) @ volume.affine.T
    distance = np.linalg.norm(places[..., :3] - centre * (-1, -1, 1), axis=-1)
    sure = np.abs(distance - radius) > radius * 2e-5
    assert np.array_equal(labels[:, :, k][sure], (distance < radius)[sure])
    assert abs(np.count_nonzero(labels) * np.prod(volume.spacing_mm[:2]) / (np.pi * radius**2) - 1) < 0.1


def test_coordinates_on_voxel_centres_are_half_open(tmp_path: Path) -> None:
    """Rounding errors of the affine do not decide: centres on the low side are inside, on the high side outside."""
    for n, options in enumerate(GEOMETRIES.values()):
        mask = read(
            tmp_path / str(n), {"A": boxes(1, value=box(2, 3, 7, 5)), "B": boxes(1, value=box(7, 3, 9, 5))}, **options
        )
        assert np.array_equal(mask.labels == 1, expected(1) == 1)
        assert mask.labels[7:9, 3:5, 1].min() == 2
        assert (mask.labels == 2).sum() == 4


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_holes_and_islands(kind: str, tmp_path: Path) -> None:
    outer, inner, island = box(0.5, 0.5, 9.5, 7.5), box(2.5, 1.5, 7.5, 6.5), box(3.5, 2.5, 5.5, 5.5)
    drawn = [Drawn(points=p, k=2, kind=kind) for p in (inner, outer, island)]
    mask = read(tmp_path, {"Ring": drawn})
    labels = mask.labels[:, :, 2]
    assert np.array_equal(labels, inside([outer, inner, island], SHAPE[:2]).astype(np.int16))
    assert labels.sum() == 63 - 25 + 6
    assert mask.notes == ()


def test_a_keyhole(tmp_path: Path) -> None:
    keyhole = [(0.5, 0.5), (4, 0.5), (4, 1.5), (2.5, 1.5), (2.5, 6.5), (7.5, 6.5), (7.5, 1.5), (4, 1.5), (4, 0.5)]
    keyhole += [(9.5, 0.5), (9.5, 7.5), (0.5, 7.5)]
    labels = read(tmp_path, {"Ring": [Drawn(points=keyhole, k=2)]}).labels[:, :, 2]
    assert labels.sum() == 63 - 25
    assert not labels[3:8, 2:7].any()


corner = st.tuples(*(st.integers(-50, last).map(lambda n: n / 100) for last in (1050, 850)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    polygons=st.lists(st.lists(corner, min_size=3, max_size=8), min_size=1, max_size=3, unique_by=tuple),
    angles=st.tuples(st.integers(-80, 80), st.integers(-80, 80), st.integers(-180, 180)),
    spacing=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
)
def test_random_polygons_on_random_grids(polygons, angles, spacing, tmp_path: Path) -> None:
    recipe = Recipe(columns=11, rows=9, spacing=spacing, orientation=oblique(*angles), origin=(1.5, -2.25, 3.0))
    affine = np.diag([-1, -1, 1, 1]) @ recipe.affine_lps
    volume = Volume(array=np.zeros((11, 9, 6), np.float32), affine=affine)
    drawn = [*boxes(0), *(Drawn(points=p, k=3) for p in polygons)]
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": drawn}, recipe)
    labels = read_rtstruct(path, volume).labels
    edges = [np.stack([p, np.roll(p, -1, axis=0)], 1) for p in map(np.array, polygons)]
    unlike = labels[:, :, 3] != inside(polygons, (11, 9))
    # Only a centre within rounding distance of an edge may differ.
    for centre in np.argwhere(unlike):
        assert min(distance(centre, a, b) for pairs in edges for a, b in pairs) < 1e-5
    assert np.array_equal(labels[:, :, [0, 1, 2, 4, 5]], expected(0)[:, :, [0, 1, 2, 4, 5]])


def distance(point, a, b) -> float:
    side = b - a
    along = np.clip(((point - a) @ side) / max(side @ side, 1e-30), 0, 1)
    return float(np.linalg.norm(point - a - along * side))


def test_regions_are_chosen_and_ordered_by_name(tmp_path: Path) -> None:
    rois = {"BODY": boxes(1, 2, value=box(0.5, 0.5, 9.5, 7.5)), "GTV": boxes(2), "Liver": boxes(1)}
    recipe, volume = setup(tmp_path)
    path = write_rtstruct(tmp_path / "rs.dcm", rois, recipe)
    mask = read_rtstruct(path, volume, rois=["Liver", "GTV"])
    assert mask.names == ("Liver", "GTV")
    assert np.array_equal(mask.labels, expected(1) + expected(2, value=2))
    with pytest.raises(DicomError, match=r"'BODY' and 'GTV' in 10 voxels; 'BODY' and 'Liver' in 10 voxels.*by name"):
        read_rtstruct(path, volume)
    with pytest.raises(DicomError, match=r"no region 'liver'\. Did you mean 'Liver'"):
        read_rtstruct(path, volume, rois=["liver"])
    with pytest.raises(DicomError, match="asked for twice"):
        read_rtstruct(path, volume, rois=["GTV", "GTV"])


def test_what_encloses_nothing_is_noted(tmp_path: Path) -> None:
    rois = {
        "Empty": None,
        "Isocentre": [Drawn(points=[(3, 3)], kind="POINT")],
        "Wire": [Drawn(points=[(3, 3, 0), (4, 4, 1.7)], kind="OPEN_NONPLANAR")],
        "Liver": [*boxes(1, 1), Drawn(points=[(3, 3)], k=1, kind="POINT"), Drawn(points=[(3, 3), (4, 4)], k=1)],
    }
    recipe, volume = setup(tmp_path)
    path = write_rtstruct(tmp_path / "rs.dcm", rois, recipe)
    mask = read_rtstruct(path, volume)
    assert mask.names == ("Liver",)
    assert np.array_equal(mask.labels, expected(1))
    assert mask.notes == (
        "region 'Empty' encloses no area and was left out",
        "region 'Isocentre' encloses no area and was left out",
        "region 'Wire' encloses no area and was left out",
        "points of region 'Liver' were left out (1 points)",
        "contours of region 'Liver' with fewer than three points were left out (1 contours)",
        "contours of region 'Liver' that repeat another one were left out (1 contours)",
    )
    asked = read_rtstruct(path, volume, rois=["Empty", "Liver"])
    assert asked.names == ("Empty", "Liver")
    assert np.array_equal(asked.labels, expected(1, value=2))
    assert "region 'Empty' has no contours" in asked.notes
    with pytest.raises(DicomError, match=r"ROI 'Wire': .*encloses no area: its contours are OPEN_NONPLANAR"):
        read_rtstruct(path, volume, rois=["Wire"])


def test_contours_that_cross_are_noted(tmp_path: Path) -> None:
    drawn = [*boxes(1, value=box(1.5, 2.5, 6.5, 4.5)), *boxes(1, value=box(4.5, 2.5, 8.5, 4.5))]
    mask = read(tmp_path, {"A": drawn})
    assert mask.labels.sum() == 6 + 4
    assert mask.notes == (
        "contours of region 'A' cross each other; what two of them share is outside (even-odd) (1 slices)",
    )


def test_a_contour_that_is_stored_twice_does_not_cancel(tmp_path: Path) -> None:
    points = np.array([(1.5, 2.5), (6.5, 2.5), (6.5, 4.5), (1.5, 4.5)])
    for n, again in enumerate([points, np.roll(points, 2, axis=0), points[::-1]]):
        mask = read(tmp_path / str(n), {"A": [*boxes(1, 2), Drawn(points=again, k=2)]})
        assert np.array_equal(mask.labels, expected(1, 2))
        assert mask.notes == ("contours of region 'A' that repeat another one were left out (1 contours)",)
    # Not the same points, but the same voxels: what is left of the slice is said.
    mask = read(tmp_path / "near", {"A": [*boxes(1, 2), Drawn(points=points + 0.1, k=2)]})
    assert np.array_equal(mask.labels, expected(1))
    assert "cross each other" in mask.notes[0]


def test_slices_without_a_contour_are_never_filled(tmp_path: Path) -> None:
    pieces = read(tmp_path / "pieces", {"Nodes": boxes(0, 1, 4, 5)})
    assert np.array_equal(pieces.labels, expected(0, 1, 4, 5))
    assert pieces.notes == ("region 'Nodes' has no contour in slices between others; it is absent there (2 slices)",)
    for n, slices in enumerate([(0, 2, 4), (1, 3, 5), (0, 3, 6, 7, 10)]):
        with pytest.raises(DicomError, match=rf"on one of every {2 + n // 2} slices only .*Interpolate the contours"):
            read(tmp_path / str(n), {"A": boxes(*slices)}, slices=12)
    assert read(tmp_path / "two", {"A": boxes(1, 4)}).notes[0].endswith("(2 slices)")


def test_the_nearest_slice_takes_a_contour_and_says_so(tmp_path: Path) -> None:
    mask = read(tmp_path, {"A": boxes(1.05, 2.3, 3.4)})
    assert np.array_equal(mask.labels, expected(1, 2, 3))
    assert mask.notes == ("contours of region 'A' lie between slices and were drawn on the nearest (2 contours)",)


def edit_contour(**values: object):
    def edit(ds, k):
        for keyword, value in values.items():
            setattr(ds.ROIContourSequence[0].ContourSequence[1], keyword, value)

    return edit


def without(keyword: str):
    return lambda ds, k: ds.ROIContourSequence[0].ContourSequence[1].__delattr__(keyword)


def other_frame(ds, k) -> None:
    other = item(FrameOfReferenceUID=generate_uid())
    ds.ReferencedFrameOfReferenceSequence.append(other)
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = other.FrameOfReferenceUID


def other_series(ds, k) -> None:
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


TILTED = [(1, 1, 2.0), (6, 1, 2.0), (6, 5, 2.3), (1, 5, 2.3)]
UPRIGHT = [(1, 4, 0.5), (6, 4, 0.5), (6, 4, 3.5), (1, 4, 3.5)]
POINTS = "ROI 'A', contour 2"
REFUSED = {
    "tilted": ([*boxes(1), Drawn(points=TILTED)], None, "not in a slice of the image: it spans 0.3 slices", POINTS),
    "upright": ([*boxes(1), Drawn(points=UPRIGHT)], None, "it spans 3 slices", POINTS),
    "half-way": (boxes(1, 2.5), None, "half-way between two slices", POINTS),
    "above": (boxes(1, 9), None, "4 slices outside", POINTS),
    "below": (boxes(1, -0.8), None, "0.8 slices outside", POINTS),
    "beside": (
        [*boxes(1), *boxes(2, value=box(1, 1, 11.2, 4))],
        None,
        "0.7 voxels beyond the image",
        POINTS,
    ),
    "two-planes": (boxes(1, 1.3), None, "in different planes within one slice", POINTS),
    "tiny": (boxes(1, 2, value=box(1.2, 1.2, 1.4, 1.4)), None, "no voxel centre is inside", "ROI 'A'"),
    "open": ([*boxes(1), Drawn(points=box(1, 1, 3, 3), k=2, kind="OPEN_PLANAR")], None, "1 open contours", "ROI 'A'"),
    "type": (boxes(1, 2), edit_contour(ContourGeometricType="ROUND"), "ContourGeometricType is unknown", POINTS),
    "no-type": (boxes(1, 2), without("ContourGeometricType"), "ContourGeometricType is missing", POINTS),
    "count": (boxes(1, 2), edit_contour(NumberOfContourPoints=5), "ContourData has 12 values, and NumberOf", POINTS),
    "no-count": (boxes(1, 2), without("NumberOfContourPoints"), "NumberOfContourPoints is missing", POINTS),
    "no-data": (boxes(1, 2), without("ContourData"), "ContourData has 0 values", POINTS),
    "pairs": (boxes(1, 2), edit_contour(ContourData=["1"] * 11), "ContourData has 11 values", POINTS),
    "offset": (boxes(1, 2), edit_contour(ContourOffsetVector=["0", "0", "1"]), "ContourOffsetVector", POINTS),
    "series": (boxes(1, 2), other_series, "drawn on another series", "RTReferencedSeriesSequence"),
    "frame": (boxes(1, 2), other_frame, "another frame of reference", "ROI 'A', ReferencedFrameOfReferenceUID"),
    "number": (
        boxes(1),
        lambda ds, k: setattr(ds.ROIContourSequence[0], "ReferencedROINumber", 7),
        "7 is no region",
        "",
    ),
    "twice": (
        boxes(1),
        lambda ds, k: ds.StructureSetROISequence.append(ds.StructureSetROISequence[0]),
        "ROINumber 1 occurs twice",
        "",
    ),
    "contours-twice": (
        boxes(1),
        lambda ds, k: ds.ROIContourSequence.append(ds.ROIContourSequence[0]),
        "ReferencedROINumber 1 occurs twice",
        "",
    ),
    "no-contours": (boxes(1), lambda ds, k: ds.__delattr__("ROIContourSequence"), "ROIContourSequence is missing", ""),
    "no-rois": (
        boxes(1),
        lambda ds, k: ds.__delattr__("StructureSetROISequence"),
        "StructureSetROISequence has no items",
        "",
    ),
    "nothing": (None, None, "no region encloses an area", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    drawn, edit, words, where = REFUSED[name]
    with pytest.raises(DicomError) as caught:
        read(tmp_path, {"A": drawn}, written={"edit": edit})
    text = str(caught.value)
    assert words in text
    assert "rs.dcm" in caught.value.where
    assert where in caught.value.where
    assert caught.value.mend
    for secret in (PATIENT, ACCESSION, "DOE", str(tmp_path), "1.2.826"):
        assert secret not in text


@pytest.mark.parametrize("bad", [b"nan", b"inf", b"1e9999", b"abc", b"1,5"])
def test_numbers_that_are_none(bad: bytes, tmp_path: Path) -> None:
    recipe, volume = setup(tmp_path)
    drawn = [*boxes(1), *boxes(2, value=np.array([(1, 1), (5, 1), (5, 5), (1, 5)]))]
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": drawn}, recipe)
    data = path.read_bytes()
    old = b"\\".join(f"{v:.9g}".encode() for v in drawn[1].lps(recipe)[0])
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, bad + b"\\" + b"0" * (len(old) - len(bad) - 3) + b"\\1"))
    with pytest.raises(DicomError, match=r"ROI 'A', contour 2: ContourData is not a (finite )?number"):
        read_rtstruct(path, volume)


def test_two_regions_of_one_name(tmp_path: Path) -> None:
    recipe, volume = setup(tmp_path)
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": boxes(1), "*A": boxes(2)}, recipe)
    with pytest.raises(DicomError, match="2 regions are called 'A'"):
        read_rtstruct(path, volume)
    path = write_rtstruct(tmp_path / "rs2.dcm", {"A": None, "*A": boxes(2)}, recipe)
    assert np.array_equal(read_rtstruct(path, volume, rois=["A"]).labels, expected(2))


def test_without_references_coordinates_decide(tmp_path: Path) -> None:
    def edit(ds, k) -> None:
        ds.ReferencedFrameOfReferenceSequence = Items()

    mask = read(tmp_path, {"A": boxes(1)}, written={"edit": edit})
    assert np.array_equal(mask.labels, expected(1))
    assert mask.notes == ("the structure set names no series; it was placed by its coordinates alone",)


def test_an_image_is_no_structure_set(tmp_path: Path) -> None:
    _, volume = setup(tmp_path)
    with pytest.raises(DicomError, match="not a structure set but MR Image Storage"):
        read_rtstruct(tmp_path / "image" / "IM0001", volume)
    with pytest.raises(DicomError, match="cannot be read"):
        read_rtstruct(tmp_path / "absent", volume)


def test_a_radiograph_of_unknown_spacing(tmp_path: Path) -> None:
    recipe = Recipe(modality="DX")
    dataset = recipe.dataset(0)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
    save(dataset, tmp_path / "dx")
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": boxes(0)}, recipe)
    with pytest.raises(DicomError, match="spacing is unknown"):
        read_rtstruct(path, read_volume(tmp_path / "dx"))


def test_found_by_a_scan(tmp_path: Path) -> None:
    recipe, volume = setup(tmp_path)
    write_rtstruct(tmp_path / "sub", {"A": boxes(1, 2)}, recipe)
    (reference,) = scan(tmp_path).structure_sets
    assert np.array_equal(read_rtstruct(reference, volume).labels, expected(1, 2))


def delimited(ds, k) -> None:
    """Write sequences and items without lengths."""
    ds["ROIContourSequence"].is_undefined_length = True
    for roi in ds.ROIContourSequence:
        roi.is_undefined_length_sequence_item = True
        roi["ContourSequence"].is_undefined_length = True
        for contour in roi.ContourSequence:
            contour.is_undefined_length_sequence_item = True


@pytest.mark.parametrize("edit", [None, delimited])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
def test_a_truncated_file_is_never_read_in_part(syntax: str, edit, tmp_path: Path) -> None:
    recipe, volume = setup(tmp_path)
    rois = {"A": boxes(1, 2, 3), "B": boxes(4)}
    path = write_rtstruct(tmp_path / "rs.dcm", rois, recipe, syntax=syntax, edit=edit)
    data = path.read_bytes()
    whole = read_rtstruct(path, volume)
    assert whole.labels.sum() == 10 * 3 + 2 * 10
    refused = 0
    for end in range(0, len(data), 11 if len(data) > 1500 else 3):
        path.write_bytes(data[:end])
        try:
            mask = read_rtstruct(path, volume)
        except DicomError:
            refused += 1
        else:
            assert mask.names == whole.names, end
            assert np.array_equal(mask.labels, whole.labels), end
    assert refused > 100


def test_contours_in_file_order_do_not_matter(tmp_path: Path) -> None:
    ring = [Drawn(points=p, k=k) for k in (1, 2) for p in (box(0.5, 0.5, 9.5, 7.5), box(2.5, 1.5, 7.5, 6.5))]
    one = read(tmp_path / "a", {"A": ring}).labels
    assert np.array_equal(one, read(tmp_path / "b", {"A": ring[::-1]}).labels)
    assert one.sum() == 2 * (63 - 25)


def test_fast_enough_for_whole_bodies(tmp_path: Path) -> None:
    """100 slices of 512² with contours of 500 points: about 0.2 s; the limit leaves room for slow machines."""
    recipe = Recipe(columns=512, rows=512, slices=100, orientation=AXIAL)
    volume = Volume(array=np.zeros((512, 512, 100), np.float32), affine=np.diag([-1, -1, 1, 1]) @ recipe.affine_lps)
    drawn = [Drawn(points=circle((256, 256), (200, 150), 500), k=k) for k in range(100)]
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": drawn}, recipe)
    start = time.process_time()
    labels = read_rtstruct(path, volume).labels
    assert time.process_time() - start < 1.5
    assert abs(np.count_nonzero(labels) / (100 * np.pi * 200 * 150) - 1) < 0.01


def test_names_and_areas_of_a_file(tmp_path: Path) -> None:
    recipe, _ = setup(tmp_path)
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": boxes(1), "B": None}, recipe)
    found = open_structures(path, "rs.dcm")
    assert (found.names, found.filled) == (("A", "B"), ("A",))


def test_damaged_bytes_give_typed_errors_or_whole_masks(tmp_path: Path) -> None:
    """Some 300 files with a few changed bytes: no other exception, no warning; a change of contours shows."""
    recipe, volume = setup(tmp_path)
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": boxes(1, 2, 3), "B": boxes(4)}, recipe)
    whole, data = read_rtstruct(path, volume).labels, path.read_bytes()
    rng = np.random.default_rng(7)
    results = {"refused": 0, "same": 0, "other": 0}
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        path.write_bytes(changed)
        try:
            labels = read_rtstruct(path, volume).labels
        except DicomError:
            results["refused"] += 1
        else:
            results["same" if np.array_equal(labels, whole) else "other"] += 1
    assert results["refused"] > 60
    assert results["same"] > 60
    assert results["other"] < 30


@pytest.mark.parametrize("vr", [b"P\x1b", b"VQ"])
def test_a_sequence_of_unknown_kind(vr: bytes, tmp_path: Path) -> None:
    recipe, volume = setup(tmp_path)
    path = write_rtstruct(tmp_path / "rs.dcm", {"A": boxes(1)}, recipe)
    data = path.read_bytes()
    assert data.count(b"\x06\x30\x20\x00SQ") == 1
    path.write_bytes(data.replace(b"\x06\x30\x20\x00SQ", b"\x06\x30\x20\x00" + vr))
    with pytest.raises(DicomError, match="damaged"):
        read_rtstruct(path, volume)

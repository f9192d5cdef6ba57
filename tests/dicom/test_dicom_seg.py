"""DICOM SEG onto the image's grid: right by geometry, whatever the order of frames and axes, or refused."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from helpers_dicom import (
    ACCESSION,
    CORONAL,
    PATIENT,
    SAGITTAL,
    Frame,
    Recipe,
    frames_of,
    oblique,
    write_seg,
)
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medtl_monai.dicom import Volume, read_seg, read_volume, scan
from medtl_monai.errors import DicomError


def labels_for(recipe: Recipe) -> np.ndarray:
    """Return labels [i, j, k] without any symmetry, with slices left empty."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, (recipe.columns, recipe.rows, recipe.slices)).astype(np.int16)
    labels[:, :, [0, 3]] = 0
    labels[0, 0, 1], labels[-1, -1, 4] = 1, 2
    return labels


def setup(tmp_path: Path, **options: object) -> tuple[Recipe, Volume, np.ndarray]:
    recipe = Recipe(**options).write(tmp_path / "image")
    return recipe, read_volume(tmp_path / "image"), labels_for(recipe)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), CORONAL, SAGITTAL, oblique(20, -13, 41)])
@pytest.mark.parametrize("flip", ["", "i", "j", "ij", "t", "it", "jt", "ijt"])
def test_frames_in_any_order_and_any_way_round(orientation, flip: str, tmp_path: Path) -> None:
    recipe, volume, labels = setup(tmp_path, orientation=orientation)
    frames = frames_of(labels, recipe, flip=flip)
    assert len(frames) == 8  # four of six slices, two segments
    order = np.random.default_rng(1).permutation(len(frames))
    path = write_seg(tmp_path / "seg.dcm", [frames[n] for n in order], recipe)
    mask = read_seg(path, volume)
    assert np.array_equal(mask.labels, labels)
    assert mask.labels.dtype == np.int16
    assert mask.names == ("left part", "right part")
    assert len(np.unique(labels)) == 3


def test_sheared_grid(tmp_path: Path) -> None:
    recipe, volume, labels = setup(tmp_path, tilt=(0.0, 0.8, 0.0))
    assert volume.geometry == "sheared"
    path = write_seg(tmp_path / "seg.dcm", frames_of(labels, recipe), recipe)
    assert np.array_equal(read_seg(path, volume).labels, labels)


def test_smaller_frames_are_placed(tmp_path: Path) -> None:
    recipe, volume, _ = setup(tmp_path)
    mask = np.ones((2, 3), np.uint8)
    position = (recipe.affine_lps @ [3, 1, 2, 1])[:3]
    path = write_seg(tmp_path / "seg.dcm", [Frame(mask=mask, position=position, segment=2)], recipe)
    labels = read_seg(path, volume).labels
    expected = np.zeros(volume.shape)
    expected[3:6, 1:3, 2] = 2
    assert np.array_equal(labels, expected)


def test_larger_frames_are_cut_where_they_are_empty(tmp_path: Path) -> None:
    recipe, volume, _ = setup(tmp_path)
    mask = np.zeros((9, 11), np.uint8)
    mask[3, 4] = 1
    position = (recipe.affine_lps @ [-2, -2, 1, 1])[:3]
    path = write_seg(tmp_path / "seg.dcm", [Frame(mask=mask, position=position)], recipe)
    labels = read_seg(path, volume).labels
    assert labels[2, 1, 1] == 1
    assert labels.sum() == 1


def test_fractional_is_cut_at_one_half(tmp_path: Path) -> None:
    recipe, volume, _ = setup(tmp_path)
    fractions = np.linspace(0, 1, 35).reshape(5, 7)
    frames = [Frame(mask=fractions, position=recipe.position(2))]
    path = write_seg(tmp_path / "seg.dcm", frames, recipe, kind="FRACTIONAL", names=["part"])
    labels = read_seg(path, volume).labels[:, :, 2]
    assert np.array_equal(labels, (fractions.T >= 0.5).astype(np.int16))
    assert 0 < labels.mean() < 1


def test_label_map_with_unordered_numbers(tmp_path: Path) -> None:
    recipe, volume, labels = setup(tmp_path)
    stored = np.array([0, 40, 7])[labels]
    frames = [Frame(mask=stored[:, :, k].T, position=recipe.position(k)) for k in (4, 1, 2, 5)]

    def edit(ds, k):
        ds.SegmentSequence[0].SegmentNumber, ds.SegmentSequence[1].SegmentNumber = 40, 7

    path = write_seg(tmp_path / "seg.dcm", frames, recipe, kind="LABELMAP", edit=edit)
    mask = read_seg(path, volume)
    # In order of number: 7 ("right part") is value 1, 40 ("left part") is value 2.
    assert mask.names == ("right part", "left part")
    assert np.array_equal(mask.labels, np.array([0, 2, 1])[labels])


@pytest.mark.parametrize("padding", [None, 9])
def test_label_map_values_that_are_no_segment(padding: int | None, tmp_path: Path) -> None:
    recipe, volume, labels = setup(tmp_path)
    stored = np.where(labels[:, :, 1] == 0, 9, labels[:, :, 1]).T
    frames = [Frame(mask=stored, position=recipe.position(1))]

    def edit(ds, k):
        if padding is not None:
            ds.add_new("PixelPaddingValue", "US", padding)

    path = write_seg(tmp_path / "seg.dcm", frames, recipe, kind="LABELMAP", edit=edit)
    if padding is None:
        with pytest.raises(DicomError, match="value 9 is no segment"):
            read_seg(path, volume)
    else:
        assert np.array_equal(read_seg(path, volume).labels[:, :, 1], labels[:, :, 1])


def highdicom_seg(tmp_path: Path, labels: np.ndarray, kind: str) -> Path:
    sources = sorted((dcmread(f) for f in (tmp_path / "image").iterdir()), key=lambda d: d.ImagePositionPatient[2])
    for source in sources:
        source.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    segments = [
        hd.seg.SegmentDescription(
            n,
            f"part {n}",
            codes.SCT.Organ,
            codes.SCT.Organ,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n in (1, 2)
    ]
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=labels.transpose(2, 1, 0).astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="synthetic",
        manufacturer_model_name="synthetic",
        software_versions="1",
        device_serial_number="1",
    )
    path = tmp_path / "highdicom.dcm"
    seg.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_what_highdicom_writes(kind: str, tmp_path: Path) -> None:
    _, volume, labels = setup(tmp_path)
    mask = read_seg(highdicom_seg(tmp_path, labels, kind), volume)
    assert np.array_equal(mask.labels, labels)
    assert mask.names == ("part 1", "part 2")


def test_found_by_a_scan(tmp_path: Path) -> None:
    recipe, volume, labels = setup(tmp_path)
    write_seg(tmp_path / "sub", frames_of(labels, recipe), recipe)
    (reference,) = scan(tmp_path).segmentations
    assert np.array_equal(read_seg(reference, volume).labels, labels)


def shifted(recipe: Recipe, labels: np.ndarray, shift: tuple[float, float, float]) -> list[Frame]:
    frames = frames_of(labels, recipe)
    for frame in frames:
        frame.position = np.array(frame.position) + shift
    return frames


def overlapping(recipe: Recipe, labels: np.ndarray) -> list[Frame]:
    frames = frames_of(labels, recipe)
    frames[0].mask = np.ones_like(frames[0].mask)
    return frames


REFUSED = {
    "half-voxel": (lambda r, n: shifted(r, n, (0.35, 0, 0)), {}, "not on the image's grid"),
    "fifth-voxel": (lambda r, n: shifted(r, n, (0, 0.18, 0)), {}, "not on the image's grid"),
    "between-slices": (lambda r, n: shifted(r, n, (0, 0, 1.5)), {}, "not on the image's grid"),
    "outside": (lambda r, n: shifted(r, n, (0, 0, 30)), {}, "foreground outside the image"),
    "outside-in-plane": (lambda r, n: shifted(r, n, (3.5, 0, 0)), {}, "foreground outside the image"),
    "other-spacing": (
        lambda r, n: [Frame(mask=np.ones((5, 7)), position=r.position(1), spacing=(1.8, 1.4))],
        {},
        "not on the image's grid",
    ),
    "turned": (
        lambda r, n: [Frame(mask=np.ones((5, 7)), position=r.position(1), orientation=oblique(0, 0, 3))],
        {},
        "not on the image's grid",
    ),
    "overlap": (overlapping, {}, "segments overlap: 'left part' and 'right part' in"),
    "other-series": (
        frames_of_recipe := lambda r, n: frames_of(n, r),
        {"edit": lambda ds, k: setattr(ds.ReferencedSeriesSequence[0], "SeriesInstanceUID", generate_uid())},
        "made for another series",
    ),
    "no-positions": (
        frames_of_recipe,
        {"edit": lambda ds, k: [g.__delattr__("PlanePositionSequence") for g in ds.PerFrameFunctionalGroupsSequence]},
        "position",
    ),
    "one-without-position": (
        frames_of_recipe,
        {"edit": lambda ds, k: ds.PerFrameFunctionalGroupsSequence[3].__delattr__("PlanePositionSequence")},
        "lacks position",
    ),
    "unknown-segment": (
        frames_of_recipe,
        {"edit": lambda ds, k: ds.SegmentSequence.pop()},
        "ReferencedSegmentNumber 2 is no segment",
    ),
    "truncated": (
        frames_of_recipe,
        {"edit": lambda ds, k: setattr(ds, "PixelData", ds.PixelData[:10])},
        "PixelData is truncated",
    ),
    "type": (
        frames_of_recipe,
        {"edit": lambda ds, k: setattr(ds, "SegmentationType", "OTHER")},
        "SegmentationType is OTHER",
    ),
    "frames": (
        frames_of_recipe,
        {"edit": lambda ds, k: setattr(ds, "NumberOfFrames", 9)},
        "has 8 items for 9 frames",
    ),
    "no-segments": (
        frames_of_recipe,
        {"edit": lambda ds, k: ds.__delattr__("SegmentSequence")},
        "SegmentSequence has 0 segments",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    make, options, words = REFUSED[name]
    recipe, volume, labels = setup(tmp_path)
    path = write_seg(tmp_path / "seg.dcm", make(recipe, labels), recipe, **options)
    with pytest.raises(DicomError) as caught:
        read_seg(path, volume)
    text = str(caught.value)
    assert words in text
    assert "seg.dcm" in caught.value.where
    assert caught.value.mend
    for secret in (PATIENT, ACCESSION, "DOE", str(tmp_path), "1.2.826"):
        assert secret not in text


def test_an_image_is_no_segmentation(tmp_path: Path) -> None:
    _, volume, _ = setup(tmp_path)
    with pytest.raises(DicomError, match="not a segmentation but MR Image Storage"):
        read_seg(tmp_path / "image" / "IM0001", volume)
    write_seg(tmp_path / "seg.dcm", frames_of(labels_for(Recipe()), Recipe()), Recipe())
    with pytest.raises(DicomError, match="a segmentation, not an image"):
        read_volume(tmp_path / "seg.dcm")


def test_mask_of_a_radiograph_without_positions(tmp_path: Path) -> None:
    from helpers_dicom import save

    recipe = Recipe(modality="DX")
    dataset = recipe.dataset(0)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    save(dataset, tmp_path / "dx")
    volume = read_volume(tmp_path / "dx")
    mask = np.arange(35).reshape(5, 7) % 3 == 0

    def edit(ds, k):
        group = ds.PerFrameFunctionalGroupsSequence[0]
        del group.PlanePositionSequence, group.PlaneOrientationSequence, group.PixelMeasuresSequence

    path = write_seg(tmp_path / "seg.dcm", [Frame(mask=mask, position=(0, 0, 0))], recipe, edit=edit)
    assert np.array_equal(read_seg(path, volume).labels[:, :, 0], mask.T)

"""Segmentations by several makers beside highdicom, an independent reader, and the choice of segments by name."""

from __future__ import annotations

import os
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from helpers_dicom import Frame, Recipe, frames_of, write_seg

from medtl_monai.dicom import Volume, read_seg, read_volume
from medtl_monai.errors import DicomError

DATA = Path(os.environ.get("MEDTL_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "dicom"
needs_data = [pytest.mark.real, pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA.name}")]

HIGHDICOM = "highdicom_test_files/seg_image_"
DCMQI = "dcmqi_seg_pm_sr/"
FILES = {
    "binary": (HIGHDICOM + "ct_binary.dcm", 638),
    "binary as fractions": (HIGHDICOM + "ct_binary_fractional.dcm", 638),
    "fractions": (HIGHDICOM + "ct_true_fractional.dcm", 638),
    "single frame": (HIGHDICOM + "ct_binary_single_frame.dcm", 1832),
    "two segments, sparse": (HIGHDICOM + "ct_binary_overlap.dcm", 80),
    "liver": (DCMQI + "segmentations/liver.dcm", 107098),
    "five segments": (DCMQI + "segmentations/partial_overlaps.dcm", 43639),
    "label map": (DCMQI + "segmentations/sparse-labelmap-noppv.dcm", None),
    "label map, padded": (DCMQI + "segmentations/sparse-labelmap-ppv5.dcm", None),
    "tumour": (DCMQI + "sr-example/seg.dcm", 795),
}
TURNS = {"as stored": ((0, 1, 2), (1, 1, 1)), "turned": ((2, 0, 1), (-1, 1, -1))}


def oracle(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return label to mask [i, j, k] and the affine to RAS, as highdicom reads them."""
    seg = hd.seg.segread(path)
    volume = seg.get_volume(combine_segments=False)
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in seg.SegmentSequence}
    masks = {
        names[number]: volume.array[..., n].transpose(2, 1, 0) >= 0.5
        for n, number in enumerate(seg.segment_numbers)
        if number
    }
    return masks, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]


def turned(masks: dict[str, np.ndarray], affine: np.ndarray, turn: str) -> tuple[dict[str, np.ndarray], Volume]:
    """Return masks and an empty image whose axes are exchanged and flipped, with a margin all round."""
    axes, signs = TURNS[turn]
    margin = 0 if turn == "as stored" else 2
    shape = [next(iter(masks.values())).shape[a] for a in axes]
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for n, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        change[axis, n] = sign
        change[axis, 3] = -margin if sign > 0 else shape[n] - 1 + margin
    flips = tuple(slice(None, None, sign) for sign in signs)
    out = {name: np.pad(mask.transpose(axes)[flips], margin) for name, mask in masks.items()}
    empty = np.zeros(next(iter(out.values())).shape, np.float32)
    return out, Volume(array=empty, affine=affine @ change)


class TestReal:
    pytestmark = needs_data

    @pytest.mark.parametrize("turn", TURNS)
    @pytest.mark.parametrize("name", FILES)
    def test_equals_highdicom(self, name: str, turn: str) -> None:
        file, voxels = FILES[name]
        masks, like = turned(*oracle(DATA / file), turn)
        assert voxels is None or sum(map(np.count_nonzero, masks.values())) == voxels
        for segment, mask in masks.items():
            ours = read_seg(DATA / file, like, segments=[segment])
            assert ours.names == (segment,)
            assert np.array_equal(ours.labels, mask)
            assert mask.any()
        if np.max(sum(mask.astype(int) for mask in masks.values())) == 1:
            every = read_seg(DATA / file, like)
            assert every.names == tuple(masks)
            assert np.array_equal(every.labels, sum(n * mask for n, mask in enumerate(masks.values(), 1)))
        else:
            with pytest.raises(DicomError, match=r"segments overlap.*Choose segments by name"):
                read_seg(DATA / file, like)

    def test_slide_microscopy_is_refused(self) -> None:
        like = Volume(array=np.zeros((10, 10, 1), np.float32), affine=np.eye(4))
        for file in ("sm_control", "sm_control_labelmap"):
            with pytest.raises(DicomError, match="no position in the patient"):
                read_seg(DATA / f"{HIGHDICOM}{file}.dcm", like.replace(array=np.zeros((50, 50, 1), np.float32)))
        with pytest.raises(DicomError, match="PerFrameFunctionalGroupsSequence is missing"):
            read_seg(DATA / f"{HIGHDICOM}sm_dots_tiled_full.dcm", like)


def labels_of(recipe: Recipe) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4, (recipe.columns, recipe.rows, recipe.slices)).astype(np.int16)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_are_chosen_and_ordered(kind: str, tmp_path: Path) -> None:
    recipe = Recipe().write(tmp_path / "image")
    volume, labels = read_volume(tmp_path / "image"), labels_of(recipe)
    names = ["one", "two", "three"]
    frames = frames_of(labels, recipe)
    if kind == "LABELMAP":
        frames = [Frame(mask=labels[:, :, k].T, position=recipe.position(k)) for k in range(6)]
    path = write_seg(tmp_path / "seg.dcm", frames, recipe, kind=kind, names=names)
    mask = read_seg(path, volume, segments=["three", "one"])
    assert mask.names == ("three", "one")
    assert np.array_equal(mask.labels, np.array([0, 2, 0, 1])[labels])
    assert len(np.unique(labels)) == 4
    with pytest.raises(DicomError, match=r"no segment 'tree'\. Did you mean 'three'"):
        read_seg(path, volume, segments=["tree"])


def test_segments_of_one_name_are_one(tmp_path: Path) -> None:
    recipe = Recipe().write(tmp_path / "image")
    labels = labels_of(recipe)
    path = write_seg(tmp_path / "seg.dcm", frames_of(labels, recipe), recipe, names=["a", "b", "a"])
    mask = read_seg(path, read_volume(tmp_path / "image"), segments=["a"])
    assert np.array_equal(mask.labels, np.isin(labels, (1, 3)))
    assert 0 < mask.labels.mean() < 1


def test_a_segmentation_cut_short(tmp_path: Path) -> None:
    recipe = Recipe().write(tmp_path / "image")
    path = write_seg(tmp_path / "seg.dcm", frames_of(labels_of(recipe), recipe), recipe, names=["a", "b", "c"])
    data = path.read_bytes()
    for end in (len(data) - 1, len(data) - 40, len(data) // 2):
        path.write_bytes(data[:end])
        with pytest.raises(DicomError, match=r"cut short in|damaged"):
            read_seg(path, read_volume(tmp_path / "image"))

"""Masks on another grid than their image: refused, or resampled with nearest neighbours when asked, never emptied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_data import affine_of, nifti_study, noise, rotation, volume_of, write_nifti
from helpers_dicom import Frame, Recipe, oblique, write_seg

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import load_cases
from medtl_monai.data.masks import MaskScheme, read_mask
from medtl_monai.dicom import Volume, read_volume
from medtl_monai.errors import DataError, DicomError

AFFINE = affine_of(rotation(5, 0, 10), (1, 1, 3))
ASKED = MaskScheme(structures=("a", "b"), segments={"a": 1, "b": 2}, off_grid="nearest")
DONE = "the mask was resampled onto the grid of its image with nearest neighbours"
BEYOND = "the mask does not cover its whole image; the rest counts as background"
CUT = "part of the mask lies outside its image and was cut off"


def blobs(shape: tuple[int, int, int]) -> np.ndarray:
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    out = (np.linalg.norm(place, axis=0) < 0.8).astype(np.uint8)
    out[(place[0] > 0.1) & (out > 0)] = 2
    return out


def nearest(labels: np.ndarray, affine: np.ndarray, like: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return what each image voxel finds at its centre, and where that is not a tie between two mask voxels."""
    index = np.stack([*np.meshgrid(*map(np.arange, like.shape), indexing="ij"), np.ones(like.shape)], -1)
    place = (index @ np.linalg.solve(affine, like.affine).T)[..., :3]
    near = np.rint(place).astype(int)
    field = ((near >= 0) & (near < labels.shape)).all(-1)
    out = np.where(field, labels[tuple(np.clip(near, 0, np.array(labels.shape) - 1).transpose(3, 0, 1, 2))], 0)
    return out, (np.abs(np.abs(place - np.floor(place)) - 0.5) > 1e-3).all(-1)


GRIDS = {
    "finer": ((17, 18, 21), affine_of(rotation(5, 0, 10), (0.5, 0.52, 1), (4.9, -7.1, 10.8))),
    "coarser": ((5, 5, 4), affine_of(rotation(5, 0, 10), (1.7, 2.1, 5.5))),
    "turned": ((12, 12, 12), affine_of(rotation(40, 0, 10), (1, 1, 3), (4, -8, 2))),
    "shifted": ((8, 9, 7), affine_of(rotation(5, 0, 10), (1, 1, 3), (5.3, -7.2, 11.4))),
    "flipped": ((8, 9, 7), affine_of(rotation(5, 0, 10) * (-1, 1, 1), (1.01, 1, 3), (12, -5.8, 11.4))),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_finds_its_nearest_label(name: str, tmp_path: Path) -> None:
    shape, affine = GRIDS[name]
    labels = blobs(shape)
    path = write_nifti(tmp_path / "m.nii.gz", labels, affine)
    like = volume_of(noise(0), AFFINE)
    with pytest.raises(DataError, match=r"another grid.*data\.off_grid_masks=nearest"):
        read_mask(path, like, MaskScheme(structures=("a", "b")))
    notes: list[str] = []
    moved = read_mask(path, like, ASKED, notes=notes)
    expected, clear = nearest(labels, affine, like)
    assert clear.mean() > 0.6
    assert np.array_equal(moved[clear], expected[clear])
    assert set(np.unique(moved)) == {0, 1, 2}
    assert moved.dtype == np.int16
    assert notes[0] == DONE


def test_a_mask_on_the_grid_is_not_touched(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "m.nii.gz", blobs((8, 9, 7)), AFFINE)
    notes: list[str] = []
    assert np.array_equal(read_mask(path, volume_of(noise(0), AFFINE), ASKED, notes=notes), blobs((8, 9, 7)))
    assert notes == []


def test_what_does_not_overlap_is_noted(tmp_path: Path) -> None:
    like = volume_of(noise(0), AFFINE)
    small = affine_of(rotation(5, 0, 10), (0.5, 0.5, 1.5))
    notes: list[str] = []
    read_mask(write_nifti(tmp_path / "s.nii", blobs((8, 9, 7)), small), like, ASKED, notes=notes)
    assert notes == [DONE, BEYOND]
    large = affine_of(rotation(5, 0, 10), (2, 2, 6), (1, -11, 5))
    notes = []
    read_mask(write_nifti(tmp_path / "l.nii", blobs((8, 9, 7)), large), like, ASKED, notes=notes)
    assert notes == [DONE, CUT]


def test_a_label_never_vanishes(tmp_path: Path) -> None:
    labels = blobs((17, 18, 21))
    labels[labels == 2] = 1
    labels[9, 9, 10] = 2
    affine = affine_of(rotation(5, 0, 10), (0.5, 0.52, 1), (4.9, -7.1, 10.8))
    path = write_nifti(tmp_path / "m.nii.gz", labels, affine)
    with pytest.raises(DataError, match=r"case 1: nothing is left of label 2 when the mask is resampled"):
        read_mask(path, volume_of(noise(0), AFFINE), ASKED, where="case 1")


def test_a_mask_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "m.nii.gz", blobs((8, 9, 7)), affine_of(np.eye(3), (1, 1, 3), (400, 0, 0)))
    with pytest.raises(DataError, match="does not overlap its image"):
        read_mask(path, volume_of(noise(0), AFFINE), ASKED)


def test_the_configuration_asks(tmp_path: Path) -> None:
    labels = nifti_study(tmp_path, [{"mask": f"m/{n}.nii.gz"} for n in range(3)])
    for n in range(3):
        write_nifti(tmp_path / f"m/{n}.nii.gz", blobs((16, 18, 14)), np.diag([0.5, 0.5, 0.5, 1]))
    table = load_cases(DataConfig(labels=labels, target=["mask"], off_grid_masks="nearest"), "mask")
    case = table.cases[0]
    notes: list[str] = []
    assert table.read_target(case, table.read_volume(case), notes).any()
    assert DONE in notes
    table = load_cases(DataConfig(labels=labels, target=["mask"]), "mask")
    with pytest.raises(DataError, match="another grid"):
        table.read_target(case, table.read_volume(case))


def off_grid(recipe: Recipe, labels: np.ndarray, origin: np.ndarray, step: float, spacing: tuple[float, float]):
    """Return frames of a grid of its own, parallel to the recipe's; empty ones are left out."""
    frames = []
    for k in range(labels.shape[2]):
        for segment in (1, 2):
            mask = (labels[:, :, k] == segment).T
            if mask.any():
                place = origin + k * step * recipe.normal
                frames.append(
                    Frame(mask=mask, position=place, orientation=recipe.orientation, spacing=spacing, segment=segment)
                )
    return frames


def distances(value: float | None, thickness: float | None = None):
    def edit(ds, k) -> None:
        for group in ds.PerFrameFunctionalGroupsSequence:
            if value is not None:
                group.PixelMeasuresSequence[0].SpacingBetweenSlices = value
            if thickness is not None:
                group.PixelMeasuresSequence[0].SliceThickness = thickness

    return edit


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), oblique(20, -13, 41)])
@pytest.mark.parametrize("edit", [distances(1.5), distances(None, 1.5), distances(None, 4.0), distances(None)])
def test_a_seg_of_its_own_grid(orientation, edit, tmp_path: Path) -> None:
    recipe = Recipe(columns=11, rows=9, orientation=orientation).write(tmp_path / "image")
    like = read_volume(tmp_path / "image")
    labels = blobs((20, 17, 11))
    labels[:, :, [3, 4]] = 0
    shift = recipe.affine_lps @ [-0.3, 0.2, 0.1, 1]
    frames = off_grid(recipe, labels, shift[:3], 1.5, (0.45, 0.35))
    path = write_seg(tmp_path / "seg.dcm", frames[::-1], recipe, names=["a", "b"], edit=edit)
    with pytest.raises(DicomError, match=r"not on the image's grid.*data\.off_grid_masks=nearest"):
        read_mask(path, like, MaskScheme(structures=("a", "b"), segments={"a": 1, "b": 2}))
    notes: list[str] = []
    moved = read_mask(path, like, ASKED, notes=notes)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(
        [np.array(orientation[:3]) * 0.35, np.array(orientation[3:]) * 0.45, recipe.normal * 1.5]
    )
    affine[:3, 3] = shift[:3]
    expected, clear = nearest(labels, np.diag([-1, -1, 1, 1]) @ affine, like)
    assert np.array_equal(moved[clear], expected[clear])
    assert clear.mean() > 0.5
    assert set(np.unique(moved)) == {0, 1, 2}
    assert notes == [DONE]


def test_a_seg_of_every_other_slice_is_not_spread(tmp_path: Path) -> None:
    """With the slice distance told, slices that are not stored stay empty."""
    recipe = Recipe(columns=11, rows=9, slices=6).write(tmp_path / "image")
    labels = blobs((11, 9, 6))
    labels[:, :, [1, 3, 5]] = 0
    frames = off_grid(recipe, labels, recipe.position(0) + np.array([0.2, 0, 0]), recipe.step, recipe.spacing)
    path = write_seg(tmp_path / "seg.dcm", frames, recipe, names=["a", "b"], edit=distances(recipe.step))
    moved = read_mask(path, read_volume(tmp_path / "image"), ASKED)
    assert moved[:, :, [2, 4]].any()
    assert not moved[:, :, [1, 3, 5]].any()


def test_a_seg_without_a_regular_grid(tmp_path: Path) -> None:
    recipe = Recipe(columns=11, rows=9, slices=6).write(tmp_path / "image")
    like = read_volume(tmp_path / "image")
    frames = off_grid(recipe, blobs((11, 9, 6)), recipe.position(0) + np.array([0.2, 0, 0]), 3.0, recipe.spacing)
    uneven = [*frames]
    uneven[-1].position = uneven[-1].position + np.array([0, 0, 0.7])
    path = write_seg(tmp_path / "a.dcm", uneven, recipe, names=["a", "b"])
    with pytest.raises(DicomError, match="cannot be resampled: frames do not lie"):
        read_mask(path, like, ASKED)
    uneven[-1].orientation = oblique(3, 0, 0)
    path = write_seg(tmp_path / "b.dcm", uneven, recipe, names=["a", "b"])
    with pytest.raises(DicomError, match="differ in orientation or spacing"):
        read_mask(path, like, ASKED)

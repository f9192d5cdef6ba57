import itertools

import nibabel as nib
import numpy as np
import pytest
from helpers_data import affine_of, ball, noise, rotation, volume_of
from scipy.ndimage import map_coordinates

from medtl_monai.data.grid import Grid, coincidence, move, move_labels

CODES = ["".join(c) for p in itertools.permutations(("LR", "AP", "SI")) for c in itertools.product(*p)]


@pytest.mark.parametrize("codes", CODES)
def test_turning_agrees_with_nibabel_and_back(codes):
    affine = affine_of(rotation(5, -8, 3), (1, 2, 3))
    volume = volume_of(noise(0), affine)
    source = Grid.of(volume)
    target = source.oriented(codes)
    moved = move(volume.array[None], source, target, [0])[0]
    image = nib.Nifti1Image(volume.array, affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    expected = image.as_reoriented(change)
    assert np.array_equal(moved, np.asarray(expected.dataobj))
    np.testing.assert_allclose(target.affine, expected.affine, atol=1e-9)
    assert np.array_equal(move(moved[None], target, source, [0])[0], volume.array)


def test_cropping_and_padding_are_exact_and_filled():
    volume = volume_of(noise(0))
    source = Grid.of(volume)
    target = source.fitted((6, 12, 7))
    moved = move(volume.array[None], source, target, [-5.0])[0]
    assert moved.shape == (6, 12, 7)
    assert np.array_equal(moved[:, 2:11], volume.array[1:7])
    assert (moved[:, :2] == -5).all()
    assert (moved[:, 11:] == -5).all()


def test_no_overlap_at_all_is_background():
    source = Grid((4, 4, 4), np.eye(4))
    target = Grid((3, 3, 3), affine_of(np.eye(3), origin=(100, 0, 0)))
    assert (move(noise(0, (1, 4, 4, 4)), source, target, [7])[0] == 7).all()
    oblique = Grid((3, 3, 3), affine_of(rotation(10, 0, 0), origin=(100, 0, 0)))
    assert (move(noise(0, (1, 4, 4, 4)), source, oblique, [7])[0] == 7).all()


def _expected(array, source, target, fill):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), -1).reshape(-1, 3)
    place = np.c_[index, np.ones(len(index))] @ np.linalg.solve(source.affine, target.affine).T
    values = map_coordinates(array.astype(float), place[:, :3].T, order=1, mode="nearest")
    limits = np.array(source.shape) - 0.5
    inside = ((place[:, :3] >= -0.5) & (place[:, :3] <= limits)).all(axis=1)
    edge = (np.abs(place[:, :3] + 0.5) < 1e-3).any(axis=1) | (np.abs(place[:, :3] - limits) < 1e-3).any(axis=1)
    return np.where(inside, values, fill).reshape(target.shape), edge.reshape(target.shape)


@pytest.mark.parametrize(
    "target",
    [
        Grid((8, 9, 7), affine_of(np.eye(3))).respaced((0.7, 1.6, 1.0)),
        Grid((10, 12, 9), affine_of(rotation(20, 10, -15), (0.9, 1.1, 1.3), (3, -9, 9))),
        Grid((6, 20, 1), affine_of(rotation(0, 0, 45), (1, 0.5, 1), (8, -6, 14))),
    ],
)
def test_resampling_agrees_with_scipy(target):
    source = Grid((8, 9, 7), affine_of(np.eye(3)))
    moved = move(noise(3)[None], source, target, [-50.0])[0]
    expected, edge = _expected(noise(3), source, target, -50.0)
    np.testing.assert_allclose(moved[~edge], expected[~edge], atol=0.01)
    assert moved.std() > 5


def test_respacing_keeps_the_centre_and_the_field():
    grid = Grid((10, 11, 5), affine_of(rotation(3, 4, 5), (1, 1, 4)))
    fine = grid.respaced((2.0, 0.5, 1.0))
    assert fine.shape == (5, 22, 20)
    np.testing.assert_allclose(fine.spacing_mm, (2, 0.5, 1))

    def centre(g):
        return g.affine[:3, :3] @ ((np.array(g.shape) - 1) / 2) + g.affine[:3, 3]

    np.testing.assert_allclose(centre(grid), centre(fine), atol=1e-9)
    assert grid.contains(fine)


def test_shear_is_resampled_away():
    # The values are the place along y in millimetres, so any grid must show them at the right place.
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 0.8
    shape = (6, 20, 8)
    j, k = np.meshgrid(np.arange(20), np.arange(8), indexing="ij")
    array = np.broadcast_to(j + 0.8 * k, shape).astype(np.float32)
    source = Grid(shape, affine)
    assert source.sheared
    target = source.straightened()
    assert not target.sheared
    np.testing.assert_allclose(target.spacing_mm, (1, 1, 3))
    moved = move(array[None], source, target, [-100.0])[0]
    y = target.affine[1, 3] + np.arange(target.shape[1]) * target.affine[1, 1]
    inside = moved > -50
    assert inside.mean() > 0.7
    clear = inside & (np.abs(moved - y[None, :, None]) < 0.51)
    assert clear.sum() == inside.sum()
    core = inside[:, 8:16]
    np.testing.assert_allclose(moved[:, 8:16][core], np.broadcast_to(y[None, 8:16, None], core.shape)[core], atol=1e-3)


def test_tilted_slices_get_the_distance_of_their_planes():
    affine = np.eye(4)
    tilt = np.deg2rad(20)
    affine[:3, 2] = [0, 5 * np.sin(tilt), 5 * np.cos(tilt)]
    assert Grid((4, 4, 4), affine).straightened().spacing_mm == pytest.approx((1, 1, 5 * np.cos(tilt)))


def test_labels_stay_labels_under_resampling():
    affine = affine_of(rotation(10, 0, 0), (1, 1, 2))
    labels = ball((20, 22, 12), affine, 8)
    source = Grid(labels.shape, affine)
    target = source.respaced((1.3, 0.8, 1.0))
    moved = move_labels(labels, source, target)
    assert set(np.unique(moved)) == {0, 1, 2}
    back = move_labels(moved, target, source)
    for value in (1, 2):
        both = ((labels == value) & (back == value)).sum()
        assert 2 * both / ((labels == value).sum() + (back == value).sum()) > 0.9


def test_many_labels_stay_labels():
    affine = affine_of(rotation(10, 0, 0))
    labels = np.repeat(np.arange(30, dtype=np.int16), 3)[:, None, None] * np.ones((1, 12, 12), np.int16)
    source = Grid(labels.shape, affine)
    target = source.respaced((0.5, 1.3, 1.0))
    moved = move_labels(labels, source, target)
    assert moved.dtype == np.int16
    assert np.array_equal(np.unique(moved), np.arange(30))
    assert np.array_equal(moved[:, 3, 3], np.repeat(np.arange(30), 6))


def test_grids_apart_by_half_a_voxel_do_not_coincide():
    source = Grid((4, 4, 4), np.eye(4))
    assert coincidence(source, Grid((4, 4, 4), affine_of(np.eye(3), origin=(0.5, 0, 0)))) is None
    assert coincidence(source, Grid((4, 4, 4), affine_of(np.eye(3), (1.02, 1, 1), (0, 0, 0)))) is None
    assert coincidence(source, Grid((4, 4, 4), affine_of(np.eye(3), origin=(2, 0, 0)))) is not None

"""Several images as the channels of one volume, judged in millimetres."""

import numpy as np
import pytest
from helpers_data import affine_of, rotation, volume_of
from helpers_dicom import CORONAL, Recipe, oblique

from medtl_monai.data.channels import covered, name_channels, stack
from medtl_monai.data.grid import Grid
from medtl_monai.data.inputs import Input
from medtl_monai.dicom import read_volume
from medtl_monai.dicom.geometry import ChannelInfo
from medtl_monai.errors import DataError

T1, FLAIR = Input(name="T1"), Input(name="FLAIR")
COEFFICIENTS = np.array([0.7, -1.3, 2.1])


def ramp(shape, affine, **more):
    """Return a volume whose values are linear in the place: interpolation gives them back exactly."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return volume_of((index @ affine[:3, :3].T + affine[:3, 3]) @ COEFFICIENTS + 1000, affine, **more)


def places(volume):
    index = np.indices(volume.shape).reshape(3, -1)
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3:]


GRIDS = [
    affine_of(np.eye(3), (2, 2, 2), (-12, -12, -12)),
    affine_of(rotation(20, -15, 30), (1.5, 2.5, 2), (-20, -15, -14)),
    affine_of(np.eye(3)[:, [2, 0, 1]] * [-1, 1, 1], (1.9, 2.3, 3.1), (-21, -24, 18)),
    affine_of(np.array([[1, 0, 0.2], [0, 1, 0.1], [0, 0, 1]]), (2, 2, 2), (-14, -14, -13)),
]


@pytest.mark.parametrize("affine", GRIDS, ids=["apart", "oblique", "turned", "sheared"])
def test_channels_show_one_place(affine):
    first = ramp((12, 11, 10), affine_of(rotation(5, 0, 0), (1, 1.1, 1.2), (-6, -6, -6)))
    second = ramp((20, 18, 16), affine)
    volume = stack([first, second], [T1, FLAIR])
    assert volume.array.shape == (2, 12, 11, 10)
    assert np.array_equal(volume.affine, first.affine)
    assert np.array_equal(volume.array[0], first.array)
    true = COEFFICIENTS @ places(first) + 1000
    inside = np.linalg.solve(affine, np.vstack([places(first), np.ones(true.size)]))[:3]
    between = ((inside >= 0) & (inside <= np.array(second.shape)[:, None] - 1)).all(axis=0)
    assert between.mean() > 0.8
    assert np.abs(volume.array[1].ravel() - true)[between].max() < 0.01
    assert true.std() > 5
    assert "FLAIR was resampled to the grid of T1" in volume.notes


def test_turned_axes_are_exact():
    array = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    first = volume_of(array, affine_of(np.eye(3), (1, 2, 3)))
    # The same voxels, stored with exchanged and flipped axes.
    affine = first.affine @ np.array([[0, 0, -1, 5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    second = volume_of(array.transpose(1, 2, 0)[:, :, ::-1], affine)
    volume = stack([first, second], [T1, FLAIR])
    assert np.array_equal(volume.array[0], volume.array[1])
    assert volume.notes == ()
    assert volume.array.flags.c_contiguous


def test_outside_a_channel_is_its_own_background():
    first = volume_of(np.random.default_rng(1).uniform(0, 1, (10, 10, 10)))
    ct = volume_of(np.random.default_rng(2).uniform(-1000, 400, (10, 10, 8)), modality="CT", unit="HU")
    ct.array[0, 0, 0] = -1000
    volume = stack([first, ct], [T1, Input(name="CT")])
    assert (volume.array[1][:, :, 8:] == -1000).all()
    assert np.array_equal(volume.array[1][:, :, :8], ct.array)
    assert volume.notes == ("CT does not reach everywhere in T1: the rest has its lowest value",)


def test_kinds_are_kept_by_channel():
    ct, pet = volume_of(np.ones((4, 4, 4)), modality="CT", unit="HU"), volume_of(np.ones((4, 4, 4)), modality="PT")
    volume = stack([ct, pet, None], [Input(name="CT"), Input(name="PET"), Input(name="MR", missing="fill")])
    assert volume.channel_info == (
        ChannelInfo(name="CT", modality="CT", unit="HU"),
        ChannelInfo(name="PET", modality="PT"),
        ChannelInfo(name="MR", filled=True),
    )
    assert (volume.modality, volume.unit) == ("CT", "HU")
    assert not volume.array[2].any()
    assert volume.notes == ("MR is missing and was filled",)


def test_coverage():
    grid = Grid((10, 10, 10), np.eye(4))
    assert covered(grid, grid) == 1
    assert covered(grid, Grid((10, 10, 5), np.eye(4))) == 0.5
    assert covered(grid, Grid((10, 10, 10), affine_of(np.eye(3), origin=(7, 0, 0)))) == pytest.approx(0.3)
    assert covered(Grid((200, 3, 3), np.eye(4)), Grid((100, 3, 3), np.eye(4))) == pytest.approx(0.5, abs=0.01)


def test_too_little_coverage_is_refused_unless_asked_for():
    first = volume_of(np.random.default_rng(0).uniform(size=(10, 10, 10)))
    small = volume_of(np.random.default_rng(1).uniform(size=(10, 10, 4)))
    with pytest.raises(DataError, match=r"FLAIR: the image covers 40% of the field of T1, and 50% are asked.*min_cov"):
        stack([first, small], [T1, FLAIR])
    assert stack([first, small], [T1, Input(name="FLAIR", min_coverage=0.4)]).channels == 2
    away = volume_of(small.array, affine_of(np.eye(3), origin=(50, 0, 0)))
    with pytest.raises(DataError, match="FLAIR: the image lies outside the field of T1"):
        stack([first, away], [T1, Input(name="FLAIR", min_coverage=0)])


def test_frames_of_reference():
    array = np.random.default_rng(0).uniform(size=(4, 4, 4))
    first = volume_of(array, series_uid="1.1", frame_of_reference="1.5")
    other = first.replace(series_uid="1.2", frame_of_reference="1.6")
    assert stack([first, other.replace(frame_of_reference="1.5")], [T1, FLAIR]).notes == ()
    with pytest.raises(
        DataError, match=r"FLAIR, FrameOfReferenceUID: .*not comparable.*frame_of_reference=ignore"
    ) as e:
        stack([first, other], [T1, FLAIR])
    assert "1.6" not in str(e.value)
    volume = stack([first, other], [T1, Input(name="FLAIR", frame_of_reference="ignore")])
    assert volume.notes == ("FLAIR is in another frame of reference than T1: positions were taken as they are",)
    volume = stack([first, other.replace(frame_of_reference="")], [T1, FLAIR])
    assert volume.notes == ("FLAIR: whether it is in the frame of reference of T1 is not known",)
    nifti = volume_of(array)
    assert stack([nifti, nifti.replace()], [T1, FLAIR]).notes == ()


def test_what_cannot_be_a_channel():
    grey = volume_of(np.random.default_rng(0).uniform(size=(4, 4, 4)))
    colour = volume_of(np.random.default_rng(0).uniform(size=(3, 4, 4, 4)))
    with pytest.raises(DataError, match="FLAIR: the image has 3 channels of its own"):
        stack([grey, colour], [T1, FLAIR])
    with pytest.raises(DataError, match="T1: the first image is missing"):
        stack([None, grey], [T1, FLAIR])
    flat = volume_of(np.random.default_rng(0).uniform(size=(4, 4, 1)), series_uid="1.2", modality="DX")
    with pytest.raises(DataError, match="T1: the image has no place in the patient"):
        stack([flat, flat.replace()], [T1, FLAIR])


def test_names_fit_or_are_left_out():
    volume = volume_of(np.ones((2, 3, 3, 3)), modality="MR")
    assert [info.name for info in name_channels(volume, ["a", "b"]).channel_info] == ["a", "b"]
    assert name_channels(volume, []).channel_info == ()
    with pytest.raises(ValueError, match="1 channels are described, and there are 2"):
        volume.replace(channel_info=(ChannelInfo(name="a"),))


RECIPES = [
    Recipe(columns=30, rows=28, slices=14, orientation=CORONAL, origin=(-25.0, -40.0, 70.0), step=2.5, offset=5),
    Recipe(columns=30, rows=34, slices=16, orientation=oblique(12, -8, 20), origin=(-25.0, -40.0, 28.0), step=3.1),
    Recipe(columns=28, rows=25, slices=15, origin=(-27.0, -39.0, 36.0), step=2.7, tilt=(0.0, 0.4, 0.0), modality="CT"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["coronal", "oblique", "tilted"])
def test_dicom_series_are_aligned_in_millimetres(recipe, tmp_path):
    first = Recipe(columns=16, rows=14, slices=10).write(tmp_path / "t1")
    recipe.study = first.study
    recipe.write(tmp_path / "flair")
    volumes = [read_volume(tmp_path / name) for name in ("t1", "flair")]
    assert volumes[0].frame_of_reference == volumes[1].frame_of_reference != ""
    assert volumes[0].frame_of_reference not in repr(volumes[0])
    volume = stack(volumes, [T1, FLAIR])
    # Where the second recipe says that each voxel of the first lies, in its own voxels.
    lps = (
        np.diag([-1, -1, 1, 1.0]) @ volume.affine @ np.vstack([np.indices(volume.shape).reshape(3, -1), np.ones(2240)])
    )
    i, j, k = np.linalg.solve(recipe.affine_lps, lps)[:3]
    inside = np.all(
        [(x >= 0) & (x <= n - 1) for x, n in ((i, recipe.columns), (j, recipe.rows), (k, recipe.slices))], 0
    )
    true = 1 + recipe.offset + i + recipe.columns * (j + recipe.rows * k)
    assert inside.mean() > 0.5
    assert np.abs(volume.array[1].ravel() - true)[inside].max() < 0.5
    assert true[inside].std() > 1000

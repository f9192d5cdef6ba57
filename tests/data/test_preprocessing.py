import json

import numpy as np
import pytest
from helpers_data import affine_of, noise, rotation, volume_of

from medtl_monai.config import PreprocessingConfig
from medtl_monai.data.preprocessing import ImageInfo, Preprocessing, plan_preprocessing
from medtl_monai.errors import ConfigError, DataError, RunError
from medtl_monai.specs import InputSpec, Intensity

SPEC = InputSpec(spatial_dims=3)
SPEC_16 = InputSpec(spatial_dims=3, divisible_by=(16, 16, 16))
SPEC_2D = InputSpec(spatial_dims=2, divisible_by=(8, 8))


def info(shape=(30, 32, 20), spacing=(1, 1, 2), codes=None, **more):
    grid = ImageInfo(shape=shape, affine=affine_of(np.eye(3), spacing)).grid
    grid = grid.oriented(codes) if codes else grid
    return ImageInfo(shape=grid.shape, affine=grid.affine, **more)


def plan(images, kind="class", spec=SPEC, **config):
    return plan_preprocessing(spec, PreprocessingConfig(**config), kind, images)


def test_equal_images_stay_native():
    made = plan([info()] * 3)
    assert made.orientation == "RAS"
    assert made.spacing_mm == (1, 1, 2)
    assert made.size == (30, 32, 20)
    assert made.fit == "crop"
    assert not made.notes


def test_orientation_of_the_files_does_not_matter():
    made = plan([info(codes="LPI"), info(codes="SAR"), info()])
    assert made.spacing_mm == (1, 1, 2)
    assert made.size == (30, 32, 20)
    assert plan([info()], orientation="SRA").size == (20, 30, 32)


def test_spacing_is_the_median_where_images_differ_and_config_or_spec_where_they_say():
    images = [info(spacing=(1, 1, s)) for s in (1, 2, 5)]
    made = plan(images)
    assert made.spacing_mm == (1, 1, 2)
    assert "median" in made.notes[0]
    assert "1×1×2 mm" in made.notes[0]
    assert plan(images, spec=InputSpec(spatial_dims=3, spacing_mm=(1.5, 1.5, 3))).spacing_mm == (1.5, 1.5, 3)
    assert plan(images, spacing_mm=[2, 2, 2]).spacing_mm == (2, 2, 2)
    with pytest.raises(ConfigError, match="3 positive numbers"):
        plan(images, spacing_mm=[2, 2])


def test_size_comes_from_the_largest_unless_it_is_a_giant():
    assert plan([info((30, 32, 20)), info((36, 30, 20))], spec=SPEC_16).size == (48, 32, 32)
    giant = plan([info()] * 20 + [info((300, 32, 20))], spec=SPEC_16)
    assert giant.size == (32, 32, 32)
    assert "1 of 21 training images are larger than 32×32×32" in giant.notes[0]
    assert plan([info()], spec=InputSpec(spatial_dims=3, min_size=(64, 64, 64))).size == (64, 64, 64)
    assert plan([info()], spec=InputSpec(spatial_dims=3, size=(24, 24, 24))).size == (24, 24, 24)


def test_sizes_that_the_backbone_cannot_take_are_refused_with_one_it_can():
    with pytest.raises(ConfigError, match=r"\[32, 48, 16\]"):
        plan([info()], spec=SPEC_16, size=[30, 48, 10])
    with pytest.raises(ConfigError, match="24×24×24 only"):
        plan([info()], spec=InputSpec(spatial_dims=3, size=(24, 24, 24)), size=[32, 32, 32])
    with pytest.raises(ConfigError, match=r"Use \[16, 16, 16\]"):
        plan([info()], "mask", SPEC_16, patch_size=[10, 16, 16])
    with pytest.raises(ConfigError, match="patches are for segmentation"):
        plan([info()], patch_size=[16, 16, 16])


def test_large_images_are_noted():
    assert "large" in plan([info((256, 256, 200))]).notes[-1]


def test_dimensions_must_fit():
    with pytest.raises(DataError, match=r"two-dimensional.*3D backbone"):
        plan([info()], spec=SPEC_2D)
    with pytest.raises(DataError, match=r"three-dimensional.*2D backbone"):
        plan([info((30, 32, 1))])
    with pytest.raises(DataError, match="no training image"):
        plan([])


def test_channels():
    assert plan([info(channels=3)]).channels == 3
    rigid = InputSpec(spatial_dims=3, channels=("r", "g", "b"), variable_channels=False)
    made = plan([info(channels=1)], spec=rigid)
    assert (made.channels, made.repeat_channels) == (3, True)
    with pytest.raises(DataError, match="1 and 3 channels"):
        plan([info(), info(channels=3)])
    with pytest.raises(DataError, match="backbone takes 2"):
        plan([info(channels=3)], spec=InputSpec(spatial_dims=3, channels=("a", "b"), variable_channels=False))


def test_modality_and_unit_are_those_of_the_training_images():
    made = plan([info(modality="CT", unit="HU")] * 2, spec=InputSpec(spatial_dims=3, modality=("MR",)))
    assert made.modality == ("CT",)
    assert made.intensity.unit == "HU"
    assert "made for MR; the images are CT" in made.notes[0]
    assert plan([info(modality="CT", unit="HU"), info(modality="MR")]).intensity.unit == "any"
    assert plan([info(unit="HU")], unit="any").intensity.unit == "any"


def test_fixed_statistics_are_fitted_to_the_channels():
    spec = InputSpec(spatial_dims=3, intensity=Intensity(normalise="fixed", mean=(1.0, 2.0, 3.0), std=(3.0, 3.0, 3.0)))
    made = plan([info()], spec=spec)
    assert made.intensity.mean == (2.0,)
    assert made.intensity.std == (3.0,)
    with pytest.raises(ConfigError, match="3 channels"):
        plan([info(channels=2)], spec=spec)


def test_intensity_of_the_config_wins():
    spec = InputSpec(spatial_dims=3, intensity=Intensity(unit="HU", clip=(-100, 100)))
    made = plan([info()], spec=spec, clip_percentiles=[1, 99], normalise="minmax", unit="any")
    assert made.intensity == Intensity(clip_percentiles=(1, 99), normalise="minmax")
    for wrong in ({"clip": [3, 1]}, {"clip": [1]}, {"clip": [0, 1], "clip_percentiles": [0, 1]}):
        with pytest.raises(ConfigError):
            plan([info()], **wrong)


def test_two_dimensional_images_go_by_pixels():
    images = [info((100, 60, 1), (s, s, 1), spacing_known=False) for s in (0.1, 0.5)]
    made = plan(images, spec=SPEC_2D)
    assert made.spacing_mm is None
    assert made.size == (64, 104)
    assert made.fit == "shrink"
    assert plan(images, spec=SPEC_2D, size=[32, 32]).fit == "resize"
    assert plan([info((3000, 2000, 1))], spec=SPEC_2D).size == (512, 512)
    assert plan(images, spec=SPEC_2D, spacing_mm=[0.2, 0.2]).fit == "crop"
    with pytest.raises(ConfigError, match="volumes"):
        plan(images, spec=SPEC_2D, orientation="RAS")


@pytest.mark.parametrize("codes", ["RAX", "RA", "RRS"])
def test_wrong_orientations_are_refused(codes):
    with pytest.raises(ConfigError, match="axis codes"):
        plan([info()], orientation=codes)


def test_segmentation_trains_on_whole_small_images():
    made = plan([info((30, 32, 20)), info((36, 30, 21))], "mask", SPEC_16)
    assert made.size is None
    assert made.patch_size == made.min_size == (48, 32, 32)
    assert not made.notes


def test_segmentation_trains_on_patches_of_large_images():
    made = plan([info((512, 512, 100))], "mask", SPEC_16)
    assert all(p % 16 == 0 for p in made.patch_size)
    assert 0.5 * 96**3 < np.prod(made.patch_size) <= 96**3
    assert max(made.patch_size) <= 112
    assert "patches" in made.notes[0]
    flat = plan([info((512, 512, 16))], "mask", SPEC_16)
    assert flat.patch_size[2] == 16
    assert flat.patch_size[0] >= 224


def test_segmentation_patches_as_asked():
    assert plan([info()], "mask", SPEC_16, patch_size="none").patch_size is None
    assert plan([info()], "mask", SPEC_16, patch_size=[16, 32, 16]).patch_size == (16, 32, 16)
    assert plan([info()], "mask", InputSpec(spatial_dims=3, size=(24, 24, 24))).min_size == (24, 24, 24)
    fixed = plan([info()], "mask", SPEC_16, size=[32, 32, 32])
    assert fixed.size == fixed.patch_size == (32, 32, 32)


def test_json_round_trip():
    made = plan([info(modality="CT", unit="HU")], "mask", SPEC_16, clip=[-100, 300], on_gap="interpolate")
    again = Preprocessing.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert hash(again) == hash(made)
    with pytest.raises(RunError, match="not understood"):
        Preprocessing.from_json({**made.to_json(), "colour": "red"})


def run(volume, kind="class", spec=SPEC, **config):
    return plan_preprocessing(spec, PreprocessingConfig(**config), kind, [ImageInfo.of(volume)])


def test_the_image_is_normalised_before_it_is_padded():
    volume = volume_of(noise(1, (10, 11, 12)))
    made = run(volume, spec=SPEC_16)
    image = made.image(volume)
    assert tuple(image.shape) == (1, 16, 16, 16)
    assert image.is_contiguous()
    inner = image[0, 3:13, 3:14, 2:14].numpy()
    z = (noise(1, (10, 11, 12)) - noise(1, (10, 11, 12)).mean()) / noise(1, (10, 11, 12)).std()
    np.testing.assert_allclose(inner, z, atol=1e-4)
    assert image[0, 0, 0, 0] == pytest.approx(z.min(), abs=1e-4)


def test_the_volume_is_left_as_it_was():
    volume = volume_of(noise(1))
    before = volume.array.copy()
    run(volume, clip=[90, 110]).image(volume)
    assert np.array_equal(volume.array, before)


@pytest.mark.parametrize(
    ("config", "padding"),
    [
        ({"clip": [50, 150], "normalise": "none"}, 50),
        ({"normalise": "minmax"}, 0),
        ({"normalise": "none"}, noise(1).min()),
        ({"normalise": "zscore-nonzero"}, 0),
    ],
)
def test_padding_is_the_background(config, padding):
    volume = volume_of(noise(1))
    made, background = run(volume, spec=SPEC_16, **config).image_and_background(volume)
    assert made[0, 0, 0, 0].item() == pytest.approx(padding, rel=1e-5)
    assert background == (pytest.approx(padding, rel=1e-5),)


def test_zscore_over_voxels_that_are_not_zero():
    array = noise(1)
    array[:4] = 0
    image = run(volume_of(array), normalise="zscore-nonzero").image(volume_of(array))[0].numpy()
    assert (image[:4] == 0).all()
    assert image[4:].mean() == pytest.approx(0, abs=1e-4)
    assert image[4:].std() == pytest.approx(1, abs=1e-3)


def test_percentiles_and_fixed():
    array = noise(1)
    array[0, 0, 0] = 1e6
    image = run(volume_of(array), clip_percentiles=[1, 99], normalise="minmax").image(volume_of(array))
    assert image.min() == 0
    assert image.max() == 1
    assert 0.3 < image.mean() < 0.7
    spec = InputSpec(spatial_dims=3, intensity=Intensity(normalise="fixed", mean=(100.0,), std=(20.0,)))
    image = run(volume_of(noise(1)), spec=spec).image(volume_of(noise(1)))
    np.testing.assert_allclose(image[0].numpy(), (noise(1) - 100) / 20, atol=1e-5)


@pytest.mark.parametrize("normalise", ["zscore", "zscore-nonzero", "minmax", "none"])
def test_a_constant_image_is_refused_by_name(normalise):
    made = run(volume_of(noise(1)), normalise=normalise)
    with pytest.raises(DataError, match="case 12: the image is constant: every voxel is 5"):
        made.image(volume_of(np.full((8, 9, 7), 5.0)), where="case 12")


def test_an_image_that_clipping_empties_is_refused():
    made = run(volume_of(noise(1)), clip=[1000, 2000])
    with pytest.raises(DataError, match="constant after clipping"):
        made.image(volume_of(noise(1)))


def test_what_does_not_fit_the_run_is_refused():
    made = run(volume_of(noise(1) - 1000, modality="CT", unit="HU"))
    fits = volume_of(noise(2) - 1000, modality="CT", unit="HU")
    assert made.image(fits).std() > 0
    for volume, says in [
        (fits.replace(modality="MR"), "modality is MR, and CT"),
        (fits.replace(unit="BQML"), "in BQML, and HU"),
        (volume_of(noise(2)), "does not tell its unit"),
        (volume_of(np.stack([noise(2)] * 3)), "3 channels"),
        (volume_of(noise(2, (8, 9, 1))), "single slice"),
    ]:
        with pytest.raises(DataError, match=f"case 7: .*{says}"):
            made.image(volume, where="case 7")
    # A NIfTI image that reaches down to air passes for Hounsfield units.
    assert made.image(volume_of(noise(2) - 1000)).std() > 0


def test_other_spacing_and_orientation_come_to_the_same_grid():
    volume = volume_of(noise(1, (16, 16, 16)), affine_of(np.eye(3)))
    made = run(volume)
    other = volume_of(noise(1, (32, 16, 8)), affine_of(rotation(0, 0, 180), (0.5, 1, 2)))
    assert made.image(other).shape == (1, 16, 16, 16)
    assert made.lost(other) == 0
    assert made.lost(volume_of(noise(1, (32, 16, 16)))) == 0.5


def test_channels_are_repeated():
    rigid = InputSpec(spatial_dims=3, channels=("r", "g", "b"), variable_channels=False)
    volume = volume_of(noise(1))
    image, background = run(volume, spec=rigid).image_and_background(volume)
    assert image.shape == (3, 8, 9, 7)
    assert (image[0] == image[2]).all()
    assert len(background) == 3


def test_colour_images_are_normalised_by_channel():
    array = np.stack([noise(1), noise(2) * 3, noise(3) + 7])
    image = run(volume_of(array)).image(volume_of(array))
    np.testing.assert_allclose(image.mean(dim=(1, 2, 3)), 0, atol=1e-4)


def test_flat_images_come_rows_first():
    array = noise(1, (12, 10, 1))
    volume = volume_of(array)
    image = run(volume, spec=InputSpec(spatial_dims=2), normalise="none").image(volume)
    assert np.array_equal(image[0].numpy(), array[:, :, 0].T)


def test_flat_images_keep_their_proportions():
    array = np.zeros((100, 50, 1), np.float32)
    array[40:60, 15:35] = 1  # a square
    volume = volume_of(array, spacing_known=False)
    made = run(volume, spec=SPEC_2D, size=[24, 24], normalise="none")
    image = made.image(volume)[0]
    assert image.shape == (24, 24)
    assert (image > 0.5).any(dim=0).sum() == pytest.approx((image > 0.5).any(dim=1).sum(), abs=1)
    assert (image[:6] == 0).all()
    small = made.image(volume_of(array[40:60, 15:45], spacing_known=False))[0]
    assert (small > 0.5).float().mean() > 0.3


def test_unknown_spacing_is_refused_where_spacing_is_needed():
    volume = volume_of(noise(1, (12, 10, 1)), spacing_known=False)
    made = run(volume_of(noise(1, (12, 10, 1))), spec=SPEC_2D, spacing_mm=[1, 1])
    with pytest.raises(DataError, match="pixel spacing"):
        made.image(volume)

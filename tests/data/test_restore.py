"""There and back: masks through preprocessing and its inverse, on every kind of grid."""

import numpy as np
import pytest
import torch
from helpers_data import affine_of, ball, noise, rotation, volume_of
from torch.nn.functional import one_hot

from medtl_monai.config import PreprocessingConfig
from medtl_monai.data.preprocessing import ImageInfo, plan_preprocessing
from medtl_monai.specs import InputSpec

SPEC = InputSpec(spatial_dims=3, divisible_by=(8, 8, 8))


def there_and_back(labels, affine, spec=SPEC, classes=3, **config):
    volume = volume_of(noise(0, labels.shape), affine)
    plan = plan_preprocessing(spec, PreprocessingConfig(**config), "mask", [ImageInfo.of(volume)])
    image, mask = plan.pair(volume, labels)
    assert image.shape[1:] == mask.shape
    assert mask.dtype == torch.int16
    probabilities = one_hot(mask.long(), classes).movedim(-1, 0).float()
    restored = plan.restore(probabilities, volume)
    assert restored.shape == (classes, *labels.shape)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored.sum(axis=0), 1, atol=1e-4)
    return restored.argmax(axis=0), mask.numpy(), plan, volume


def dice(a, b, value):
    return 2 * ((a == value) & (b == value)).sum() / ((a == value).sum() + (b == value).sum())


AFFINES = {
    "plain": affine_of(np.eye(3)),
    "flipped": affine_of(np.diag([-1.0, 1, -1]), (1, 2, 3)),
    "turned": affine_of(np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]), (0.7, 1.3, 4)),
    "oblique": affine_of(rotation(12, -25, 33), (0.8, 0.8, 3)),
}


@pytest.mark.parametrize("name", AFFINES)
def test_exact_without_resampling(name):
    labels = np.random.default_rng(0).integers(0, 3, (19, 22, 9)).astype(np.int16)
    back, mask, plan, _ = there_and_back(labels, AFFINES[name])
    assert np.array_equal(back, labels)
    assert all(n % 8 == 0 for n in mask.shape)
    assert sorted(np.bincount(mask.ravel())[1:]) == sorted(np.bincount(labels.ravel())[1:])
    assert plan.spacing_mm == pytest.approx(plan.grid(volume_of(noise(0, labels.shape), AFFINES[name])).spacing_mm)


@pytest.mark.parametrize("name", AFFINES)
def test_near_with_resampling(name):
    affine = AFFINES[name]
    step = np.linalg.norm(affine[:3, :3], axis=0)
    shape = tuple(int(n) for n in np.round(40 / step))
    labels = ball(shape, affine, 14)
    back, mask, _, _ = there_and_back(labels, affine, spacing_mm=[1.1, 0.9, 1.0])
    assert set(np.unique(mask)) == {0, 1, 2}
    assert not np.array_equal(mask.shape, labels.shape)
    for value in (1, 2):
        assert dice(back, labels, value) >= 0.95


def test_mask_and_image_are_on_one_grid():
    """The image is the labels: whatever happens to one must happen to the other."""
    affine = AFFINES["oblique"]
    labels = ball((40, 42, 12), affine, 12)
    volume = volume_of(labels.astype(np.float32), affine)
    config = PreprocessingConfig(spacing_mm=[1, 1, 1], normalise="none")
    plan = plan_preprocessing(SPEC, config, "mask", [ImageInfo.of(volume)])
    image, mask = plan.pair(volume, labels)
    far = (image[0] - image[0].round()).abs() < 1e-3
    assert (image[0].round() == mask)[far].float().mean() > 0.99
    assert (mask > 0).sum() > 1000


def test_sheared_volumes_are_resampled_and_come_back():
    affine = affine_of(np.eye(3), (1, 1, 2))
    affine[1, 2] = 0.7
    labels = ball((30, 34, 18), affine, 10)
    back, _, plan, volume = there_and_back(labels, affine)
    assert volume.geometry == "sheared"
    assert not plan.grid(volume).sheared
    for value in (1, 2):
        assert dice(back, labels, value) >= 0.9


def test_cropped_voxels_are_background():
    labels = np.ones((30, 30, 30), np.int16)
    back, mask, _, _ = there_and_back(labels, np.eye(4), classes=2, size=[16, 16, 16])
    assert mask.shape == (16, 16, 16)
    assert (back[7:23, 7:23, 7:23] == 1).all()
    assert back.sum() == 16**3


def test_two_dimensions():
    spec = InputSpec(spatial_dims=2, divisible_by=(8, 8))
    labels = np.random.default_rng(0).integers(0, 3, (19, 22, 1)).astype(np.int16)
    back, mask, _, _ = there_and_back(labels, affine_of(np.eye(3), (0.5, 0.5, 1)), spec)
    assert mask.shape == (24, 24)
    assert np.array_equal(back, labels)


def test_probabilities_of_another_image_are_refused():
    volume = volume_of(noise(0))
    plan = plan_preprocessing(SPEC, PreprocessingConfig(), "mask", [ImageInfo.of(volume)])
    with pytest.raises(ValueError, match="size"):
        plan.restore(torch.zeros(2, 8, 8, 8), volume)

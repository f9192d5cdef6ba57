import numpy as np
import pytest
import torch
from helpers_data import ball, noise

from medtl_monai.config import AugmentationConfig
from medtl_monai.data.augmentation import augmentation
from medtl_monai.errors import ConfigError

OFF = {"rotate_deg": 0, "scale": 0, "translate": 0, "intensity": 0, "noise": 0}


def make(kind="mask", dims=3, spacing_mm=None, **config):
    return augmentation(AugmentationConfig(**{**OFF, **config}), kind, dims, spacing_mm=spacing_mm)


def data(shape=(24, 26, 22)):
    labels = torch.from_numpy(ball(shape, np.eye(4), 8))
    return {"image": labels[None].float() * 10 + torch.from_numpy(noise(0, shape))[None] / 100, "mask": labels[None]}


def test_off_with_one_flag_or_all_ranges_zero():
    assert augmentation(AugmentationConfig(enabled=False), "mask", 3) is None
    assert make() is None


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["mask", "class"])
def test_the_seed_decides_everything(dims, kind):
    augment = augmentation(AugmentationConfig(flip_axes=[0]), kind, dims)
    shape = (24, 26, 22)[:dims]
    sample = {"image": torch.from_numpy(noise(0, shape))[None]}
    if kind == "mask":
        sample["mask"] = (sample["image"] > 100).to(torch.int16)
    first, second, other = (augment.set_random_state(seed)(dict(sample)) for seed in (1, 1, 2))
    assert torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], other["image"])
    for name, value in first.items():
        assert type(value) is torch.Tensor
        assert value.dtype == sample[name].dtype
        assert value.shape == sample[name].shape


def test_mask_and_image_move_together():
    augment = make(rotate_deg=20, scale=0.2, translate=0.1, flip_axes=[0, 1])
    moved = 0
    for seed in range(8):
        sample = data()
        out = augment.set_random_state(seed)(dict(sample))
        assert set(out["mask"].unique().tolist()) <= {0, 1, 2}
        agreement = ((out["image"] / 10).round().clamp(0, 2) == out["mask"]).float().mean()
        assert agreement > 0.95
        moved += not torch.equal(out["mask"], sample["mask"])
    assert moved >= 6


def test_the_input_is_left_as_it_was():
    sample = data()
    before = {k: v.clone() for k, v in sample.items()}
    augmentation(AugmentationConfig(), "mask", 3).set_random_state(0)(sample)
    assert all(torch.equal(sample[k], before[k]) for k in before)


def test_rotation_keeps_shapes_in_flat_voxels():
    """A ball in millimetres stays a ball; rotating voxels as if they were cubes would stretch it."""
    spacing = (1.0, 1.0, 4.0)
    labels = ball((40, 40, 10), np.diag([*spacing, 1.0]), 12) > 0
    sample = {"image": torch.from_numpy(labels)[None].float()}
    turned = []
    for seed in range(12):
        right = make("class", rotate_deg=45, spacing_mm=spacing).set_random_state(seed)(dict(sample))["image"]
        wrong = make("class", rotate_deg=45).set_random_state(seed)(dict(sample))["image"]
        turned.append([(right - sample["image"]).abs().sum().item(), (wrong - sample["image"]).abs().sum().item()])
    right, wrong = np.array(turned).mean(axis=0)
    assert right < 0.4 * wrong
    assert right < 0.2 * labels.sum()


def test_translation_and_scale_stay_in_range():
    sample = {"image": torch.zeros(1, 41, 41, 41)}
    sample["image"][0, 20, 20, 20] = 100
    places = []
    for seed in range(30):
        out = make("class", translate=0.1).set_random_state(seed)(dict(sample))["image"][0]
        places.append(np.array(np.unravel_index(int(out.argmax()), out.shape)) - 20)
    assert np.abs(places).max() <= 5
    assert np.abs(places).max() >= 2
    cube = {"image": torch.zeros(1, 40, 40, 40)}
    cube["image"][0, 10:30, 10:30, 10:30] = 1
    sizes = [make("class", scale=0.2).set_random_state(s)(dict(cube))["image"].sum() ** (1 / 3) for s in range(20)]
    assert 15.5 < min(sizes) < 19
    assert 21 < max(sizes) < 24.5


def test_intensity_and_noise_leave_the_mask_alone():
    augment = make(intensity=0.2, noise=0.1)
    sample = data()
    changed = [augment.set_random_state(seed)(dict(sample)) for seed in range(6)]
    assert all(torch.equal(out["mask"], sample["mask"]) for out in changed)
    assert sum(not torch.equal(out["image"], sample["image"]) for out in changed) >= 4
    assert all((out["image"] - sample["image"]).std() < 3 for out in changed)


def test_flip_axes_are_checked():
    with pytest.raises(ConfigError, match="0 to 1"):
        make(dims=2, flip_axes=[2])

"""Features on disk come back as they were, under names that only equal voxels and equal making have."""

import shutil

import pytest
import torch
from helpers_cache import open_cache

from medtl_monai.data.cache.places import ENTRIES


@pytest.fixture
def features(tmp_path):
    return open_cache(tmp_path / "cache").features()


TENSORS = {
    "state": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "tap1": torch.randn(2, 2, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "target": torch.arange(8, dtype=torch.int16).reshape(2, 4),
}


def test_what_is_stored_comes_back(features):
    key = features.key(torch.ones(1, 2, 2), "made")
    assert features.find(key) is None
    assert features.put(key, TENSORS)
    found = features.find(key)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    found["state"] += 1
    assert torch.equal(features.find(key)["state"], TENSORS["state"]), "what is given out is a copy"


def test_names():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        features = open_cache(Path(folder) / "cache").features()
        image = torch.zeros(1, 2, 3)
        names = {
            features.key(image, "made"),
            features.key(image, "made otherwise"),
            features.key(image + 1e-7, "made"),
            features.key(image.reshape(1, 3, 2), "made"),
        }
        assert len(names) == 4
        assert features.key(image.clone(), "made") in names
        assert all(len(name) == 40 for name in names)


def test_damage_is_a_miss(features, tmp_path):
    key = features.key(torch.ones(1, 2, 2), "made")
    assert features.put(key, TENSORS)
    file = tmp_path / "cache" / ENTRIES / key / "state.npy"
    file.write_bytes(file.read_bytes()[:-4])
    assert features.find(key) is None


def test_what_another_run_pushed_out_is_a_miss(features, tmp_path):
    key = features.key(torch.ones(1, 2, 2), "made")
    assert features.put(key, TENSORS)
    shutil.rmtree(tmp_path / "cache" / ENTRIES / key)
    assert features.find(key) is None

"""Features that vanish from disk while training runs are made again, the same."""

import shutil

import pytest
import torch
from helpers_cache import classes, open_cache
from helpers_transfer import TinyBackbone, TinyHead, randomise

from medtl_monai.config import DataConfig, PreprocessingConfig
from medtl_monai.data.cache.places import ENTRIES
from medtl_monai.data.cases import load_cases
from medtl_monai.data.dataset import CaseDataset, Draw, collate
from medtl_monai.data.preprocessing import image_info, plan_preprocessing
from medtl_monai.specs import FROZEN, InputSpec
from medtl_monai.training.features import Disk, Features, Maker
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.packing import Packing


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_ID_KEY", "k" * 32)
    table = load_cases(DataConfig(labels=classes(tmp_path / "study"), target=["y"]), "class")
    infos = [image_info(table, case) for case in table]
    plan = plan_preprocessing(InputSpec(spatial_dims=3), PreprocessingConfig(size=[8, 8, 8]), "class", infos)
    return CaseDataset(table, table.ids, plan)


@pytest.fixture
def maker():
    torch.manual_seed(0)
    net = randomise(TransferModel(TinyBackbone(dims=3), TinyHead()))
    net.set_rules({stage.name: FROZEN for stage in net.stages})
    packing = Packing.plan(4, stages=4, needed=frozenset({3}), shared=True)
    return Maker(model=net, packing=packing, device=torch.device("cpu"), channels_last=False)


DRAWS = [Draw(n) for n in range(4)]


def online(dataset, maker, draws):
    return maker.model.features(collate([dataset[draw] for draw in draws]))[-1]


@pytest.mark.parametrize("mapped", [False, True])
def test_batches_are_those_of_online_training(dataset, maker, tmp_path, mapped):
    disk = Disk(cache=open_cache(tmp_path / "cache").features(), made="x", mapped=mapped)
    features = Features(dataset, maker, batch_size=3, fixed=True, disk=disk)
    features.prepare(DRAWS)
    assert len(features) == 4
    order = [Draw(2, seed=7), Draw(0, seed=8)]
    batch, expected = features.batch(order), collate([dataset[draw] for draw in order])
    assert torch.equal(maker.model.features(batch)[-1], online(dataset, maker, order))
    assert torch.equal(batch.target, expected.target)
    assert batch.target.dtype == expected.target.dtype
    assert (batch.case_ids, batch.spatial_size) == (expected.case_ids, expected.spatial_size)
    assert batch.image.shape == expected.image.shape
    assert features.batch(DRAWS).prefix.taps[3].std() > 0


def test_what_vanishes_is_made_again(dataset, maker, tmp_path):
    disk = Disk(cache=open_cache(tmp_path / "cache").features(), made="x", mapped=True)
    features = Features(dataset, maker, batch_size=4, fixed=True, disk=disk)
    features.prepare(DRAWS)
    before = features.batch(DRAWS).prefix.taps[3]
    entries = tmp_path / "cache" / ENTRIES
    assert len(list(entries.iterdir())) == 4
    for entry in entries.iterdir():
        shutil.rmtree(entry)
    assert torch.equal(features.batch(DRAWS).prefix.taps[3], before)
    again = Features(dataset, maker, batch_size=4, fixed=True, disk=disk)
    again.prepare(DRAWS)
    assert again.found == 4


def test_each_item_is_made_once(dataset, maker):
    done = []
    features = Features(dataset, maker, batch_size=3, fixed=True)
    features.prepare([*DRAWS, *(Draw(n, seed=1) for n in range(2))], done.append)
    assert done == [1, 2, 3, 4]
    assert len(features) == 4

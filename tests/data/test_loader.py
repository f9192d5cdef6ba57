from collections import Counter

import pytest
import torch
from helpers_data import nifti_study

from medtl_monai.config import AugmentationConfig, DataConfig, PreprocessingConfig
from medtl_monai.data.augmentation import augmentation
from medtl_monai.data.cases import load_cases
from medtl_monai.data.dataset import CaseDataset
from medtl_monai.data.loader import EpochSampler, evaluation_loader, training_loader, view
from medtl_monai.data.preprocessing import image_info, plan_preprocessing
from medtl_monai.modules import Batch
from medtl_monai.specs import InputSpec


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTL_ID_KEY", "k" * 32)
        path = nifti_study(tmp_path_factory.mktemp("study"), [{"y": "ab"[n % 2]} for n in range(7)])
        table = load_cases(DataConfig(labels=path, target=["y"]), "class")
    plan = plan_preprocessing(
        InputSpec(spatial_dims=3), PreprocessingConfig(), "class", [image_info(table, c) for c in table]
    )
    return CaseDataset(table, table.ids, plan, augment=augmentation(AugmentationConfig(), "class", 3))


def epoch(loader, number):
    loader.batch_sampler.set_epoch(number)
    return list(loader)


def same(one, two):
    return len(one) == len(two) and all(
        a.case_ids == b.case_ids and torch.equal(a.image, b.image) and torch.equal(a.target, b.target)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(
    ("n", "size", "steps", "sizes"),
    [
        (7, 4, 1, [4, 3]),
        (9, 4, 1, [4, 5]),
        (8, 4, 5, [4, 4] * 3),
        (5, 4, 2, [5] * 2),
        (3, 4, 2, [3] * 2),
        (1, 4, 3, [1] * 3),
        (3, 1, 1, [1] * 3),
    ],
)
def test_steps_and_batch_sizes(n, size, steps, sizes):
    sampler = EpochSampler(n, size, steps)
    batches = list(sampler)
    assert [len(b) for b in batches] == sizes
    assert len(sampler) == len(sizes) >= steps
    uses = Counter(draw.case for batch in batches for draw in batch)
    assert set(uses) == set(range(n))
    assert len(set(uses.values())) == 1
    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)


def test_order_and_seeds_depend_on_seed_and_epoch():
    def draws(seed, epoch):
        sampler = EpochSampler(20, 4, 10, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draws(0, 0) == draws(0, 0)
    assert draws(0, 0) != draws(0, 1)
    assert draws(0, 0) != draws(1, 0)
    assert draws(-1, 0) != draws(1, 0)
    first = [d.case for b in draws(0, 0)[:5] for d in b]
    second = [d.case for b in draws(0, 0)[5:] for d in b]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


@pytest.mark.parametrize(("n", "size"), [(0, 1), (1, 0)])
def test_nothing_to_sample(n, size):
    with pytest.raises(ValueError, match="at least 1"):
        EpochSampler(n, size)


def test_batches_do_not_depend_on_workers_or_interruption(data):
    one = training_loader(data, batch_size=3, min_steps=4, seed=5)
    expected = {e: epoch(one, e) for e in range(3)}
    assert all(isinstance(b, Batch) for b in expected[0])
    assert len(expected[0]) == 4
    assert not same(expected[0], expected[1])
    resumed = training_loader(data, batch_size=3, min_steps=4, seed=5)
    assert same(epoch(resumed, 2), expected[2])
    two = training_loader(data, batch_size=3, min_steps=4, seed=5, workers=2)
    assert two.num_workers >= 1
    assert same(epoch(two, 1), expected[1])
    assert same(epoch(two, 2), expected[2])


def test_iterating_leaves_the_global_generator_alone(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    epoch(training_loader(data, batch_size=3), 0)
    list(evaluation_loader(data))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_in_order_and_plain(data):
    batches = list(evaluation_loader(data, batch_size=4))
    assert [len(b.case_ids) for b in batches] == [4, 3]
    assert tuple(i for b in batches for i in b.case_ids) == data.table.ids
    assert torch.equal(batches[0].image[2], data[2].image)
    assert same(batches, list(evaluation_loader(data, batch_size=4)))
    assert [len(b.case_ids) for b in evaluation_loader(data)] == [1] * 7


def test_workers_are_no_more_than_processors(data):
    assert training_loader(data, batch_size=2, workers=999).num_workers < 999


def test_views_are_the_same_in_every_epoch_that_shows_them():
    sampler = EpochSampler(5, 2, min_steps=6, seed=3)
    assert sampler.passes == 3

    def seeds(number, views=2):
        sampler.set_epoch(number, views)
        return [draw for batch in sampler for draw in batch]

    every = {draw for number in range(4) for draw in seeds(number)}
    assert every == {view(3, case, number) for case in range(5) for number in range(2)}
    assert len({draw.seed for draw in every}) == 10
    # Three passes an epoch, two views: the first epoch shows 0, 1, 0, the second 1, 0, 1.
    first, second = seeds(0), seeds(1)
    assert set(first[:5]) == set(first[10:]) == set(second[5:10])
    assert set(first[5:10]) == set(second[:5]) == set(second[10:])
    assert first[:5] != first[10:], "the order is another one"
    assert len(set(seeds(0, None))) == 15
    assert not every & set(seeds(0, None))
    assert [d.case for d in seeds(0, None)] == [d.case for d in first], "the order does not depend on views"

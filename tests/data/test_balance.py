"""Balanced draws: every class alike, cases in turn, a function of seed and epoch alone."""

from collections import Counter

import pytest
from helpers_data import table_of
from hypothesis import given, settings
from hypothesis import strategies as st

from medtl_monai.data.balance import BalancedOrder, strata_of
from medtl_monai.data.loader import EpochSampler
from medtl_monai.errors import ConfigError

STRATA = (tuple(range(20)), (20, 21, 22))


def cases_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return [draw.case for batch in sampler for draw in batch]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    batch=st.integers(1, 6),
    steps=st.integers(1, 12),
    seed=st.integers(-5, 5),
)
def test_classes_and_cases_are_even_over_a_whole_run(sizes, batch, steps, seed):
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    strata = tuple(tuple(range(a, a + n)) for a, n in zip(starts, sizes, strict=True))
    sampler = EpochSampler(sum(sizes), batch, steps, seed, strata=strata)
    natural = EpochSampler(sum(sizes), batch, steps, seed)
    drawn = []
    for epoch in range(4):
        mine = cases_of(sampler, epoch)
        assert len(mine) == len(cases_of(natural, epoch))
        drawn += mine
    of = {case: k for k, stratum in enumerate(strata) for case in stratum}
    classes = Counter(of[case] for case in drawn)
    assert max(classes.values()) - min(classes[k] for k in range(len(strata))) <= 1
    uses = Counter(drawn)
    for stratum in strata:
        assert max(uses[case] for case in stratum) - min(uses[case] for case in stratum) <= 1


def test_a_minority_is_drawn_as_often_as_the_majority():
    sampler = EpochSampler(23, 4, 12, 3, strata=STRATA)
    drawn = cases_of(sampler, 0)
    rare = sum(case >= 20 for case in drawn)
    assert abs(rare - len(drawn) / 2) <= 1
    assert sum(case >= 20 for case in cases_of(EpochSampler(23, 4, 12, 3), 0)) < len(drawn) / 4
    # Every batch of four has two of each.
    assert all(sum(d.case >= 20 for d in b) in (1, 2, 3) for b in sampler)
    assert drawn != cases_of(sampler, 1)


def test_any_epoch_can_be_looked_at_alone():
    one = EpochSampler(23, 4, 12, 3, strata=STRATA)
    in_turn = [cases_of(one, epoch) for epoch in range(6)]
    assert [cases_of(EpochSampler(23, 4, 12, 3, strata=STRATA), e) for e in (5, 0, 3)] == [
        in_turn[e] for e in (5, 0, 3)
    ]
    assert cases_of(EpochSampler(23, 4, 12, 4, strata=STRATA), 0) != in_turn[0]
    seeds = [draw.seed for batch in one for draw in batch]
    assert len(set(seeds)) == len(seeds)


def test_strata_of_classes_and_labels():
    table = table_of([f"g{n}" for n in range(5)], [0, 1, 0, 0, 1])
    assert strata_of(table.cases, table) == ((0, 2, 3), (1, 4))
    assert strata_of(table.cases[:1], table) == ((0,),)
    labels = table_of(
        [f"g{n}" for n in range(4)], [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (float("nan"), 0.0)], kind="classes"
    )
    assert strata_of(labels.cases, labels) == ((0,), (0, 2), (1, 3))


@pytest.mark.parametrize(("kind", "why"), [("mask", "patches already are"), ("number", "no classes")])
def test_other_targets_have_no_classes(kind, why):
    table = table_of(["a", "b"], [(1.0,), (2.0,)], kind=kind)
    with pytest.raises(ConfigError, match=why):
        strata_of(table.cases, table)


def test_a_stratum_without_cases_is_a_mistake():
    with pytest.raises(ValueError, match="needs a case"):
        BalancedOrder(((0,), ()), 0)

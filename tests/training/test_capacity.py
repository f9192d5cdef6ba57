"""Threads and loading processes: what is chosen for which measurements."""

import time

import pytest
import torch

from medtl_monai.training import capacity


@pytest.mark.parametrize(("most", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_candidates_are_powers_of_two_and_the_most(most, expected):
    assert capacity.thread_candidates(most) == expected


def test_the_default_stays_unless_another_is_clearly_faster():
    assert capacity.fewest({1: 0.97, 2: 1.0}, 2) == 2
    assert capacity.fewest({1: 0.9, 2: 1.0}, 2) == 1
    # Beside a busy process two threads that wait for one another are slower than one.
    assert capacity.fewest({1: 1.0, 2: 3.5}, 2) == 1
    assert capacity.fewest({1: 0.5, 2: 0.5, 4: 1.0}, 4) == 1


def test_each_candidate_is_measured_with_its_own_threads():
    before, seen = torch.get_num_threads(), []

    def step():
        seen.append(torch.get_num_threads())
        time.sleep(0.002 * seen[-1])

    found = capacity.thread_seconds(step, (1, 2), repeats=3, seconds=60)
    assert seen == [1, 2] * 4
    assert found[1] < found[2]
    assert torch.get_num_threads() == before
    seen.clear()
    capacity.thread_seconds(step, (1, 2), repeats=3, seconds=0)
    assert seen == [1, 2] * 2  # one round warms up, one is measured
    with pytest.raises(ValueError, match="broken"):
        capacity.thread_seconds(broken, (1, 2), repeats=1, seconds=0)
    assert torch.get_num_threads() == before


def broken():
    raise ValueError("broken")


def test_processes_load_only_where_that_pays():
    def plan(seconds, data, **more):
        options = {"threads": 2, "limit": 2, "apart": False}
        return capacity.plan_workers(seconds, data, **(options | more))

    assert plan({1: 1.0, 2: 0.6}, 0.01) == (2, 0), "from memory, loading is negligible"
    assert plan({1: 1.0, 2: 0.6}, 0.2) == (2, 0), "a thread is worth more than a loading process"
    assert plan({1: 1.0, 2: 0.9}, 0.8) == (1, 1), "a loading process is worth more than a thread"
    assert plan({1: 1.0, 2: 0.6}, 0.6, limit=1) == (2, 0), "there is no core left"
    assert plan({8: 0.1}, 0.25, threads=8, limit=8, apart=True) == (8, 3), "beside a GPU: as many as keep up"
    assert plan({8: 0.1}, 0.25, threads=8, limit=2, apart=True) == (8, 1)

import math

import pytest

from medtl_monai.transfer.lr import ramp, schedule_factor


def test_cosine_falls_from_one_towards_zero():
    values = [schedule_factor("cosine", step, 10) for step in range(10)]
    assert values == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert values[0] == 1
    assert values[-1] > 0


def test_poly_and_constant():
    assert schedule_factor("poly", 5, 10) == pytest.approx(0.5**0.9)
    assert {schedule_factor("constant", step, 10) for step in range(10)} == {1.0}


def test_warmup_rises_then_the_schedule_follows():
    values = [schedule_factor("cosine", step, 20, warmup=0.2) for step in range(20)]
    assert values[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert values[4:] == pytest.approx([schedule_factor("cosine", step, 16) for step in range(16)])


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
def test_positive_at_every_step(schedule):
    assert all(0 < schedule_factor(schedule, step, 7, warmup=0.3) <= 1 for step in range(7))


def test_outside_the_run_and_unknown():
    with pytest.raises(ValueError, match="not one of 5"):
        schedule_factor("cosine", 5, 5)
    with pytest.raises(ValueError, match="unknown schedule"):
        schedule_factor("step", 0, 5)


def test_ramp():
    assert [ramp(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert ramp(0, 0) == 1

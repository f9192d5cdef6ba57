import math

import numpy as np
import pytest

from medtl_monai.evaluation.statistics import interval


def _mean(values):
    return lambda chosen: float(values[chosen].mean())


def test_the_interval_covers_the_mean_and_shrinks_with_more_patients():
    rng = np.random.default_rng(0)
    small, large = rng.normal(1, 1, 20), rng.normal(1, 1, 500)
    narrow = interval(_mean(large), [str(i) for i in range(500)])
    wide = interval(_mean(small), [str(i) for i in range(20)])
    assert narrow is not None
    assert wide is not None
    assert narrow.low < 1 < narrow.high
    assert 0 < narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    # The textbook standard error, within a fifth.
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * large.std() / math.sqrt(500), rel=0.2)


def test_images_of_one_patient_are_not_independent():
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(0, 1, 20), 10)
    by_patient = interval(_mean(values), [str(i // 10) for i in range(200)])
    by_image = interval(_mean(values), [str(i) for i in range(200)])
    assert by_patient is not None
    assert by_image is not None
    assert by_patient.high - by_patient.low > 2 * (by_image.high - by_image.low)


def test_too_few_patients_have_no_interval():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert interval(_mean(values), ["a", "b", "c", "d"]) is None
    assert interval(_mean(values), ["a", "a", "a", "a"]) is None


def test_undefined_resamples_fall_back_to_percentiles():
    labels = np.array([0, 1] * 15)
    values = np.linspace(0, 1, 30)

    def statistic(chosen):
        # Undefined when the resample holds one class only, as an AUC is.
        return float(values[chosen].mean()) if 0 < labels[chosen].mean() < 1 else math.nan

    result = interval(statistic, [str(i) for i in range(30)])
    assert result is not None
    assert 0.3 < result.low < 0.5 < result.high < 0.7


def test_an_undefined_statistic_has_no_interval():
    assert interval(lambda _: math.nan, [str(i) for i in range(10)]) is None


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(2).normal(0, 1, 30)
    groups = [str(i) for i in range(30)]
    assert interval(_mean(values), groups) == interval(_mean(values), groups)
    assert interval(_mean(values), groups) != interval(_mean(values), groups, seed=1)


def test_a_statistic_that_is_the_same_in_every_resample_has_no_interval():
    groups = [str(i) for i in range(8)]
    everything_right = np.ones(8)
    assert interval(_mean(everything_right), groups) is None
    assert interval(_mean(np.array([0, *everything_right[1:]])), groups) is not None

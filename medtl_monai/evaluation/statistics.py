"""Confidence intervals that respect that images of one patient are not independent."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

MIN_GROUPS = 5
"""Below this many patients no interval is given: it would pretend to knowledge that is not there."""

_MIN_FINITE = 0.95

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


def interval(
    statistic: Callable[[Indices], float],
    groups: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 999,
    seed: int = 0,
) -> Interval | None:
    """Return a bootstrap interval of a statistic, resampling patients and not images.

    The bias-corrected accelerated bootstrap (Efron 1987) through scipy; where some resamples have no value (an AUC
    without one class), the percentiles of those that have.

    Args:
        statistic: Maps indices into the cases (with repeats) to a number.
        groups: The patient (or other group) of each case.
        level: Confidence level.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The interval; None with fewer than :data:`MIN_GROUPS` groups, where too few resamples have a value, or where all
        have the same one (every case right, or none): the bootstrap then knows nothing of the spread, and an interval
        of no width would claim certainty.
    """
    names = sorted(set(groups))
    if len(names) < MIN_GROUPS:
        return None
    members = [np.flatnonzero(np.asarray(groups) == name) for name in names]

    def of_groups(chosen: Indices) -> float:
        return statistic(np.concatenate([members[int(g)] for g in chosen]))

    everything = np.arange(len(names))
    if not np.isfinite(of_groups(everything)):
        return None
    with warnings.catch_warnings():
        # scipy warns where the statistic is constant or undefined; both are handled below.
        warnings.simplefilter("ignore", (RuntimeWarning, stats.DegenerateDataWarning))
        result = stats.bootstrap(
            (everything,),
            of_groups,
            vectorized=False,
            n_resamples=resamples,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    finite = result.bootstrap_distribution[np.isfinite(result.bootstrap_distribution)]
    if finite.size < _MIN_FINITE * resamples or np.ptp(finite) == 0:
        return None
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if np.isfinite(low) and np.isfinite(high):
        return Interval(low, high)
    tail = 50 * (1 - level)
    return Interval(float(np.percentile(finite, tail)), float(np.percentile(finite, 100 - tail)))

"""Extrapolation in the benchmark of frozen layers counts phases as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
try:
    import probe_speed
finally:
    sys.path.pop(0)


def test_phases_are_runs_of_equal_boundaries():
    assert probe_speed.phases([5, 5, 4, 4, 4, 0]) == [(0, 2), (2, 3), (5, 1)]
    assert probe_speed.phases([5]) == [(0, 1)]


def test_the_first_epoch_of_a_phase_counts_once_and_the_median_for_the_rest():
    seconds = [10.0, 1.0, 3.0, 20.0, 2.0, 2.0]
    spans = [(0, 3), (3, 3)]
    assert probe_speed.extrapolate(seconds, spans, [25, 25]) == pytest.approx(10 + 24 * 2 + 20 + 24 * 2)
    assert probe_speed.extrapolate([4.0], [(0, 1)], [50]) == pytest.approx(200)

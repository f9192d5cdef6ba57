"""Series with gaps, cut into runs of slices at equal distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import Recipe, misplacement

from medtl_monai.dicom import read_volume, read_volumes, scan
from medtl_monai.dicom.runs import equal_runs
from medtl_monai.dicom.select import Rules
from medtl_monai.dicom.volume import refusal
from medtl_monai.errors import ConfigError, DicomError
from medtl_monai.notices import listening


@pytest.mark.parametrize(
    ("steps", "runs"),
    [
        ([3, 3, 3], [(0, 3)]),
        ([3, 6, 3], [(0, 1), (2, 3)]),
        ([6, 3, 3], [(1, 3)]),
        ([3, 3, 6], [(0, 2)]),
        ([3, 6, 6, 3], [(0, 1), (3, 4)]),
        ([3, 3, 6, 6, 3, 3, 3], [(0, 2), (4, 7)]),
        ([1, 1, 1, 3, 3, 3], [(0, 3), (4, 6)]),
        ([3, 3, 1, 1, 1, 1], [(2, 6)]),
        ([3, 3, 3, 1, 1, 1], [(0, 2), (3, 6)]),
        ([5, 5, 5, 5.4, 5, 5], [(0, 3), (4, 6)]),
        ([3, 3.02, 3.01, 9, 3, 3.01], [(0, 3), (4, 6)]),
        ([3], [(0, 1)]),
        ([1, 2, 4, 8], [(0, 1)]),
        ([100.0] * 300 + [1], [(0, 299), (300, 301)]),
    ],
)
def test_equal_runs(steps: list[float], runs: list[tuple[int, int]]) -> None:
    assert equal_runs(steps) == runs


def test_every_run_is_regular_and_none_overlap() -> None:
    random = np.random.default_rng(3)
    found = 0
    for _ in range(300):
        steps = [float(s) for s in random.choice([1.0, 1.005, 2.0, 3.3], random.integers(1, 12))]
        runs = equal_runs(steps)
        last = -1
        for start, end in runs:
            assert last < start < end <= len(steps)
            assert max(steps[start:end]) - min(steps[start:end]) <= 0.01 * min(steps[start:end]) + 1e-9
            last = end
        found += len(runs)
    assert found > 300


def test_a_series_of_a_scan(tmp_path: Path) -> None:
    recipe = Recipe(slices=10, keep=[0, 1, 2, 3, 5, 6, 7, 8, 9]).write(tmp_path)
    (series,) = scan(tmp_path).series
    first, second = read_volumes(series, on_gap="split")
    assert (first.shape[2], second.shape[2]) == (4, 5)
    assert misplacement_of(second, recipe, 5) < 2e-3
    with pytest.raises(DicomError, match=r"2 series fit: \(1\) MR 7×5×5.*run 2 of 2.*run 1 of 2.*select"):
        read_volume(series, on_gap="split")
    longest = read_volume(series, on_gap="split", select={"run": "longest"})
    assert np.array_equal(longest.array, second.array)
    assert "slices 5 to 9 of the 9 of a series with gaps" in longest.notes


def misplacement_of(volume, recipe: Recipe, first: int) -> float:
    rest = Recipe(
        slices=volume.shape[2], origin=tuple(recipe.position(first)), offset=recipe.columns * recipe.rows * first
    )
    return misplacement(volume.array, volume.affine, rest)


def test_short_runs_give_way_to_min_slices(tmp_path: Path) -> None:
    Recipe(slices=10, keep=[0, 1, 4, 5, 6, 7, 8, 9]).write(tmp_path)
    volume = read_volume(tmp_path, on_gap="split", select={"min_slices": 3})
    assert volume.shape[2] == 6
    assert "other series left out: 1 (fewer slices than min_slices)" in volume.notes


def test_lone_slices_are_named_to_who_listens(tmp_path: Path) -> None:
    recipe = Recipe(slices=9, keep=[0, 1, 2, 4, 6, 7, 8]).write(tmp_path)
    told: list[str] = []
    with listening(told.append):
        assert len(read_volumes(tmp_path, on_gap="split")) == 2
    assert f"{recipe.name(4)} between gaps left out" in told


def test_uneven_slices_without_neighbours(tmp_path: Path) -> None:
    heights = [0, 3, 7, 13, 22]

    def edit(ds, k):
        ds.ImagePositionPatient[2] = 42.0 + heights[k]

    Recipe(slices=5, edit=edit).write(tmp_path)
    volume = read_volume(tmp_path, on_gap="split")
    assert volume.shape[2] == 2
    assert "3 slice(s) between gaps left out" in volume.notes


def test_refusal_speaks_of_runs(tmp_path: Path) -> None:
    Recipe(slices=10, keep=[0, 1, 2, 3, 5, 6, 7, 8, 9]).write(tmp_path)
    (series,) = scan(tmp_path).series
    assert "2 series fit" in refusal(series, on_gap="split")
    assert "1 slice(s) missing" in refusal(series)
    assert refusal(series, on_gap="split", select={"run": 1}) == ""
    assert refusal(series, on_gap="interpolate") == ""


@pytest.mark.parametrize("run", [0, -1, "shortest", True, 1.5])
def test_impossible_runs(run: object) -> None:
    with pytest.raises(ConfigError, match=r"select\.run"):
        Rules.of({"run": run})

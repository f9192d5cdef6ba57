"""A series with gaps as several volumes: runs of slices at equal distances."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from medtl_monai.dicom import stack
from medtl_monai.dicom.select import Rules, choose
from medtl_monai.dicom.series import Series
from medtl_monai.dicom.stack import POSITION_TOLERANCE, SPACING_TOLERANCE, Stack
from medtl_monai.errors import DicomError, rebuild
from medtl_monai.notices import tell


def split_at_gaps(series: Series, rules: Rules) -> list[Series]:
    """Return the runs of a series with gaps, in order along the normal; a series without one as it is.

    A run has at least two slices, all at one distance. As many slices as possible go into runs at the smallest
    distance of the series, then as many as possible into others, then as few runs as possible are made. Two slices
    alone make a run only at the smallest distance: at any other, they are as well the two sides of a gap.

    Args:
        series: A candidate volume.
        rules: ``rules.run`` keeps one run alone.

    Returns:
        Candidates whose ``part`` ends in ``"run 1 of 3"``.

    Raises:
        DicomError: No slice has a neighbour.
    """
    if series.problem is not None or series.gap is None:
        return [series]
    built = stack.build_stack(tuple(series.slices))
    along = stack.distances(built.slices)
    bounds = equal_runs([float(step) for step in np.diff(along)])
    if not bounds:
        raise rebuild(type(series.gap), series.gap.what, series.gap.where, series.gap.mend)
    return _chosen([_run(series, built, bounds, number) for number in range(len(bounds))], rules)


def one_run(series: Series, rules: Rules) -> Series:
    """Return the run of a series that the rules leave; a series without a gap as it is.

    Raises:
        DicomError: More than one is left; they are listed.
    """
    runs = split_at_gaps(series, rules)
    if len(runs) == 1:
        return runs[0]
    return choose(runs, Rules(part=rules.part, min_slices=rules.min_slices), series.first_file)


def equal_runs(steps: Sequence[float]) -> list[tuple[int, int]]:
    """Cut slices into runs of equal distances.

    Args:
        steps: Distances between neighbours, in millimetres, positive.

    Returns:
        First and last index of every run, in order.
    """
    smallest = min(steps)
    count = len(steps) + 1
    # For every number of first slices: slices not at the smallest distance, left out, runs, start of the last run.
    best: list[tuple[int, int, int, int]] = [(count + 1, 0, 0, -1)] * (count + 1)
    best[0] = (0, 0, 0, -1)
    for start in range(count):
        coarse, left_out, runs, _ = best[start]
        best[start + 1] = min(best[start + 1], (coarse + 1, left_out + 1, runs, -1))
        for end in _ends(steps, start, smallest):
            more = 0 if steps[start] <= smallest + _tolerance(smallest) else end - start + 1
            best[end + 1] = min(best[end + 1], (coarse + more, left_out, runs + 1, start))
    found = []
    at = count
    while at > 0:
        start = best[at][-1]
        if start >= 0:
            found.append((start, at - 1))
        at = start if start >= 0 else at - 1
    return found[::-1]


def _ends(steps: Sequence[float], start: int, smallest: float) -> list[int]:
    """Where a run that begins at ``start`` may end: as far as it goes, or one or two slices earlier."""
    end, low, high = start, float("inf"), 0.0
    while end < len(steps):
        low, high = min(low, steps[end]), max(high, steps[end])
        if high - low > _tolerance(low):
            break
        end += 1
    shortest = 1 if end > start and steps[start] <= smallest + _tolerance(smallest) else 2
    return [last for last in (end, end - 1, end - 2) if last - start >= shortest]


def _tolerance(step: float) -> float:
    return max(SPACING_TOLERANCE * step, POSITION_TOLERANCE)


def _run(series: Series, built: Stack, bounds: Sequence[tuple[int, int]], number: int) -> Series:
    first, last = bounds[number]
    slices = built.slices[first : last + 1]
    i, j, k = np.linalg.norm(stack.build_stack(slices).affine[:3, :3], axis=0)
    notes = [f"slices {first + 1} to {last + 1} of the {len(built.slices)} of a series with gaps"]
    covered = {n for start, end in bounds for n in range(start, end + 1)}
    alone = [item for n, item in enumerate(built.slices) if n not in covered]
    if alone:
        notes.append(f"{len(alone)} slice(s) between gaps left out")
    if alone and number == 0:
        tell(f"{', '.join(stack.name_of(item) for item in alone)} between gaps left out")
    label = f"run {number + 1} of {len(bounds)}"
    return dataclasses.replace(
        series,
        slices=slices,
        shape=(series.shape[0], series.shape[1], len(slices)),
        spacing_mm=(float(i), float(j), float(k)),
        part=f"{series.part}, {label}".strip(", "),
        gap=None,
        notes=(*series.notes, *notes),
    )


def _chosen(runs: list[Series], rules: Rules) -> list[Series]:
    if rules.run is None:
        return runs
    if rules.run == "longest":
        most = max(len(run.slices) for run in runs)
        longest = [run for run in runs if len(run.slices) == most]
        if len(longest) > 1:
            raise DicomError(
                f"{len(longest)} runs have {most} slices: none is the longest",
                where=runs[0].first_file,
                mend="Choose one with select.run and its number",
            )
        return longest
    if rules.run > len(runs):
        raise DicomError(
            f"the series falls into {len(runs)} run(s); there is no run {rules.run}",
            where=runs[0].first_file,
            mend="Choose another with select.run",
        )
    return [runs[rules.run - 1]]

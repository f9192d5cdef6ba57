"""How many threads compute and how many processes load: measured, because the number of cores does not tell.

Where another process is busy, two threads that wait for one another can be several times slower than one.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

GAIN = 0.95
"""A change must make a step at least this much shorter: noise should not move a run away from the defaults."""

NEGLIGIBLE = 0.05
"""Share of a step below which loading is not worth a process of its own."""

Step = Callable[[], None]


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_candidates(most: int) -> tuple[int, ...]:
    """Return the thread counts worth trying: powers of two, and ``most``."""
    return tuple(sorted({2**k for k in range(most.bit_length()) if 2**k < most} | {most}))


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with ``n`` threads inside, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_seconds(step: Step, candidates: Sequence[int], *, repeats: int, seconds: float) -> dict[int, float]:
    """Measure the median time of a step for each thread count.

    The candidates take turns, so that a slow moment of the machine hits all of them.

    Args:
        step: Runs one training step.
        candidates: Thread counts.
        repeats: Rounds, after one that warms up.
        seconds: No further round starts after this time; at least one is measured.
    """
    taken: dict[int, list[float]] = {n: [] for n in candidates}
    started = time.perf_counter()
    for turn in range(repeats + 1):
        for n in candidates:
            with threads(n):
                begin = time.perf_counter()
                step()
                taken[n].append(time.perf_counter() - begin)
        if turn and time.perf_counter() - started > seconds:
            break
    return {n: statistics.median(times[1:]) for n, times in taken.items()}


def fewest(seconds: Mapping[int, float], default: int) -> int:
    """Return the fastest thread count, where it is clearly faster than ``default``."""
    best = min(seconds, key=lambda n: (seconds[n], n))
    return best if seconds[best] < GAIN * seconds[default] else default


def plan_workers(
    seconds: Mapping[int, float], data: float, *, threads: int, limit: int, apart: bool
) -> tuple[int, int]:
    """Choose threads and loading processes together.

    Without processes a step waits for its batch; with them the longer of the two counts, and each takes a core.

    Args:
        seconds: Time of a step by thread count.
        data: Time to load one batch on one thread.
        threads: Thread count chosen for the step alone.
        limit: Cores.
        apart: Whether the step is computed elsewhere (on a GPU), so that loading takes no core from it.

    Returns:
        Threads and processes; no process where loading takes a negligible share or none is clearly faster.
    """
    alone = seconds[threads] + data
    best, choice = alone, (threads, 0)
    if data < NEGLIGIBLE * seconds[threads]:
        return choice
    for n, step in seconds.items():
        spare = limit - (1 if apart else n)
        # More than it takes to keep up would only hold memory.
        for workers in range(1, min(spare, math.ceil(data / step) + 1) + 1):
            together = max(step, data / workers)
            if together < GAIN * best:
                best, choice = together, (n, workers)
    return choice

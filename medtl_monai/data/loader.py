"""Batches whose content depends on seed, epoch and position alone.

The number of workers, an interruption, and what else the process draws from its random generators change nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from medtl_monai.data.balance import BalancedOrder, Strata
from medtl_monai.data.dataset import CaseDataset, Draw, Sample, collate

_VIEWS = 1
"""Keeps the seeds of views apart from those of epochs."""


class EpochSampler(Sampler[list[Draw]]):
    """Batches of draws for one epoch: as many passes over the cases as it takes to make ``min_steps`` batches.

    Each pass has its own order and visits every case once. A last batch of a single case would break batch
    normalisation ("Expected more than 1 value per channel"): that case joins the batch before it, where there is one.

    Args:
        n: Number of cases.
        batch_size: Cases a batch.
        min_steps: Fewest batches an epoch.
        seed: Seed of the run.
        strata: Indices of the cases of each class, for balanced draws (see :mod:`medtl_monai.data.balance`); None
            draws every case as often as any other. An epoch has as many draws either way.
    """

    def __init__(
        self, n: int, batch_size: int, min_steps: int = 1, seed: int = 0, *, strata: Strata | None = None
    ) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"n is {n} and batch_size {batch_size}; both must be at least 1")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.views: int | None = None
        self.batches = _batches(n, batch_size)
        self.passes = max(1, math.ceil(min_steps / len(self.batches)))
        self.balanced = BalancedOrder(strata, seed) if strata is not None else None

    def set_epoch(self, epoch: int, views: int | None = None) -> None:
        """Choose the epoch that the next iteration gives.

        Args:
            epoch: The epoch, from 0.
            views: Fixed random versions of each case that passes take in turn; None draws anew in every pass.
        """
        self.epoch = epoch
        self.views = views

    def __len__(self) -> int:
        return len(self.batches) * self.passes

    def __iter__(self) -> Iterator[list[Draw]]:
        source = np.random.SeedSequence([self.seed % 2**64, self.epoch])
        order = np.random.default_rng(source)
        seeds = source.generate_state(self.n * self.passes)
        for turn in range(self.passes):
            cases = order.permutation(self.n) if self.balanced is None else self._balanced(turn)
            for batch in self.batches:
                yield [self._draw(int(cases[i]), turn, int(seeds[turn * self.n + i])) for i in batch]

    def _draw(self, case: int, turn: int, seed: int) -> Draw:
        if self.views is None:
            return Draw(case, seed)
        return view(self.seed, case, (self.epoch * self.passes + turn) % self.views)

    def _balanced(self, turn: int) -> Sequence[int]:
        first = (self.epoch * self.passes + turn) * self.n
        return self.balanced[first : first + self.n] if self.balanced is not None else ()


def view(seed: int, case: int, number: int) -> Draw:
    """Return one of the fixed random versions of a case.

    Args:
        seed: Seed of the run.
        case: Index of the case.
        number: Which version, from 0.
    """
    source = np.random.SeedSequence([seed % 2**64, case, number], spawn_key=(_VIEWS,))
    return Draw(case, int(source.generate_state(1)[0]))


def _batches(n: int, size: int) -> list[range]:
    batches = [range(start, min(start + size, n)) for start in range(0, n, size)]
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [range(batches[-2].start, n)]
    return batches


def training_loader(
    dataset: CaseDataset,
    *,
    batch_size: int,
    min_steps: int = 1,
    seed: int = 0,
    strata: Strata | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Return a loader of shuffled, random items; call ``loader.batch_sampler.set_epoch(e)`` before each epoch.

    Args:
        dataset: The training cases.
        batch_size: Cases (or patches) a batch.
        min_steps: Fewest batches an epoch.
        seed: Seed of the run.
        strata: For balanced draws, as in :class:`EpochSampler`.
        workers: Loading processes; never more than there are processors.
        pin_memory: Whether batches are put in pinned memory, for copies to a GPU.

    Returns:
        A loader of :class:`medtl_monai.modules.Batch`.
    """
    sampler = EpochSampler(len(dataset), batch_size, min_steps, seed, strata=strata)
    return _loader(dataset, sampler, workers, pin_memory)


def evaluation_loader(
    dataset: CaseDataset, *, batch_size: int = 1, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Sample]:
    """Return a loader of the cases in order, whole and without randomness.

    Args:
        dataset: The cases.
        batch_size: Cases a batch; segmentation always takes one, as sizes differ.
        workers: Loading processes; never more than there are processors.
        pin_memory: Whether batches are put in pinned memory.

    Returns:
        A loader of :class:`medtl_monai.modules.Batch`.
    """
    size = batch_size if dataset.preprocessing.size is not None else 1
    draws = [Draw(i) for i in range(len(dataset))]
    return _loader(dataset, [draws[i : i + size] for i in range(0, len(draws), size)], workers, pin_memory)


def _loader(
    dataset: CaseDataset, batches: Sampler[list[Draw]] | Sequence[list[Draw]], workers: int, pin_memory: bool
) -> DataLoader[Sample]:
    workers = min(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if workers:
        # Read once here; the workers share the memory instead of each filling a cache of its own.
        dataset.prepare()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        # A generator of its own: starting an epoch must not draw from the global one.
        generator=torch.Generator(),
    )

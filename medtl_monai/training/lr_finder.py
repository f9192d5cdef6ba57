"""The learning-rate range test: a short run under a rising rate, on a copy that is thrown away.

Smith, "Cyclical learning rates for training neural networks", WACV 2017: train a few steps while the rate rises from
far too small to far too large; where the loss falls most steeply, a rate is about right.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from medtl_monai.data.loader import EpochSampler, training_loader
from medtl_monai.modules import Batch
from medtl_monai.training.assemble import Assembly
from medtl_monai.training.datasets import Datasets
from medtl_monai.training.fit import make_optimizer
from medtl_monai.training.reporter import Reporter
from medtl_monai.transfer.freeze import Freezer

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 140
"""The rates that are tried: 20 steps a decade."""

_SMOOTHING = 0.9
_WINDOW = 10
"""Steps over which a slope is fitted: half a decade."""
_DIVERGED = 4.0
_LEAST_FALL = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class LrCurve:
    """What the range test saw.

    Attributes:
        lrs: The rate of each step, rising by a constant factor.
        losses: The loss of each step's batch, before the step was taken.
        smoothed: Their exponential moving average (0.9), corrected for its start.
        suggestion: The rate at which the smoothed loss falls most steeply; None where it hardly falls.
        lowest: The rate at which the smoothed loss is lowest.
        diverged: Whether the loss grew beyond four times its lowest value, or was no number, before the last rate.
        trains: The stages that trained: those of the policy's first phase.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    lowest: float | None
    diverged: bool
    trains: tuple[str, ...]


def find_lr(
    assembly: Assembly,
    datasets: Datasets,
    reporter: Reporter,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> LrCurve:
    """Run the range test on the batches of the first epochs, under the policy's first phase, in float32.

    The rule of each stage stays in force: what is frozen is frozen, and ``rule.lr`` factors hold. The model, the
    random state and whatever is trained later are as if the test had never been.

    Args:
        assembly: What will be trained.
        datasets: On what.
        reporter: Who is told.
        lowest: First rate.
        highest: Last rate.
        steps: How many rates.
    """
    config = assembly.config.training
    lrs = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    smoothed: list[float] = []
    with _randomness_kept(assembly.device):
        torch.manual_seed(config.seed)
        model = copy.deepcopy(assembly.model).to(assembly.device)
        freezer = Freezer(model, assembly.schedule, warmup=0.0)
        optimizer = make_optimizer(freezer, config)
        freezer.apply(0)
        model.train()
        trains = tuple(name for name, rule in freezer.row.items() if not rule.frozen)
        average = 0.0
        for n, batch in enumerate(itertools.islice(_batches(assembly, datasets), steps)):
            moved = batch.to(assembly.device)
            loss = model.head.loss(model(moved), moved)
            penalty = freezer.penalty()
            loss = loss if penalty is None else loss + penalty
            losses.append(float(loss.detach()))
            average = _SMOOTHING * average + (1 - _SMOOTHING) * losses[-1]
            smoothed.append(average / (1 - _SMOOTHING ** (n + 1)))
            reporter.count("trying learning rates", n + 1, steps)
            if _has_diverged(losses[-1], smoothed):
                break
            freezer.set_lr(optimizer, float(lrs[n]), 1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(freezer.trainable_parameters(), config.clip_grad_norm)
            optimizer.step()
    tried = tuple(float(lr) for lr in lrs[: len(losses)])
    suggestion, best = suggest(tried, smoothed)
    return LrCurve(
        lrs=tried,
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        suggestion=suggestion,
        lowest=best,
        diverged=_has_diverged(losses[-1], smoothed),
        trains=trains,
    )


def suggest(lrs: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the rate where the smoothed loss falls most steeply, and the one where it is lowest.

    The slope is that of a straight line through half a decade of rates, on a logarithmic axis; it is looked for before
    the lowest loss. There is no suggestion where the loss falls by less than 5 % of what it was, and neither rate where
    no loss is a number.
    """
    values = np.asarray(smoothed, float)
    if not np.isfinite(values).any():
        return None, None
    best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
    lowest = lrs[best]
    if values[0] - values[best] < _LEAST_FALL * abs(values[0]) or best + 1 < _WINDOW:
        return None, lowest
    logs = np.log10(np.asarray(lrs[: best + 1]))
    slopes = [np.polyfit(logs[k : k + _WINDOW], values[k : k + _WINDOW], 1)[0] for k in range(best + 2 - _WINDOW)]
    steepest = int(np.argmin(slopes))
    middle = float(10 ** logs[steepest : steepest + _WINDOW].mean())
    return float(f"{middle:.1e}"), lowest


def _batches(assembly: Assembly, datasets: Datasets) -> Iterator[Batch]:
    config = assembly.config.training
    loader = training_loader(
        datasets.train,
        batch_size=config.batch_size,
        seed=config.seed,
        strata=datasets.strata,
        workers=config.workers if config.workers != "auto" else 0,
    )
    sampler = loader.batch_sampler
    if not isinstance(sampler, EpochSampler):
        raise TypeError("the training loader has no EpochSampler")
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def _has_diverged(loss: float, smoothed: Sequence[float]) -> bool:
    if not math.isfinite(loss):
        return True
    best = min(smoothed)
    return smoothed[-1] > _DIVERGED * best if best > 0 else False


@contextmanager
def _randomness_kept(device: torch.device) -> Iterator[None]:
    """Put every global generator back to where it was."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)

"""The learning rate over a run, in closed form: a function of the step, never of earlier values."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "constant", "poly"]


def schedule_factor(schedule: Schedule, step: int, steps: int, *, warmup: float = 0.0) -> float:
    """Return the factor on the base learning rate at one step.

    Args:
        schedule: ``cosine`` falls to 0 along half a cosine (Loshchilov and Hutter 2017), ``poly`` as
            ``(1 - t) ** 0.9`` (nnU-Net), ``constant`` stays 1.
        step: Step about to be taken, from 0.
        steps: Steps of the whole run.
        warmup: Share of all steps over which the factor rises linearly; the schedule follows on the rest.

    Returns:
        A value above 0 for every step of the run.

    Raises:
        ValueError: If the step is outside the run or the schedule is unknown.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not one of {steps}")
    rising = round(warmup * steps)
    if step < rising:
        return ramp(step, rising)
    t = (step - rising) / (steps - rising)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    if schedule == "poly":
        return float((1 - t) ** 0.9)
    if schedule == "constant":
        return 1.0
    raise ValueError(f"unknown schedule {schedule!r}")


def ramp(step: int, steps: int) -> float:
    """Return the linear rise ``1/steps, 2/steps, … 1``; 1 from then on."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0

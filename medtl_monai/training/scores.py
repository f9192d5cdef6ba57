"""A head's metrics inside MONAI's evaluator, and as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric as IgniteMetric

from medtl_monai.modules import Batch, Metric, Prediction


class HeadMetric(IgniteMetric):
    """Feed one head metric from the evaluator's output ``(prediction, batch)``.

    Args:
        name: Name of the metric.
        metric: The head's metric.
    """

    def __init__(self, name: str, metric: Metric) -> None:
        self.name = name
        self.metric = metric
        self.values: dict[str, float] = {}
        super().__init__(output_transform=_prediction_and_batch)

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.fn.reset()

    def update(self, output: tuple[Prediction, Batch]) -> None:
        """Take in one batch."""
        prediction, target = self.metric.inputs(*output)
        self.metric.fn(prediction, target)

    def compute(self) -> float:
        """Return the metric's value; its components are in ``values``."""
        self.values = named_values(self.name, self.metric)
        return self.values[self.name]


def named_values(name: str, metric: Metric) -> dict[str, float]:
    """Aggregate a metric: its value, and ``name/component`` for each component.

    The value of a metric with components is their mean; a component without any case (NaN) is left out of the mean and
    kept, as NaN, in its place.
    """
    vector = _flat(metric.fn.aggregate())
    defined = vector[~np.isnan(vector)]
    values = {name: float(defined.mean()) if defined.size else math.nan}
    if metric.components:
        values |= {f"{name}/{c}": float(v) for c, v in zip(metric.components, vector, strict=True)}
    return values


def score(metrics: Mapping[str, Metric], prediction: Prediction, batch: Batch) -> dict[str, float]:
    """Compute every metric over one set of cases."""
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        metric.fn.reset()
        metric.fn(*metric.inputs(prediction, batch))
        values |= named_values(name, metric)
        metric.fn.reset()
    return values


def better(value: float, best: float | None, mode: str) -> bool:
    """Say whether ``value`` improves on ``best``; a NaN never does, anything beats None."""
    if math.isnan(value):
        return False
    return best is None or (value > best if mode == "max" else value < best)


def _prediction_and_batch(output: Mapping[str, Any]) -> tuple[Prediction, Batch]:
    return output["prediction"], output["batch"]


def _flat(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    if isinstance(value, (list, tuple)):
        return np.concatenate([_flat(v) for v in value])
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()

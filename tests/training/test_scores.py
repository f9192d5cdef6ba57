import math

import pytest
import torch

from medtl_monai.modules import Batch, Metric, Prediction
from medtl_monai.training.scores import HeadMetric, better, named_values, score


class Mean:
    """A cumulative metric whose value is the mean absolute difference, per column."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def __call__(self, y_pred, y):
        self.rows.append((y_pred - y).abs())

    def aggregate(self):
        return torch.cat(self.rows).nanmean(0)

    def reset(self) -> None:
        self.rows = []


def _metric(**kwargs) -> Metric:
    return Metric(fn=Mean(), inputs=lambda p, b: (p.values, b.labels()), mode="min", **kwargs)


def _pair(values, target):
    target = torch.tensor(target)
    return Prediction(values=torch.tensor(values)), Batch(image=torch.empty(0), spatial_size=(), target=target)


def test_components_and_their_mean():
    prediction, batch = _pair([[1.0, 5.0], [3.0, 5.0]], [[0.0, 1.0], [0.0, 1.0]])
    metric = _metric(components=("a", "b"))
    assert score({"mae": metric}, prediction, batch) == {"mae": 3.0, "mae/a": 2.0, "mae/b": 4.0}
    assert metric.fn.rows == []


def test_a_component_without_cases_stays_nan_and_out_of_the_mean():
    prediction, batch = _pair([[1.0, math.nan]], [[0.0, 0.0]])
    values = score({"mae": _metric(components=("a", "b"))}, prediction, batch)
    assert values["mae"] == 1.0
    assert math.isnan(values["mae/b"])


def test_a_wrong_number_of_components_is_an_error():
    prediction, batch = _pair([[1.0, 2.0]], [[0.0, 0.0]])
    metric = _metric(components=("a",))
    metric.fn(*metric.inputs(prediction, batch))
    with pytest.raises(ValueError, match="zip"):
        named_values("mae", metric)


def test_the_evaluator_accumulates_over_batches():
    metric = HeadMetric("mae", _metric())
    metric.reset()
    metric.update(_pair([[2.0]], [[0.0]]))
    metric.update(_pair([[4.0]], [[0.0]]))
    assert metric.compute() == 3.0
    metric.reset()
    metric.update(_pair([[1.0]], [[0.0]]))
    assert metric.compute() == 1.0


@pytest.mark.parametrize(
    ("value", "best", "mode", "expected"),
    [
        (0.5, None, "max", True),
        (0.5, 0.4, "max", True),
        (0.5, 0.5, "max", False),
        (0.5, 0.4, "min", False),
        (0.3, 0.4, "min", True),
        (-2.0, None, "max", True),
        (math.nan, None, "max", False),
        (math.nan, 0.1, "min", False),
    ],
)
def test_better(value, best, mode, expected):
    assert better(value, best, mode) is expected

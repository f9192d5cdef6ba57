from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers_heads import batch_of, context, round_trip, scores, train, vector_features
from scipy import stats
from sklearn import metrics as sk

from medtl_monai.builtin.task_heads.regression import RegressionHead
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.modules import Prediction
from medtl_monai.specs import TargetInfo

NAN = math.nan


def info(mean: tuple[float, ...] = (70.0,), std: tuple[float, ...] = (12.0,)) -> TargetInfo:
    columns = tuple(f"length{i}_mm" for i in range(len(mean)))
    return TargetInfo(kind="number", columns=columns, cases=40, mean=mean, std=std)


def numbers(count: int = 60, seed: int = 0) -> torch.Tensor:
    return 70 + 12 * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", ["mse", "l1", "smooth-l1"])
def test_learns_in_label_units(loss: str) -> None:
    torch.manual_seed(0)
    target, unseen = numbers(), numbers(seed=1)
    head = RegressionHead(context(info()), loss=loss)
    losses = train(head, vector_features((target - 70) / 12, noise=0.2), batch_of(target), steps=80)
    found = scores(head, vector_features((unseen - 70) / 12, noise=0.2, seed=1), batch_of(unseen))
    assert losses[-1] < 0.3 * losses[0]
    assert found["mae"] < 4  # the labels' own mean absolute deviation is about 9.6
    assert found["r2"] > 0.7
    assert found["pearson_r"] > 0.85


def test_predicts_in_label_units() -> None:
    head = RegressionHead(context(info((70.0, 0.2), (12.0, 0.05))))
    values = head.predict(torch.tensor([[0.0, 0.0], [1.0, -2.0]]), batch_of(None)).values
    assert values is not None
    torch.testing.assert_close(values, torch.tensor([[70, 0.2], [82, 0.1]]))


@pytest.mark.parametrize(("loss", "expected"), [("mse", 2.125), ("l1", 1.25), ("smooth-l1", (0.125 + 1.5) / 2)])
def test_loss_by_hand_without_missing_numbers(loss: str, expected: float) -> None:
    head = RegressionHead(context(info((70.0, 0.0), (10.0, 2.0))), loss=loss)
    output = torch.tensor([[0.5, 9.0], [9.0, 1.0]], requires_grad=True)
    target = torch.tensor([[80.0, NAN], [NAN, 6.0]])  # standardised 1 and 3: errors 0.5 and 2
    value = head.loss(output, batch_of(target))
    value.backward()
    assert value.item() == pytest.approx(expected)
    assert torch.equal(output.grad != 0, ~target.isnan())  # type: ignore[operator]


def test_a_batch_without_any_number_has_zero_loss_and_gradient() -> None:
    head = RegressionHead(context(info()))
    output = torch.randn(3, 1, requires_grad=True)
    loss = head.loss(output, batch_of(torch.full((3, 1), NAN)))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(output.grad, torch.zeros(3, 1))  # type: ignore[arg-type]


def test_metrics_equal_scipy_and_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    target = numbers(30).round()  # ties
    values = target + 8 * torch.randn(30, 1, generator=generator)
    target[3] = NAN
    head = RegressionHead(context(info()))
    t, v = np.delete(target[:, 0].double().numpy(), 3), np.delete(values[:, 0].double().numpy(), 3)
    expected = {
        "mae": sk.mean_absolute_error(t, v),
        "rmse": sk.root_mean_squared_error(t, v),
        "r2": sk.r2_score(t, v),
        "pearson_r": stats.pearsonr(t, v).statistic,
        "spearman_r": stats.spearmanr(t, v).statistic,
    }
    found = {}
    for name, metric in head.metrics().items():
        metric.fn(*metric.inputs(Prediction(values=values), batch_of(target)))
        found[name] = float(metric.fn.aggregate())
        assert metric.components == ()
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == list(expected)
    assert found["rmse"] > 1.1 * found["mae"]  # MONAI's RMSE would equal the MAE here
    assert 0.2 < found["r2"] < 0.9


def test_key_metric_and_modes() -> None:
    one, two = (RegressionHead(context(info((1.0,) * n, (1.0,) * n))).metrics() for n in (1, 2))
    assert next(iter(one)) == "mae"
    assert next(iter(two)) == "mae_sd"
    assert {n: m.mode for n, m in two.items() if m.mode == "min"}.keys() == {"mae_sd", "mae", "rmse"}
    assert two["mae"].components == ("length0_mm", "length1_mm")


def test_several_columns_are_weighed_in_standard_deviations() -> None:
    head = RegressionHead(context(info((70.0, 0.2), (10.0, 0.05))))
    prediction = Prediction(values=torch.tensor([[75.0, 0.3], [75.0, 0.1]]))
    batch = batch_of(torch.tensor([[70.0, 0.2], [70.0, 0.2]]))
    found = {}
    for name in ("mae_sd", "mae"):
        metric = head.metrics()[name]
        metric.fn(*metric.inputs(prediction, batch))
        found[name] = metric.fn.aggregate().tolist()
    assert found["mae_sd"] == pytest.approx([0.5, 2.0])
    assert found["mae"] == pytest.approx([5.0, 0.1])


def test_what_is_undefined_is_nan() -> None:
    head = RegressionHead(context(info()))
    values = {}
    for name, metric in head.metrics().items():
        metric.fn(*metric.inputs(Prediction(values=torch.tensor([[71.0]])), batch_of(torch.tensor([[70.0]]))))
        values[name] = float(metric.fn.aggregate())
        metric.fn.reset()
        assert math.isnan(float(metric.fn.aggregate()))
    assert values["mae"] == values["rmse"] == 1
    assert all(math.isnan(values[name]) for name in ("r2", "pearson_r", "spearman_r"))


def test_state_dict_carries_the_units() -> None:
    head = RegressionHead(context(info()))
    fresh = RegressionHead(context(info((0.0,), (1.0,))))
    features = vector_features(numbers(4))
    round_trip(lambda: RegressionHead(context(info((0.0,), (1.0,)))), head, features, batch_of(None))
    fresh.load_state_dict(head.state_dict())
    values = fresh.predict(torch.zeros(1, 1), batch_of(None)).values
    assert values is not None
    assert values.item() == 70


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (info((), ()), "no number"),
        (info((1.0,), (0.0,)), "length0_mm: the numbers do not vary"),
        (info((NAN,), (1.0,)), "do not vary over the training cases, or there are none"),
        (info((1.0, 2.0), (1.0,)), "2 means and 1 standard deviations"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(target: TargetInfo, part: str) -> None:
    with pytest.raises(DataError, match=part):
        RegressionHead(context(target))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'smooth-l1'"):
        RegressionHead(context(info()), loss="smoothl1")

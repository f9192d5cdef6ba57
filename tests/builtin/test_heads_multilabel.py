from __future__ import annotations

import math

import pytest
import torch
from helpers_heads import batch_of, context, round_trip, scores, train, vector_features
from sklearn import metrics as sk

from medtl_monai.builtin.task_heads.multilabel import MultilabelHead
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.modules import Prediction
from medtl_monai.specs import TargetInfo

NAN = math.nan


def info(*counts: int, cases: int = 40) -> TargetInfo:
    names = tuple(f"finding{i}" for i in range(len(counts)))
    return TargetInfo(kind="classes", columns=names, classes=names, counts=counts, cases=cases)


def labels(count: int = 60, seed: int = 0) -> torch.Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def test_learns_although_labels_are_missing() -> None:
    torch.manual_seed(0)
    target = labels()
    features = vector_features(target, seed=0)
    missing = torch.rand(target.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    head = MultilabelHead(context(info(20, 20, 20)))
    losses = train(head, features, batch_of(target.masked_fill(missing, NAN)))
    unseen = labels(seed=2)
    found = scores(head, vector_features(unseen, seed=2), batch_of(unseen))
    assert losses[-1] < 0.7 * losses[0]
    assert (found["roc_auc"] > 0.85).all()
    assert found["roc_auc"].shape == (3,)


def test_missing_labels_give_no_loss_and_no_gradient() -> None:
    head = MultilabelHead(context(info(10, 10)), pos_weight="none")
    output = torch.randn(3, 2, requires_grad=True)
    target = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])
    loss = head.loss(output, batch_of(target))
    loss.backward()
    known = ~target.isnan()
    assert torch.equal(output.grad != 0, known)  # type: ignore[operator]
    by_hand = [-output[0, 0].sigmoid().log(), -(-output[2, 0]).sigmoid().log(), -output[2, 1].sigmoid().log()]
    torch.testing.assert_close(loss, sum(by_hand) / 3)


def test_a_batch_without_any_label_has_zero_loss_and_gradient() -> None:
    head = MultilabelHead(context(info(10, 10)))
    output = torch.randn(3, 2, requires_grad=True)
    loss = head.loss(output, batch_of(torch.full((3, 2), NAN)))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(output.grad, torch.zeros(3, 2))  # type: ignore[arg-type]


def test_cases_whose_label_is_missing_are_not_negatives() -> None:
    names = ("a", "b")
    target = TargetInfo(kind="classes", columns=names, classes=names, counts=(10, 8), labelled=(20, 40), cases=40)
    head = MultilabelHead(context(target))
    assert head.pos_weight is not None
    assert head.pos_weight.tolist() == [1, 4]
    everyone = TargetInfo(kind="classes", columns=names, classes=names, counts=(10, 8), labelled=(10, 40), cases=40)
    with pytest.raises(DataError, match="every training case has this label"):
        MultilabelHead(context(everyone))


def test_positive_weight_by_hand() -> None:
    head = MultilabelHead(context(info(10, 8)))  # of 40 cases
    output, target = torch.tensor([[0.3, -0.7]]), torch.tensor([[1.0, 0.0]])
    weighted = (3 * -output[0, 0].sigmoid().log() + -(-output[0, 1]).sigmoid().log()) / 2
    torch.testing.assert_close(head.loss(output, batch_of(target)), weighted)
    assert head.pos_weight is not None
    assert head.pos_weight.tolist() == [3, 4]


def test_predicts_probabilities_and_labels() -> None:
    head = MultilabelHead(context(info(10, 10)))
    prediction = head.predict(torch.tensor([[0.0, -1.0]]), batch_of(None))
    assert prediction.probabilities is not None
    assert prediction.probabilities[0].tolist() == pytest.approx([0.5, 1 / (1 + math.e)])
    assert prediction.classes is not None
    assert prediction.classes.tolist() == [[1, 0]]


def test_metrics_equal_scikit_learn_on_the_known_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities, truth = torch.rand(50, 3, generator=generator), labels(50)
    probabilities = (0.7 * probabilities + 0.3 * truth).mul(20).round().div(20)
    target = truth.masked_fill(torch.rand(50, 3, generator=generator) < 0.3, NAN)
    head = MultilabelHead(context(info(10, 10, 10)))
    functions = {
        "roc_auc": sk.roc_auc_score,
        "average_precision": sk.average_precision_score,
        "f1_macro": lambda t, p: sk.f1_score(t, p >= 0.5),
    }
    assert list(head.metrics()) == list(functions)
    for name, metric in head.metrics().items():
        assert metric.components == head.labels
        assert metric.mode == "max"
        metric.fn(*metric.inputs(Prediction(probabilities=probabilities), batch_of(target)))
        known = [~target[:, i].isnan() for i in range(3)]
        expected = [functions[name](target[k, i].numpy(), probabilities[k, i].numpy()) for i, k in enumerate(known)]
        found = metric.fn.aggregate().tolist()
        assert found == pytest.approx(expected, abs=1e-6)
        assert all(0.4 < value < 0.99 for value in found)
        assert len(set(found)) == 3


def test_a_label_of_one_kind_is_nan_and_the_others_are_not() -> None:
    head = MultilabelHead(context(info(10, 10, 10)))
    target = torch.tensor([[1.0, 0.0, NAN], [0.0, 0.0, NAN], [1.0, NAN, NAN]])
    prediction = Prediction(probabilities=torch.rand(3, 3))
    for metric in head.metrics().values():
        metric.fn(*metric.inputs(prediction, batch_of(target)))
        assert metric.fn.aggregate().isnan().tolist() == [False, True, True]
        metric.fn.reset()
        assert metric.fn.aggregate().isnan().tolist() == [True] * 3


def test_state_dict_round_trip() -> None:
    head = MultilabelHead(context(info(10, 8)))
    features = vector_features(labels(4))
    round_trip(lambda: MultilabelHead(context(info(3, 3))), head, features, batch_of(None))
    assert "pos_weight" in head.state_dict()


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (info(), "no label"),
        (info(10, 0), "finding1: no training case"),
        (info(40, 10), "finding0: every training case"),
        (TargetInfo(kind="classes", columns=("a",), classes=("a",), cases=4), "0 counts for 1"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(target: TargetInfo, part: str) -> None:
    with pytest.raises(DataError, match=part):
        MultilabelHead(context(target))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="pos_weight"):
        MultilabelHead(context(info(3, 3)), pos_weight="yes")

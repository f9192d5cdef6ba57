from __future__ import annotations

import math

import pytest
import torch
from helpers_heads import PYRAMID, batch_of, context, round_trip, scores, train, vector_features
from sklearn import metrics as sk

from medtl_monai.builtin.task_heads.classification import ClassificationHead
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.modules import Batch, Prediction
from medtl_monai.specs import TargetInfo


def info(*counts: int) -> TargetInfo:
    classes = tuple(f"c{i}" for i in range(len(counts)))
    return TargetInfo(kind="class", columns=("kind",), classes=classes, counts=counts, cases=sum(counts))


def case_data(classes: int, count: int = 60, seed: int = 0) -> tuple[list[torch.Tensor], Batch]:
    target = torch.arange(count) % classes
    signal = torch.nn.functional.one_hot(target, classes).float()
    return vector_features(signal, seed=seed), batch_of(target)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("pool", "stages"), [("avg", 1), ("max", 1), ("avgmax", 2)])
def test_learns(classes: int, pool: str, stages: int) -> None:
    torch.manual_seed(0)
    head = ClassificationHead(context(info(*[15] * classes)), pool=pool, stages=stages)
    features, batch = case_data(classes)
    unseen, unseen_batch = case_data(classes, seed=1)
    before = scores(head.eval(), unseen, unseen_batch)["roc_auc"]
    losses = train(head, features, batch)
    after = scores(head, unseen, unseen_batch)
    assert losses[-1] < 0.6 * losses[0]
    assert after["roc_auc"] > max(0.85, before)
    assert after["balanced_accuracy"] > 1 / classes + 0.3
    assert not head.necks


def test_key_metric_and_modes() -> None:
    binary = ClassificationHead(context(info(3, 3))).metrics()
    several = ClassificationHead(context(info(3, 3, 3))).metrics()
    assert next(iter(binary)) == next(iter(several)) == "roc_auc"
    assert {m.mode for m in (*binary.values(), *several.values())} == {"max"}
    assert set(binary) - set(several) == {"sensitivity", "specificity"}


def test_pooling_is_what_it_says() -> None:
    features = [torch.randn(3, 6, 4, 4, 4), torch.randn(3, 10, 2, 2, 2)]
    head = ClassificationHead(context(info(3, 3)), pool="avgmax", stages=2).eval()
    by_hand = torch.cat([torch.cat([f.mean((2, 3, 4)), f.amax((2, 3, 4))], 1) for f in features], 1)
    assert by_hand.shape == (3, 32)
    torch.testing.assert_close(head(features, batch_of(None)), head.linear(by_hand))


def test_two_dimensional_features() -> None:
    from helpers_heads import stages

    head = ClassificationHead(context(info(3, 3), stages((2, 2), (4, 4), channels=(6, 10))))
    output = head([torch.randn(2, 6, 9, 7), torch.randn(2, 10, 5, 4)], batch_of(None, (18, 14)))
    assert output.shape == (2, 2)


def test_class_weights_change_the_loss_as_computed_by_hand() -> None:
    logits, target = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    batch = batch_of(target)
    surprise = -logits.log_softmax(1)[[0, 1], target]
    balanced = ClassificationHead(context(info(30, 10, 20)))
    alike = ClassificationHead(context(info(30, 10, 20)), class_weights="none")
    by_hand = (60 / (3 * 30) * surprise[0] + 60 / (3 * 10) * surprise[1]) / 2
    torch.testing.assert_close(balanced.loss(logits, batch), by_hand)
    torch.testing.assert_close(alike.loss(logits, batch), surprise.mean())
    assert abs(by_hand - surprise.mean()) > 0.1


def test_class_weight_does_not_cancel_in_a_batch_of_one() -> None:
    head = ClassificationHead(context(info(30, 10)))
    logits = torch.zeros(1, 2)
    rare, common = (head.loss(logits, batch_of(torch.tensor([c]))).item() for c in (1, 0))
    assert rare == pytest.approx(3 * common)
    assert common == pytest.approx(40 / (2 * 30) * math.log(2))


def test_label_smoothing_by_hand() -> None:
    head = ClassificationHead(context(info(5, 5)), label_smoothing=0.2)
    logits = torch.tensor([[2.0, -1.0]])
    nll = -logits.log_softmax(1)[0]
    torch.testing.assert_close(head.loss(logits, batch_of(torch.tensor([0]))), 0.9 * nll[0] + 0.1 * nll[1])


def test_logits_do_not_lose_digits_under_autocast() -> None:
    features, batch = case_data(2, 8)
    head = ClassificationHead(context(info(5, 5))).eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features, batch)
    assert torch.equal(output, head(features, batch))
    assert not torch.equal(output, output.bfloat16().float())


def test_half_precision_output_gives_a_float32_loss_and_probabilities() -> None:
    head = ClassificationHead(context(info(5, 5)))
    output = torch.tensor([[2.0, -1.0]], dtype=torch.bfloat16)
    batch = batch_of(torch.tensor([0]))
    assert head.loss(output, batch).dtype == torch.float32
    assert head.predict(output, batch).probabilities.dtype == torch.float32  # type: ignore[union-attr]


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_equal_scikit_learn(classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, classes, generator=generator).mul(4).round().div(4)  # with ties
    target = torch.arange(40) % classes
    logits[range(40), target] += 0.5
    head = ClassificationHead(context(info(*[20] * classes)))
    prediction = head.predict(logits, batch_of(target))
    found = {}
    for name, metric in head.metrics().items():
        metric.fn(*metric.inputs(prediction, batch_of(target)))
        found[name] = float(metric.fn.aggregate())
    p, t, guess = prediction.probabilities.numpy(), target.numpy(), prediction.classes.numpy()  # type: ignore[union-attr]
    one_hot = torch.nn.functional.one_hot(target).numpy()
    expected = {
        "roc_auc": sk.roc_auc_score(t, p[:, 1]) if classes == 2 else sk.roc_auc_score(t, p, multi_class="ovr"),
        "average_precision": sk.average_precision_score(*((t, p[:, 1]) if classes == 2 else (one_hot, p))),
        "balanced_accuracy": sk.balanced_accuracy_score(t, guess),
        "accuracy": sk.accuracy_score(t, guess),
        "f1_macro": sk.f1_score(t, guess, average="macro"),
    }
    if classes == 2:
        expected |= {"sensitivity": sk.recall_score(t, guess), "specificity": sk.recall_score(t, guess, pos_label=0)}
    assert found == pytest.approx(expected, abs=1e-6)
    assert all(0.3 < value < 0.95 for value in found.values())


def _aggregate(target: torch.Tensor, probabilities: torch.Tensor) -> dict[str, float]:
    head = ClassificationHead(context(info(*[5] * probabilities.shape[1])))
    values = {}
    for name, metric in head.metrics().items():
        metric.fn(*metric.inputs(Prediction(probabilities=probabilities), batch_of(target)))
        values[name] = float(metric.fn.aggregate())
    return values


@pytest.mark.parametrize("classes", [2, 3])
def test_a_split_that_lacks_a_class_gives_nan(classes: int) -> None:
    probabilities = torch.rand(6, classes, generator=torch.Generator().manual_seed(0)).softmax(1)
    values = _aggregate(torch.arange(6) % (classes - 1), probabilities)
    undefined = {"roc_auc", "average_precision", "balanced_accuracy", "f1_macro"} | ({"sensitivity"} & set(values))
    assert {name for name, value in values.items() if math.isnan(value)} == undefined
    assert math.isfinite(values["accuracy"])


def test_a_diverged_network_gives_nan_not_a_number() -> None:
    probabilities = torch.rand(6, 2).softmax(1)
    probabilities[2] = math.nan
    assert all(math.isnan(value) for value in _aggregate(torch.arange(6) % 2, probabilities).values())


def test_reset_forgets_and_no_case_is_nan() -> None:
    head = ClassificationHead(context(info(5, 5)))
    metric = head.metrics()["accuracy"]
    good = Prediction(probabilities=torch.eye(2))
    metric.fn(*metric.inputs(good, batch_of(torch.tensor([0, 1]))))
    assert float(metric.fn.aggregate()) == 1
    metric.fn.reset()
    assert math.isnan(float(metric.fn.aggregate()))
    metric.fn(*metric.inputs(good, batch_of(torch.tensor([1, 0]))))
    assert float(metric.fn.aggregate()) == 0


def test_state_dict_round_trip() -> None:
    features, batch = case_data(2, 4)
    head = ClassificationHead(context(info(30, 10)))
    round_trip(lambda: ClassificationHead(context(info(1, 1))), head, features, batch)
    assert "class_weight" in head.state_dict()


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (info(7), "1 class is too few"),
        (info(7, 0, 3), "no training case has the class 'c1'"),
        (TargetInfo(kind="class", columns=("kind",), classes=("a", "b")), "0 counts for 2 classes"),
        (TargetInfo(kind="number", columns=("mm",), mean=(1.0,), std=(1.0,)), "kind 'class'"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(target: TargetInfo, part: str) -> None:
    with pytest.raises(DataError, match=part) as error:
        ClassificationHead(context(target))
    assert error.value.mend
    assert error.value.where


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"pool": "average"}, "pool"),
        ({"stages": 3}, "the backbone has 2"),
        ({"stages": 0}, "stages"),
        ({"dropout": 1.0}, "dropout"),
        ({"class_weights": "balance"}, "Did you mean 'balanced'"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        ClassificationHead(context(info(3, 3)), **options)  # type: ignore[arg-type]
    assert len(PYRAMID) == 2

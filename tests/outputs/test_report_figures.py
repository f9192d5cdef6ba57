"""The numbers behind the figures, and what every figure has in common."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medtl_monai.outputs.figures.canvas import SERIES, drawing, label
from medtl_monai.outputs.figures.classification import (
    Scored,
    area,
    confusion,
    confusion_figure,
    histogram_figure,
    roc_figure,
    roc_points,
)
from medtl_monai.outputs.figures.learning import Span, learning_curves
from medtl_monai.outputs.figures.regression import agreement_figure, limits_of_agreement
from medtl_monai.outputs.figures.structures import structures_figure
from medtl_monai.outputs.report_text import by, duration, fixed, metric_name, number


def test_the_area_is_that_of_scikit_learn_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random(30) < 0.4
        scores = np.round(rng.random(30) + 0.3 * truth, 1)
        assert len(np.unique(scores)) < 30
        assert area(Scored("x", scores, truth)) == pytest.approx(roc_auc_score(truth, scores))


def test_the_curve_goes_from_corner_to_corner_and_ties_move_together():
    truth = np.array([True, False, True, False])
    x, y = roc_points(Scored("x", np.array([0.9, 0.5, 0.5, 0.1]), truth))
    assert x.tolist() == [0, 0, 0.5, 1]
    assert y.tolist() == [0, 0.5, 1, 1]
    back = roc_points(Scored("x", np.array([0.9, 0.5, 0.5, 0.1]), truth[[0, 2, 1, 3]]))
    assert np.array_equal(back, (x, y))


def test_without_both_sides_there_is_no_area():
    lonely = Scored("x", np.array([0.1, 0.9]), np.array([True, True]))
    assert not lonely.drawable
    assert math.isnan(area(lonely))


def test_confusion_counts_true_by_predicted():
    counts = confusion(["a", "a", "b", "b", "b"], ["a", "b", "b", "b", "a"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="is not in list"):
        confusion(["d"], ["a"], ["a"])


def test_limits_of_agreement_are_bias_and_two_deviations():
    bias, low, high = limits_of_agreement(np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 4, 4]))
    spread = 1.96 * math.sqrt(1 / 3)
    assert (bias, low, high) == pytest.approx((0.5, 0.5 - spread, 0.5 + spread))
    assert math.isnan(limits_of_agreement(np.array([1.0, 2]), np.array([2.0, 2]))[1])


def test_axes_are_labelled_and_colours_come_from_the_page():
    epochs = [{"epoch": n, "loss": 1 / (n + 1), "lr": 10.0**-n, "val/dice": n / 4, "best": True} for n in range(4)]
    epochs[2]["val/dice"] = None
    values = np.linspace(0.1, 0.9, 8)
    figures = {
        learning_curves(epochs, "dice", 3, [Span(0, 1, "head"), Span(2, 3, "all")]): ["epoch", "training loss",
            "validation dice", "learning rate", "best: 0.75 in epoch 4", "head", "0.001"],
        roc_figure("r", [Scored("ill", values, values > 0.5)]): ["1 − specificity", "sensitivity", "ill (area 1.000)"],
        confusion_figure("c", np.array([[3, 1], [0, 4]]), ["a", "b"]): ["predicted", "true", "75%"],
        histogram_figure("h", [("true a", values)], "probability of a"): ["cases", "probability of a", "n = 8"],
        agreement_figure("a", "age", values, values + 0.1): ["true age", "predicted age", "predicted − true", "mean"],
        structures_figure("s", "Dice", [("liver", values), ("none", values[:0])]): ["Dice", "liver (n = 8)", "n = 0"],
    }  # fmt: skip
    for svg, texts in figures.items():
        assert all(text in svg for text in texts), (texts, svg)
        assert 'role="img"><title>' in svg
        assert "var(--ink)" in svg
        assert "var(--series-1)" in svg
        assert "#a0a0" not in svg
        assert "mathdefault" not in svg
        assert "<?xml" not in svg
        assert "xmlns" not in svg
        assert "metadata" not in svg


def test_one_epoch_and_one_case_can_be_drawn():
    line = {"epoch": 0, "loss": 0.5, "lr": 0.0, "best": True}
    assert "training loss" in learning_curves([line], None, 0, [])
    assert "equal" not in agreement_figure("a", "x", np.array([2.0]), np.array([2.0]))
    assert "n = 1" in structures_figure("s", "Dice", [("liver", np.array([0.5]))])


def test_equal_data_give_equal_bytes_and_names_keep_ids_apart():
    values = np.linspace(0.1, 0.9, 8)
    one = roc_figure("one", [Scored("ill", values, values > 0.5)])
    assert one == roc_figure("one", [Scored("ill", values, values > 0.5)])
    two = roc_figure("two", [Scored("ill", values, values > 0.5)])
    ids = [{part.split('"')[0] for part in svg.split(' id="')[1:]} for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_texts_in_figures_are_escaped_and_dollars_are_dollars():
    with drawing("x", "<b>&</b>", width=2, height=1) as one:
        one.axes()[0].plot([0, 1], [0, 1], color=SERIES[0])
        one.axes()[0].set_title("<script> & $\\frac$")
    assert "&lt;script&gt; &amp; $\\frac$" in one.svg
    assert "<script>" not in one.svg
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt;</title>" in one.svg


def test_labels_are_one_short_line():
    assert label("a\n  b\tc\x00\u202e") == "a b c  "
    assert label("x" * 100) == "x" * 23 + "…"


def test_numbers_are_said_with_sense():
    assert [fixed(v) for v in (0.98765, 0.0, 12.3456, 1234567.0, 0.00012, float("nan"))] == [
        "0.988", "0.000", "12.35", "1.235e+06", "0.00012", "undefined",
    ]  # fmt: skip
    assert [number(v) for v in (None, "x", True, 6619.63, 66190.63, 0.5, 12345)] == [
        "–", "x", "True", "6620", "66,191", "0.5", "12,345",
    ]  # fmt: skip
    assert [duration(s) for s in (None, 90, 600, 9000)] == ["–", "90 s", "10 min", "2 h 30 min"]
    assert (by([64, 64, 32.5], "mm"), by(None)) == ("64×64×32.5 mm", "–")
    assert [metric_name(n) for n in ("f1_macro", "f1_macro/x", "mine/y")] == [
        "F1, mean over classes",
        "F1, x",
        "mine, y",
    ]

"""Which epoch is the best one."""

import math
from types import SimpleNamespace

import pytest

from medtl_monai.training.checkpoint import Progress
from medtl_monai.training.fit import Fit


@pytest.fixture
def judge():
    fit = SimpleNamespace(
        progress=Progress(),
        evaluator=object(),
        key="auc",
        metrics={"auc": SimpleNamespace(mode="max")},
        reporter=SimpleNamespace(warn=lambda text: warnings.append(text)),
        _phase_starts=lambda: {0, 5},
    )
    warnings = []

    def step(epoch, value, loss):
        return Fit._judge(fit, epoch, value, loss), fit.progress, warnings

    return step


def test_higher_wins_and_ties_go_to_the_lower_loss(judge):
    assert judge(0, 0.8, 0.5)[0]
    assert judge(1, 1.0, 0.4)[0]
    assert not judge(2, 1.0, 0.6)[0]
    improved, progress, _ = judge(3, 1.0, 0.3)
    assert improved
    assert (progress.best_epoch, progress.best_value, progress.best_loss) == (3, 1.0, 0.3)
    assert progress.stale == 2  # a tie is no gain
    assert not judge(4, 0.9, 0.1)[0]


def test_patience_starts_anew_with_a_phase(judge):
    judge(0, 0.9, 0.5)
    for epoch in range(1, 5):
        judge(epoch, 0.5, 0.5)
    assert judge(4, 0.5, 0.5)[1].stale == 5
    progress = judge(5, 0.5, 0.5)[1]
    assert progress.stale == 1
    assert progress.best_epoch == 0


def test_an_undefined_value_is_never_the_best_and_is_said_once(judge):
    assert not judge(0, math.nan, 0.5)[0]
    improved, progress, warnings = judge(1, math.nan, 0.1)
    assert not improved
    assert progress.best_epoch is None
    assert len(warnings) == 1
    assert "undefined" in warnings[0]

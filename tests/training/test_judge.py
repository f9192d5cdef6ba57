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
    fit.config = SimpleNamespace(plateau_patience=2, patience=3)
    fit.assembly = SimpleNamespace(schedule=SimpleNamespace(waits=lambda epoch, plateaus: plateaus < 2))

    def step(epoch, value, loss):
        improved = Fit._judge(fit, epoch, value, loss)
        fit.progress.epoch = epoch + 1
        return improved, fit.progress, warnings

    step.fit = fit

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


def test_plateaus_are_counted_and_give_a_new_patience(judge):
    seen = []
    for epoch, value in enumerate((0.5, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5)):
        judge(epoch, value, 0.5)
        counted = Fit._count_plateau(judge.fit)
        progress = judge.fit.progress
        seen.append((counted, progress.plateaus, progress.flat, progress.stale, Fit._out_of_patience(judge.fit)))
    assert [row[1] for row in seen] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [epoch for epoch, row in enumerate(seen) if row[0]] == [2, 6]
    assert all(flat == stale == 0 for counted, _, flat, stale, _ in seen if counted)
    assert [row[4] for row in seen] == [False] * 9 + [True], "patience counts from the last plateau"
    assert judge.fit.progress.best_epoch == 4


def test_nothing_is_stopped_while_the_policy_waits_for_a_plateau(judge):
    judge.fit.config.plateau_patience = 5
    for epoch in range(4):
        judge(epoch, 0.5, 0.5)
        assert not Fit._count_plateau(judge.fit)
        assert not Fit._out_of_patience(judge.fit)
    assert judge.fit.progress.stale == 3
    judge.fit.assembly.schedule.waits = lambda epoch, plateaus: False
    judge.fit._phase_starts = lambda: {0}
    assert Fit._out_of_patience(judge.fit)


def test_ties_decided_by_the_loss_are_no_way_off_a_plateau(judge):
    for epoch, loss in enumerate((0.5, 0.4, 0.3)):
        assert judge(epoch, 0.7, loss)[0]
    assert Fit._count_plateau(judge.fit)

"""Pooled folds and ensembles: the common figures are those of the single runs' predictions."""

import json
import math

import numpy as np
import pytest
from helpers_runs import make_data, medtl, read_rows, train
from sklearn.metrics import roc_auc_score

from medtl_monai.evaluation.spread import spread
from medtl_monai.evaluation.statistics import Interval

FOLDS = ("fold-1", "fold-2", "fold-3")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=16)


@pytest.fixture(scope="module")
def folds(labels, tmp_path_factory):
    """Three folds of two seeds, a quarter held out."""
    out = tmp_path_factory.mktemp("folds") / "cv"
    assert train(labels, out, "--folds", 3, "--seeds", 2, "--set", "splits.test=0.25", target="large", epochs=1) == 0
    for part in ("test", "held-out"):
        assert medtl("evaluate", out, "--part", part) == 0
    return out


@pytest.fixture(scope="module")
def masks(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "cv"
    assert train(labels, out, "--seeds", 3, target="mask", epochs=2) == 0
    assert medtl("evaluate", out) == 0
    return out


def stored(run, part="test"):
    return json.loads((run / "evaluation" / part / "metrics.json").read_text())


def rows_of(run, part="test"):
    return {row["case_id"]: row for row in read_rows(run / "evaluation" / part / "predictions.csv")}


def test_pooled_folds_are_the_folds_predictions_put_together(folds):
    pooled, found = rows_of(folds), stored(folds)
    assert found["cases"] == len(pooled) == 12
    own = {}
    for n, fold in enumerate(FOLDS, 1):
        for seed in (0, 1):
            run = folds / fold / f"seed-{seed}"
            assert medtl("evaluate", run) == 0
            own[n, seed] = rows_of(run)
            values = next(m for m in found["members"] if m["run"] == f"{fold}/seed-{seed}")
            assert values["metrics"] == stored(run)["metrics"]
            assert values["cases"] == len(own[n, seed]) == 4
    differing = 0
    for case_id, row in pooled.items():
        n = int(row["fold"])
        p = [float(own[n, seed][case_id]["probability_1"]) for seed in (0, 1)]
        assert float(row["probability_1"]) == pytest.approx(np.mean(p), abs=1e-6)
        assert float(row["std_1"]) == pytest.approx(np.std(p, ddof=1), rel=1e-3, abs=1e-7)
        differing += p[0] != p[1]
    assert differing > 6
    truth = [int(row["true"]) for row in pooled.values()]
    assert 0 < sum(truth) < 12
    by_hand = roc_auc_score(truth, [float(row["probability_1"]) for row in pooled.values()])
    assert found["metrics"]["roc_auc"] == pytest.approx(by_hand)
    assert found["intervals"]["accuracy"] is None or len(found["intervals"]["accuracy"]) == 2


def test_how_folds_and_seeds_differ_is_told(folds):
    over = {s["over"]: s for s in stored(folds)["spreads"]}
    assert over["folds"]["names"] == list(FOLDS)
    assert over["seeds"]["names"] == ["seed-0", "seed-1"]
    auc = over["seeds"]["metrics"]["roc_auc"]
    assert auc["interval"] is None  # two seeds describe, no more
    rows = rows_of(folds)
    mine = {}
    for fold in FOLDS:
        mine |= rows_of(folds / fold / "seed-1")
    assert set(mine) == set(rows)
    by_hand = roc_auc_score([int(r["true"]) for r in mine.values()], [float(r["probability_1"]) for r in mine.values()])
    assert auc["values"][1] == pytest.approx(by_hand)


def test_what_no_fold_saw_is_predicted_by_all(folds):
    held, tested = rows_of(folds, "held-out"), rows_of(folds)
    assert len(held) == 4
    assert not set(held) & set(tested)
    found = stored(folds, "held-out")
    assert len(found["members"]) == 6
    assert found["spreads"] == []
    for run in (folds / fold / "seed-0" for fold in FOLDS):
        parts = {row["case_id"]: row["split"] for row in read_rows(run / "splits.csv")}
        assert {case_id for case_id, part in parts.items() if part == "held-out"} == set(held)
    members = []
    for fold in FOLDS:
        for seed in (0, 1):
            run = folds / fold / f"seed-{seed}"
            assert medtl("evaluate", run, "--part", "held-out") == 0
            members.append(rows_of(run, "held-out"))
    for case_id, row in held.items():
        p = [float(member[case_id]["probability_1"]) for member in members]
        assert len(set(p)) > 3
        assert float(row["probability_1"]) == pytest.approx(np.mean(p), abs=1e-6)


def test_parts_that_differ_from_fold_to_fold_are_refused(folds, capsys):
    assert medtl("evaluate", folds, "--part", "val") == 2
    assert "the val part differs from fold to fold" in capsys.readouterr().err


def test_a_part_that_is_not_there(masks, capsys):
    assert medtl("evaluate", masks, "--part", "held-out") == 2
    assert "no held-out cases" in capsys.readouterr().err


def test_masks_of_an_ensemble_are_scored_with_their_members(masks):
    found = stored(masks)
    assert [m["run"] for m in found["members"]] == ["seed-0", "seed-1", "seed-2"]
    for member in found["members"]:
        assert medtl("evaluate", masks / member["run"]) == 0
        assert stored(masks / member["run"])["metrics"] == pytest.approx(member["metrics"])
    assert len({m["metrics"]["dice"] for m in found["members"]}) == 3
    assert found["metrics"]["dice"] not in {m["metrics"]["dice"] for m in found["members"]}
    (over,) = found["spreads"]
    values = [m["metrics"]["dice"] for m in found["members"]]
    assert over["metrics"]["dice"]["mean"] == pytest.approx(np.mean(values))
    assert over["metrics"]["dice"]["sd"] == pytest.approx(np.std(values, ddof=1))


def test_the_page_of_all_runs(folds):
    page = (folds / "report.html").read_text()
    assert "3 folds pooled" in page
    assert "3 folds × 2 seeds" in page
    assert 'href="fold-2/seed-1/report.html"' in page
    assert "From fold to fold" in page
    assert "From seed to seed" in page
    assert "descriptive only" in page
    assert "Results: held-out" in page
    assert page == (folds / "report.html").read_text()


def test_runs_are_listed_with_all_of_them_first(folds, capsys):
    assert medtl("runs", folds.parent, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in listed][:2] == ["cv", "cv/fold-1/seed-0"]
    assert listed[0]["test"] == stored(folds)["metrics"][listed[0]["metric"]]
    assert listed[0]["status"] == "finished"


def test_a_spread_has_an_interval_only_where_it_means_something():
    values = {f"seed-{n}": {"auc": 0.8 + 0.01 * n} for n in range(6)}
    six = spread("seeds", values)
    mean, sd = np.mean([0.8 + 0.01 * n for n in range(6)]), np.std([0.01 * n for n in range(6)], ddof=1)
    half = 2.5706 * sd / math.sqrt(6)
    bounds = six.intervals["auc"]
    assert isinstance(bounds, Interval)
    assert (bounds.low, bounds.high) == (pytest.approx(mean - half, abs=1e-5), pytest.approx(mean + half, abs=1e-5))
    five = spread("seeds", dict(list(values.items())[:5]))
    assert five.intervals == {"auc": None}
    assert five.sd["auc"] > 0
    assert spread("folds", values).intervals == {"auc": None}
    gaps = spread("folds", {"fold-1": {"auc": math.nan}, "fold-2": {"auc": 0.5}})
    assert gaps.mean["auc"] == 0.5
    assert math.isnan(gaps.sd["auc"])

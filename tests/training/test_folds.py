"""Folds and seeds: every case tested once, nothing learnt from it, and a stop changes nothing."""

import json
import shutil

import numpy as np
import pytest
from helpers_runs import make_data, medtl, read_rows, record, train, write_rows
from safetensors.torch import load_file

from medtl_monai.config import load_config
from medtl_monai.errors import ConfigError, DataError, RunError
from medtl_monai.host import Host
from medtl_monai.training import fit
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.folds import (
    RunsFolder,
    is_several,
    member_config,
    members_of,
    read_division,
    resume_several,
    run_folders,
)
from medtl_monai.training.reporter import Silent
from medtl_monai.training.train import train as train_one

FOLDS = ("fold-1", "fold-2", "fold-3")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def whole(labels, tmp_path_factory):
    """Three folds of a regression, trained without interruption."""
    out = tmp_path_factory.mktemp("whole") / "cv"
    assert train(labels, out, "--folds", 3, target="radius") == 0
    return out


@pytest.fixture(scope="module")
def seeds(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds") / "several"
    assert train(labels, out, "--seeds", "3,5", epochs=1) == 0
    return out


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


def same(one, other):
    a, b = tensors(one), tensors(other)
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def parts_of(run):
    rows = read_rows(run / "splits.csv")
    return {part: {r["case_id"] for r in rows if r["split"] == part} for part in ("train", "val", "test", "held-out")}


def test_every_case_is_tested_once_and_never_learnt_from_there(whole):
    parts = [parts_of(whole / fold) for fold in FOLDS]
    every = set.union(*parts[0].values())
    assert len(every) == 12
    assert sorted(i for p in parts for i in p["test"]) == sorted(every)
    for own in parts:
        assert set.union(*own.values()) == every
        assert sum(map(len, own.values())) == 12
        assert own["val"]
        assert not own["held-out"]
    assert parts[0]["val"] != parts[1]["val"]
    division = {case: place for case, (_, place) in read_division(RunsFolder.open(whole)).items()}
    assert division == {i: fold for fold, p in zip(FOLDS, parts, strict=True) for i in p["test"]}


def test_what_is_measured_of_the_labels_is_measured_on_the_folds_own_training_cases(labels, whole):
    values = {row["image"]: float(row["radius"]) for row in read_rows(labels)}
    assert medtl("evaluate", whole, "--json") == 0
    of_case = {r["case_id"]: float(r["true_radius"]) for r in read_rows(whole / "evaluation/test/predictions.csv")}
    assert sorted(of_case.values()) == pytest.approx(sorted(values.values()))
    means = []
    for fold in FOLDS:
        mine = [of_case[i] for i in parts_of(whole / fold)["train"]]
        target = record(whole / fold)["model"]["context"]["target"]
        assert target["mean"][0] == pytest.approx(np.mean(mine), rel=1e-5)
        assert target["cases"] == len(mine) < 12
        means.append(target["mean"][0])
    assert len(set(means)) == 3


def test_a_fold_is_a_run_like_any_other(labels, whole, tmp_path):
    alone = tmp_path / "alone"
    assert train(labels, alone, "--folds", 3, "--set", "splits.fold=2", target="radius") == 0
    assert same(alone, whole / "fold-2")
    assert not same(alone, whole / "fold-1")
    again = tmp_path / "again"
    assert medtl("train", whole / "fold-2" / "config.yaml", "--labels", labels, "--out", again) == 0
    assert same(again, whole / "fold-2")


def test_an_interrupted_fold_goes_on_bitwise_and_finished_ones_are_left_alone(labels, whole, tmp_path, monkeypatch):
    real, steps = fit.Fit._count_step, []

    def interrupt(self, engine):
        real(self, engine)
        steps.append(self.folder.name)
        if self.folder.name == "fold-2" and engine.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    out = tmp_path / "cv"
    assert train(labels, out, "--folds", 3, target="radius") == 130
    folder = RunsFolder.open(out)
    assert folder.record["status"] == "interrupted"
    assert [m.path for m in folder.unfinished()] == ["fold-2", "fold-3"]
    assert not (out / "fold-3").exists()
    with pytest.raises(RunError, match=r"2 of 3 runs are not finished: fold-2, fold-3\. Go on with"):
        folder.require_finished()
    assert medtl("evaluate", out) == 2
    steps.clear()
    monkeypatch.setattr(
        fit.Fit, "_count_step", lambda self, engine: (real(self, engine), steps.append(self.folder.name))
    )
    assert medtl("train", "--resume", out) == 0
    assert set(steps) == {"fold-2", "fold-3"}
    assert all(same(out / fold, whole / fold) for fold in FOLDS)
    assert RunsFolder.open(out).record["status"] == "finished"


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(labels, whole, tmp_path):
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "fold-3" / "checkpoints")
    (out / "fold-3" / "run.json").write_text(json.dumps({"format": 1, "status": "started"}))
    assert medtl("train", "--resume", out) == 0
    assert same(out / "fold-3", whole / "fold-3")


def test_runs_that_did_not_start_want_the_same_data(labels, whole, tmp_path):
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "fold-3")
    fewer = tmp_path / "fewer.csv"
    rows = read_rows(labels)
    write_rows(fewer, [{**r, **{k: str(labels.parent / r[k]) for k in ("image", "mask")}} for r in rows[:-1]])
    config = load_config(out / "config.yaml", {"data.labels": str(fewer)})
    with pytest.raises((RunError, DataError)):
        resume_several(out, Host.load(), Silent(), config=config)
    assert not (out / "fold-3").exists()


@pytest.mark.parametrize("mistake", [["--policy", "nonsense"], ["--folds", 13], ["--set", "splits.fold=4"]])
def test_a_mistake_leaves_nothing_behind(labels, tmp_path, mistake):
    assert train(labels, tmp_path / "cv", "--folds", 3, *mistake) == 2
    assert not (tmp_path / "cv").exists()
    assert train(labels, tmp_path / "cv", "--folds", 2, "--set", "splits.val=0", epochs=1) == 0


def test_seeds_share_their_splits_and_differ_in_their_weights(labels, seeds, tmp_path):
    assert parts_of(seeds / "seed-3") == parts_of(seeds / "seed-5")
    assert parts_of(seeds / "seed-3")["test"]
    assert not same(seeds / "seed-3", seeds / "seed-5")
    assert train(labels, tmp_path / "five", "--seed", 5, epochs=1) == 0
    assert same(tmp_path / "five", seeds / "seed-5")
    assert [p.name for p in run_folders([seeds])] == ["seed-3", "seed-5"]


def test_a_run_that_is_named_twice_would_count_twice(seeds):
    with pytest.raises(RunError, match="named twice"):
        run_folders([seeds, seeds / "seed-3"])


def test_nothing_in_the_folder_says_where_or_who(whole, labels):
    for file in ("folds.json", "config.yaml", "splits.csv"):
        text = (whole / file).read_text()
        assert str(labels.parent) not in text
        assert "P00" not in text
    assert (whole / "report.html").is_file()
    assert all((whole / fold / "report.html").is_file() for fold in FOLDS)


def test_moved_data_is_found_where_it_is_said_to_be(labels, whole, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(labels.parent, moved)
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "fold-2")
    record_file = out / "fold-3" / "run.json"
    record_file.write_text(record_file.read_text().replace('"finished"', '"interrupted"'))
    assert medtl("train", "--resume", out, "--labels", moved / "labels.csv") == 0
    assert all(same(out / fold, whole / fold) for fold in FOLDS)
    assert medtl("train", "--resume", out, "--folds", 4) == 2


def test_one_training_is_not_several(labels, tmp_path):
    config = load_config(None, {"data.labels": str(labels), "data.target": "kind", "out": str(tmp_path / "run")})
    several = config.model_copy(update={"training": config.training.model_copy(update={"seeds": [0, 1]})})
    with pytest.raises(ConfigError, match="a single run has a single seed"):
        train_one(several, Host.load(), Silent())
    assert not (tmp_path / "run").exists()


def test_a_folder_of_runs_is_no_run(whole):
    with pytest.raises(RunError, match=r"It holds several runs: give one of them"):
        RunFolder.open(whole)


def test_which_runs_there_are():
    config = load_config(None, {"splits.folds": 2, "training.seeds": "2", "training.seed": 9})
    assert is_several(config)
    assert [m.path for m in members_of(config)] == ["fold-1/seed-0", "fold-1/seed-1", "fold-2/seed-0", "fold-2/seed-1"]
    own = member_config(config, members_of(config)[3], None)
    assert (own.splits.fold, own.training.seed, own.training.seeds) == (2, 1, [])
    assert not is_several(own)
    assert [m.path for m in members_of(load_config(None, {"splits.folds": 2}))] == ["fold-1", "fold-2"]
    alone = load_config(None, {"splits.folds": 2, "splits.fold": 2, "training.seeds": "7,8"})
    assert [(m.path, m.fold) for m in members_of(alone)] == [("seed-7", 2), ("seed-8", 2)]
    assert not is_several(load_config())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"splits.fold": 1}, "fold 1 is not one of no folds"),
        ({"splits.folds": 3, "splits.fold": 4}, "fold 4 is not one of 3 folds"),
        ({"splits.folds": 1}, "greater than or equal to 2"),
        ({"training.seeds": "1,1"}, "a seed occurs twice"),
        ({"training.seeds": "a,b"}, "valid integer"),
    ],
)
def test_impossible_runs_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, overrides)

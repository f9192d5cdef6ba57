"""Ensembles in prediction: the mean of their members, on each image's own grid; flips on request only."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_runs import make_data, medtl, read_rows, train

from medtl_monai.errors import ConfigError, RunError
from medtl_monai.host import Host
from medtl_monai.training.ensemble import Ensemble, LoadedRuns, allowed_flips
from medtl_monai.training.folds import run_folders
from medtl_monai.training.trained import TrainedRun

FLIPS = ("--set", "augmentation.flip_axes=[0,1]")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def runs(labels, tmp_path_factory):
    """Two seeds of each task, trained with flips."""
    made = {}
    for target in ("kind", "radius", "mask"):
        made[target] = tmp_path_factory.mktemp(target) / "runs"
        assert train(labels, made[target], "--seeds", 2, *FLIPS, target=target, epochs=1) == 0
    return made


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    folder = make_data(tmp_path_factory.mktemp("new"), cases=4, seed=9).parent / "images"
    for mask in folder.glob("mask_*"):
        mask.unlink()
    return folder


def predicted(out, *arguments):
    assert medtl("predict", *arguments, "--out", out) == 0
    return {row["case_id"]: row for row in read_rows(out / "predictions.csv")}


def test_probabilities_are_the_mean_of_the_members(runs, new, tmp_path):
    one, two = (predicted(tmp_path / f"{n}", runs["kind"] / f"seed-{n}", new) for n in (0, 1))
    both = predicted(tmp_path / "both", runs["kind"], new)
    named = predicted(tmp_path / "named", runs["kind"] / "seed-0", runs["kind"] / "seed-1", new)
    assert both == named
    assert len(both) == 4
    for case_id, row in both.items():
        p = [float(each[case_id]["probability_b"]) for each in (one, two)]
        assert p[0] != p[1]
        assert float(row["probability_b"]) == pytest.approx(np.mean(p), abs=1e-6)
        assert float(row["std_b"]) == pytest.approx(np.std(p, ddof=1), rel=1e-3)
        assert row["predicted"] == "ab"[int(np.mean(p) > 0.5)]
    assert not any(name.startswith("std_") for name in next(iter(one.values())))
    made = json.loads((tmp_path / "both/predictions.json").read_text())
    assert [run["run"] for run in made["runs"]] == ["seed-0", "seed-1"]
    assert made["tta_axes"] == []


def test_numbers_are_the_mean_of_the_members(runs, new, tmp_path):
    one, two = (predicted(tmp_path / f"{n}", runs["radius"] / f"seed-{n}", new) for n in (0, 1))
    both = predicted(tmp_path / "both", runs["radius"], new)
    for case_id, row in both.items():
        values = [float(each[case_id]["predicted_radius"]) for each in (one, two)]
        assert values[0] != values[1]
        assert float(row["predicted_radius"]) == pytest.approx(np.mean(values), rel=1e-6)
        assert float(row["std_radius"]) == pytest.approx(np.std(values, ddof=1), rel=1e-3)


def test_masks_are_of_the_mean_probability_on_the_images_grid(runs, new, tmp_path):
    both = predicted(tmp_path / "both", runs["mask"], new)
    host = Host.load()
    members = [TrainedRun(path, host) for path in run_folders([runs["mask"]])]
    from medtl_monai.data.cases import CaseTable, unlabelled_cases
    from medtl_monai.evaluation.evaluate import read_image

    cases = unlabelled_cases(new, members[0].inputs)
    table = CaseTable(cases=tuple(cases), kind="mask", inputs=members[0].inputs)
    different = 0
    for case in cases:
        maps = [run.predict(read_image(run, table, case), case_id="x").probabilities for run in members]
        mean = torch.stack(maps).mean(0)[0].argmax(0).numpy()
        mask = np.asarray(nib.load(tmp_path / "both" / both[case.case_id]["mask"]).dataobj)
        assert np.array_equal(mask, mean)
        different += not np.array_equal(mean, maps[0][0].argmax(0).numpy())
        assert float(both[case.case_id]["std_label-1_ml"]) >= 0
    assert different == 4


def test_a_single_run_predicts_as_by_itself(runs, new, tmp_path):
    alone = predicted(tmp_path / "alone", runs["kind"] / "seed-0", new)
    run = TrainedRun(runs["kind"] / "seed-0", Host.load())
    from medtl_monai.outputs.predict import predict
    from medtl_monai.training.reporter import Silent

    result = predict(run, new, tmp_path / "api", Silent())
    assert [dict(row) for row in result.rows] == list(alone.values())


def test_runs_that_predict_something_else_are_refused(runs, new, tmp_path, capsys):
    out = tmp_path / "out"
    assert medtl("predict", runs["kind"] / "seed-0", runs["radius"] / "seed-0", new, "--out", out) == 2
    assert "they differ in their target" in capsys.readouterr().err
    assert not out.exists()


def test_models_that_do_not_fit_are_loaded_one_at_a_time(runs, monkeypatch):
    paths = run_folders([runs["kind"]])
    opened = []
    real = TrainedRun.__init__
    monkeypatch.setattr(
        TrainedRun, "__init__", lambda self, path, *a, **k: (opened.append(path.name), real(self, path, *a, **k))[1]
    )
    whole = LoadedRuns(paths, Host.load())
    assert [run.folder.name for _ in range(2) for run in whole] == ["seed-0", "seed-1"] * 2
    assert opened == ["seed-0", "seed-1"]
    opened.clear()
    tight = LoadedRuns(paths, Host.load(), share=0.0)
    assert [run.folder.name for _ in range(2) for run in tight] == ["seed-0", "seed-1"] * 2
    assert opened == ["seed-0", "seed-1"] * 2
    with pytest.raises(IndexError):
        whole[2]


def test_an_ensemble_needs_a_member():
    with pytest.raises(ValueError, match="needs a member"):
        Ensemble([])


def test_flips_of_training_are_averaged(runs, new, tmp_path):
    run = runs["kind"] / "seed-0"
    plain = predicted(tmp_path / "plain", run, new)
    flipped = predicted(tmp_path / "tta", run, new, "--tta")
    named = predicted(tmp_path / "named", run, new, "--tta-axes", "0,1")
    assert flipped == named
    assert any(flipped[i]["probability_b"] != plain[i]["probability_b"] for i in plain)
    assert json.loads((tmp_path / "tta/predictions.json").read_text())["tta_axes"] == [0, 1]
    host = Host.load()
    from medtl_monai.data.cases import CaseTable, unlabelled_cases
    from medtl_monai.evaluation.evaluate import read_image

    one, mean = TrainedRun(run, host), TrainedRun(run, host, flips=(0, 1))
    (case, *_) = cases = unlabelled_cases(new, one.inputs)
    table = CaseTable(cases=tuple(cases), kind="class", inputs=one.inputs)
    image = one.preprocessing.image(read_image(one, table, case), where="x")
    with torch.inference_mode():
        by_hand = [one._one_prediction(image.flip(dims), "x").probabilities for dims in ([], [1], [2], [1, 2])]
    assert len({float(p[0, 0]) for p in by_hand}) > 1
    mine = mean.predict(read_image(mean, table, case), case_id="x").probabilities
    assert torch.allclose(mine, torch.stack(by_hand).mean(0).detach(), atol=1e-6)


def test_flips_are_recorded_with_the_evaluation(runs):
    run = runs["mask"] / "seed-1"
    assert medtl("evaluate", run, "--tta") == 0
    found = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert found["tta_axes"] == [0, 1]
    assert "mean over flips along axes 0, 1" in (run / "report.html").read_text()
    assert medtl("evaluate", run) == 0
    assert "tta_axes" not in json.loads((run / "evaluation/test/metrics.json").read_text())


def test_flips_that_training_did_not_allow_must_be_named(labels, tmp_path, new, capsys):
    run = tmp_path / "run"
    assert train(labels, run, epochs=1) == 0
    assert medtl("predict", run, new, "--out", tmp_path / "out", "--tta") == 2
    assert "left and right may differ" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert medtl("predict", run, new, "--out", tmp_path / "named", "--tta-axes", "0") == 0
    for axes, words in (("3", "not axes of a 3D image"), ("x", "not a list of axes")):
        assert medtl("predict", run, new, "--out", tmp_path / axes, "--tta-axes", axes) == 2
        assert words in capsys.readouterr().err
    off = tmp_path / "off"
    assert train(labels, off, "--no-augment", *FLIPS, epochs=1) == 0
    with pytest.raises(ConfigError, match="without flips"):
        allowed_flips([off])


def test_an_unfinished_ensemble_is_refused(runs, tmp_path, new):
    import shutil

    broken = tmp_path / "runs"
    shutil.copytree(runs["kind"], broken)
    shutil.rmtree(broken / "seed-1")
    with pytest.raises(RunError, match="1 of 2 runs are not finished: seed-1"):
        run_folders([broken])


def test_in_python(labels, tmp_path, new):
    import medtl_monai as medtl_api

    run = medtl_api.train(
        labels=labels, target="kind", backbone="unet-3d:features=8,levels=3,num_res_units=0", out=tmp_path / "cv",
        folds=2, epochs=1, set={"training.min_steps": 1, "training.tune": False},
    )  # fmt: skip
    assert [member.path.name for member in run.members] == ["fold-1", "fold-2"]
    assert run.record["status"] == "finished"
    found = medtl_api.open_run(run.path).evaluate()
    assert found.cases == 12
    assert [m.run for m in found.members] == ["fold-1", "fold-2"]
    assert run.members[0].members == (run.members[0],)
    assert len(run.resume().predict(new, tmp_path / "out", tta_axes=(0,)).rows) == 4

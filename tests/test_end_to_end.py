"""From labels to predictions through the command line, for every kind of target."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers_runs import BACKBONE, make_data, medtl, read_rows, record, train
from safetensors.torch import load_file

from medtl_monai.training.checkpoint import CheckpointStore


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def segmentation_run(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "segmentation"
    assert train(labels, out, "--set", "training.min_steps=15", target="mask", epochs=6) == 0
    return out


def tensors(run, which="last"):
    return load_file(CheckpointStore(run / "checkpoints").model_file(which))


@pytest.mark.parametrize(
    ("target", "task", "columns"),
    [
        ("kind", "classification", {"predicted", "probability_a", "probability_b"}),
        ("radius", "regression", {"predicted_radius"}),
        ("bright,large", "multilabel", {"predicted_bright", "probability_bright", "probability_large"}),
    ],
)
def test_train_evaluate_predict(labels, tmp_path, capsys, target, task, columns):
    run = tmp_path / "run"
    assert train(labels, run, target=target) == 0
    assert record(run)["task"] == task
    assert record(run)["status"] == "finished"
    capsys.readouterr()
    assert medtl("evaluate", run, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    stored = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert printed["cases"] == stored["cases"] == record(run)["cases"]["test"] > 0
    assert medtl("predict", run, labels.parent / "images", "--out", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert len(rows) == 32  # every NIfTI file below the folder, masks included
    assert columns <= set(rows[0])
    values = [row[sorted(columns)[-1]] for row in rows]
    assert len(set(values)) > 1


def test_segmentation_learns_and_predicts_on_the_original_grid(labels, segmentation_run, tmp_path):
    assert medtl("evaluate", segmentation_run) == 0
    stored = json.loads((segmentation_run / "evaluation/test/metrics.json").read_text())
    assert stored["metrics"]["dice"] > 0.5
    assert set(stored["metrics"]) == {"dice", "dice/label-1", "dice/label-2"}
    (tmp_path / "in").mkdir()
    source = nib.load(labels.parent / "images/image_03.nii")
    # The same anatomy on another grid: flipped, and with another origin.
    flipped = nib.Nifti1Image(
        np.ascontiguousarray(source.get_fdata()[::-1]),
        np.array([[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    )
    nib.save(flipped, tmp_path / "in/flipped.nii.gz")
    shutil.copy(labels.parent / "images/image_03.nii", tmp_path / "in/plain.nii")
    assert medtl("predict", segmentation_run, tmp_path / "in", "--out", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out/predictions.csv")
    masks = {}
    for row in rows:
        mask = nib.load(tmp_path / "out" / row["mask"])
        assert mask.shape == (16, 16, 16)
        masks[bool(mask.affine[0, 0] < 0)] = np.asarray(mask.dataobj)
        assert float(row["label-1_ml"]) == pytest.approx((np.asarray(mask.dataobj) == 1).sum() / 1000, rel=1e-5)
    assert masks[False].any()
    assert np.array_equal(masks[True][::-1], masks[False])


def test_a_finished_run_is_a_backbone_and_its_decoder_a_neck(labels, segmentation_run, tmp_path):
    run = tmp_path / "target"
    assert train(labels, run, "--backbone", segmentation_run, "--policy", "linear-probe", target="mask") == 0
    coverage = json.loads((run / "coverage.json").read_text())
    assert coverage["coverage"] == 1.0
    assert all(done for name, done in coverage["pretrained"].items() if name != "head")
    assert "up1" in coverage["pretrained"]
    before, after = tensors(segmentation_run, "best"), tensors(run)
    frozen = [k for k in before if k.startswith(("backbone.", "head.necks."))]
    trained = [k for k in before if k not in frozen]
    assert len(frozen) > 8
    assert all(np.array_equal(before[k], after[k]) for k in frozen)
    assert any(not np.array_equal(before[k], after[k]) for k in trained)


def test_another_head_on_a_finished_run(labels, segmentation_run, tmp_path):
    run = tmp_path / "target"
    assert train(labels, run, "--backbone", segmentation_run) == 0
    assert record(run)["policy"] == "lp-ft"
    assert record(run)["source"] == "segmentation"
    assert json.loads((run / "coverage.json").read_text())["coverage"] == 1.0


def test_freezing_what_received_no_weights_is_refused(labels, tmp_path, capsys):
    assert train(labels, tmp_path / "run", "--policy", "linear-probe") == 2
    assert "no backbone stage received weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_control_experiment_may_freeze_random_stages_and_says_so(labels, tmp_path):
    flags = ("--policy", "linear-probe", "--set", "model.allow_random_frozen=true")
    assert train(labels, tmp_path / "run", *flags) == 0
    assert record(tmp_path / "run")["random_frozen"] == ["level0", "level1", "level2"]


def test_two_runs_of_one_seed_are_equal_for_any_number_of_workers(labels, tmp_path):
    for name, extra in (("a", ()), ("b", ("--workers", 2)), ("c", ("--seed", 1))):
        assert train(labels, tmp_path / name, *extra) == 0
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not all(np.array_equal(a[k], c[k]) for k in a)


def test_dry_run_shows_the_plan_and_writes_nothing(labels, tmp_path, capsys):
    assert train(labels, tmp_path / "run", "--dry-run") == 0
    text = capsys.readouterr().out
    for part in ("Cases", "Backbone", "Policy full", "level0", "Steps", "Memory"):
        assert part in text
    assert not (tmp_path / "run").exists()
    assert train(labels, tmp_path / "run", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["cost"]["steps"] > 0
    assert plan["policy"][0]["parameters"] > 0


def test_runs_lists_what_was_trained(segmentation_run, capsys):
    assert medtl("runs", segmentation_run.parent, "--json") == 0
    (run,) = [r for r in json.loads(capsys.readouterr().out) if r["run"] == "segmentation"]
    assert run["status"] == "finished"
    assert run["backbone"] == "unet-3d"
    assert 0 < run["val"] <= 1


def test_the_python_api_says_the_same(labels, tmp_path):
    import medtl_monai as medtl_api

    run = medtl_api.train(
        labels=labels, target="kind", backbone=BACKBONE, out=tmp_path / "api", epochs=2, tune=False,
        set={"training.min_steps": 1, "training.warmup": 0},
    )  # fmt: skip
    assert train(labels, tmp_path / "cli") == 0
    a, b = tensors(tmp_path / "api"), tensors(tmp_path / "cli")
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert run.evaluate().cases == record(tmp_path / "cli")["cases"]["test"]
    with pytest.raises(medtl_api.MedtlError, match="backbone"):
        medtl_api.train(labels=labels, backbon="x")

"""A run that is interrupted and resumed ends bitwise equal to one that was not."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers_runs import BACKBONE, QUICK, make_data, medtl, read_rows, record, train, write_rows
from safetensors.torch import load_file

from medtl_monai.training import fit
from medtl_monai.training.checkpoint import CheckpointStore

EPOCHS = 4


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def source(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "source"
    assert train(labels, out, target="mask") == 0
    return out


@pytest.fixture(scope="module")
def uninterrupted(labels, source, tmp_path_factory):
    runs = {}
    for policy in ("full", "gradual:every=1", "l2-sp"):
        runs[policy] = tmp_path_factory.mktemp("whole") / "run"
        assert train(labels, runs[policy], "--backbone", source, "--policy", policy, epochs=EPOCHS) == 0
    return runs


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


def assert_equal_and_trained(run, other, source):
    a, b, start = tensors(run), tensors(other), tensors(source)
    assert set(a) == set(b)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert any(not np.array_equal(a[k], start[k]) for k in a if k in start)
    assert [x for x in (run / "metrics.jsonl").read_text().splitlines() if "loss" in x]


@pytest.mark.parametrize("policy", ["full", "gradual:every=1", "l2-sp"])
@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_interrupted_in_an_epoch(labels, source, uninterrupted, tmp_path, monkeypatch, policy, epoch):
    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == epoch + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    run = tmp_path / "run"
    assert train(labels, run, "--backbone", source, "--policy", policy, epochs=EPOCHS) == 130
    assert record(run)["status"] == "interrupted"
    monkeypatch.undo()
    assert medtl("train", "--resume", run) == 0
    assert_equal_and_trained(run, uninterrupted[policy], source)
    lines = [line["epoch"] for line in fit_lines(run)]
    assert lines == list(range(EPOCHS))


def test_balanced_draws_resume_bitwise(labels, tmp_path, monkeypatch):
    balanced = ["--set", "training.sampling=balanced"]
    rows = [row for row in read_rows(labels) if row["kind"] == "a" or row["patient"] < "P06"]
    uneven = labels.parent / "uneven.csv"
    write_rows(uneven, rows)
    assert train(uneven, tmp_path / "natural", epochs=EPOCHS) == 0
    assert train(uneven, tmp_path / "whole", *balanced, epochs=EPOCHS) == 0
    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    assert train(uneven, tmp_path / "run", *balanced, epochs=EPOCHS) == 130
    monkeypatch.undo()
    assert medtl("train", "--resume", tmp_path / "run") == 0
    whole, natural = tensors(tmp_path / "whole"), tensors(tmp_path / "natural")
    resumed = tensors(tmp_path / "run")
    assert all(np.array_equal(resumed[k], whole[k]) for k in whole)
    assert any(not np.array_equal(natural[k], whole[k]) for k in whole)


def test_rare_classes_do_not_count_twice(labels, tmp_path, capsys):
    balanced = ["--set", "training.sampling=balanced"]
    assert train(labels, tmp_path / "run", *balanced, epochs=1) == 0
    assert record(tmp_path / "run")["model"]["head_parameters"]["class_weights"] == "none"
    assert train(labels, tmp_path / "natural", epochs=1) == 0
    assert record(tmp_path / "natural")["model"]["head_parameters"]["class_weights"] == "balanced"
    assert train(labels, tmp_path / "twice", *balanced, "--head", "classification", epochs=1) == 2
    assert "--head classification:class_weights=none" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize(("target", "why"), [("mask", "patches already are"), ("radius", "numbers have no classes")])
def test_balanced_draws_want_classes(labels, tmp_path, capsys, target, why):
    assert train(labels, tmp_path / "run", "--set", "training.sampling=balanced", target=target) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def fit_lines(run):
    from medtl_monai.training.folder import RunFolder

    return RunFolder.open(run).read_metrics()


def test_a_finished_run_resumes_to_itself(uninterrupted, source):
    run = uninterrupted["full"]
    before = tensors(run)
    assert medtl("train", "--resume", run) == 0
    after = tensors(run)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert record(run)["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_stopped(labels, source, uninterrupted, tmp_path, kind):
    run = tmp_path / "run"
    arguments = ["--labels", labels, "--target", "kind", "--backbone", source, "--policy", "full", "--out", run]
    quick = ["--epochs", EPOCHS, "--set", "training.min_steps=1", "--set", "training.warmup=0", "--no-tune"]
    command = [sys.executable, "-m", "medtl_monai", "train", *map(str, arguments + quick)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(run / "checkpoints" / "index.json", process)
    os.killpg(process.pid, kind)
    _, errors = process.communicate(timeout=120)
    if kind != signal.SIGKILL and process.returncode != 0:
        assert process.returncode == 130
        assert "--resume" in errors
    assert medtl("train", "--resume", run) == 0
    assert_equal_and_trained(run, uninterrupted["full"], source)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["fold-1/run.json", "fold-1/checkpoints/index.json", "fold-2/checkpoints/index.json"]
)
def test_folds_that_are_killed(labels, tmp_path, moment):
    assert train(labels, tmp_path / "whole", "--folds", 2, epochs=EPOCHS) == 0
    run = tmp_path / "cv"
    flags = ["--labels", labels, "--target", "kind", "--backbone", BACKBONE, "--out", run, "--epochs", EPOCHS, *QUICK]
    command = [sys.executable, "-m", "medtl_monai", "train", *map(str, flags), "--folds", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(run / moment, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    assert medtl("train", "--resume", run) == 0
    for fold in ("fold-1", "fold-2"):
        one, two = tensors(run / fold), tensors(tmp_path / "whole" / fold)
        assert all(np.array_equal(one[k], two[k]) for k in two)
    first, second = tensors(run / "fold-1"), tensors(run / "fold-2")
    assert any(not np.array_equal(first[k], second[k]) for k in first)


def wait_for(path, process):
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)

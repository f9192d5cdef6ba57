"""Unfreezing on plateaus, end to end: a scripted metric, the counter in the checkpoint, resume bitwise equal."""

import pytest
from helpers_runs import make_data, medtl, record, train
from safetensors.torch import load_file
from torch import equal

from medtl_monai.training import fit
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.folder import RunFolder

EPOCHS = 9
# Flat for two epochs after 0, 3 and 6; the last plateau comes when there is nothing left to wait for.
SCRIPT = (0.6, 0.6, 0.5, 0.7, 0.7, 0.7, 0.8, 0.6, 0.6)
PLATEAUS = (0, 0, 0, 1, 1, 1, 2, 2, 2)
POLICY = ["--policy", "gradual-on-plateau", "--set", "training.plateau_patience=2"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def source(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "source"
    assert train(labels, out, target="mask") == 0
    return out


@pytest.fixture
def scripted(monkeypatch):
    real = fit.Fit._validate

    def validate(self):
        return {**real(self), self.key: SCRIPT[self.trainer.state.epoch - 1]}

    monkeypatch.setattr(fit.Fit, "_validate", validate)


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


def trainable(run):
    return [line["trainable"] for line in RunFolder.open(run).read_metrics()]


@pytest.fixture
def whole(labels, source, tmp_path, scripted):
    out = tmp_path / "whole"
    assert train(labels, out, "--backbone", source, *POLICY, epochs=EPOCHS) == 0
    return out


def test_stages_thaw_when_the_metric_is_flat(whole, source):
    counts = trainable(whole)
    assert [counts.index(n) for n in sorted(set(counts))] == [0, 3, 6], "thawed after each plateau"
    assert counts == sorted(counts)
    state = CheckpointStore(whole / "checkpoints").load("last")
    assert state.progress.plateaus == 2
    assert state.extra["freezer"]["plateaus"] == list(PLATEAUS)
    start, end = load_file(CheckpointStore(source / "checkpoints").model_file("best")), tensors(whole)
    moved = {k.split(".")[2] for k in end if k.startswith("backbone.") and not equal(end[k], start[k])}
    assert moved == {"level1", "level2"}, "two of three levels thawed"


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 6, 8])
def test_resumed_at_any_moment_it_ends_equal(labels, source, whole, tmp_path, monkeypatch, epoch):
    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == epoch + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    run = tmp_path / "run"
    assert train(labels, run, "--backbone", source, *POLICY, epochs=EPOCHS) == 130
    assert CheckpointStore(run / "checkpoints").load("last").progress.plateaus == PLATEAUS[epoch]
    monkeypatch.setattr(fit.Fit, "_count_step", real)
    assert medtl("train", "--resume", run) == 0
    a, b = tensors(run), tensors(whole)
    assert set(a) == set(b)
    assert all(equal(a[k], b[k]) for k in a)
    assert trainable(run) == trainable(whole)


@pytest.mark.usefixtures("scripted")
def test_patience_waits_for_the_plateaus(labels, source, tmp_path):
    """Patience of one would stop in epoch 2; the policy is waiting then, and stopping would leave it half done."""
    run = tmp_path / "run"
    assert train(labels, run, "--backbone", source, *POLICY, "--patience", 1, epochs=EPOCHS) == 0
    assert len(trainable(run)) > 6
    assert record(run)["best_value"] == 0.8


@pytest.mark.usefixtures("scripted")
def test_a_policy_that_goes_by_epochs_counts_no_plateaus(labels, source, tmp_path):
    run = tmp_path / "run"
    assert train(labels, run, "--backbone", source, "--policy", "gradual", *POLICY[2:], epochs=4) == 0
    assert CheckpointStore(run / "checkpoints").load("last").progress.plateaus == 0


def test_without_validation_there_is_nothing_to_wait_for(labels, source, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(labels, run, "--backbone", source, *POLICY, "--set", "splits.val=0") == 2
    assert "no validation cases" in capsys.readouterr().err
    assert not run.exists()

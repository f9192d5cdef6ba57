"""Whole runs with ``--policy lora``: what moves, resume, export without the plugin, and a run as a source."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers_runs import make_data, medtl, record, train
from safetensors.torch import load_file

from medtl_monai.host import Host
from medtl_monai.training import fit
from medtl_monai.training.assemble import reassemble
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.datasets import load_datasets
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.places import locate
from medtl_monai.training.reporter import Silent
from medtl_monai.training.trained import TrainedRun
from medtl_monai.transfer.adapters import adapters, load_states

EPOCHS = 3
LORA = "lora:rank=2,dropout=0.1"
OPTIONS = ["--set", "training.lr=0.01"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def source(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "source"
    assert train(labels, out, target="mask") == 0
    return out


@pytest.fixture(scope="module")
def runs(labels, source, site, tmp_path_factory):
    """A run with adapters, one with a linear probe, and one that thaws after adapters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        found = {}
        for name, policy in (("lora", LORA), ("probe", "linear-probe"), ("then", f"{LORA}.then(full, at=0.5)")):
            found[name] = tmp_path_factory.mktemp(name) / "run"
            assert train(labels, found[name], "--backbone", source, "--policy", policy, *OPTIONS, epochs=EPOCHS) == 0
        return found


def tensors(run, which="last"):
    return load_file(CheckpointStore(run / "checkpoints").model_file(which))


def unmerged(run):
    return CheckpointStore(run / "checkpoints").load("last").extra["adapters"]


def same(a, b):
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_checkpoints_hold_merged_weights_and_the_adapters(runs, source):
    plain, start, extra = tensors(runs["lora"]), tensors(source, "best"), unmerged(runs["lora"])
    assert set(plain) == set(tensors(runs["probe"])), "the names are those of a run without adapters"
    base = {k: v for k, v in extra.items() if ".base." in k}
    assert base
    for key, tensor in base.items():
        assert np.array_equal(tensor, start[key.replace(".base.", ".")]), f"{key} was frozen"
    norms = [k for k in plain if k.startswith("backbone.") and ("running" in k or "adn.N" in k)]
    assert all(np.array_equal(plain[k], start[k]) for k in norms)
    moved = [k for k in plain if k.startswith("backbone.") and not np.array_equal(plain[k], start[k])]
    assert len(moved) == len([k for k in base if k.endswith("weight")])
    assert all(extra[k].abs().max() > 0 for k in extra if k.endswith("up.weight"))


def test_it_is_not_a_linear_probe(runs, source):
    start, probe = tensors(source, "best"), tensors(runs["probe"])
    assert all(np.array_equal(probe[k], start[k]) for k in probe if k.startswith("backbone."))
    lines = {name: RunFolder.open(runs[name]).read_metrics() for name in ("lora", "probe")}
    assert lines["lora"][0]["trainable"] > 2 * lines["probe"][0]["trainable"]
    assert lines["lora"][-1]["loss"] != lines["probe"][-1]["loss"]
    total = sum(v.numel() for v in probe.values())
    assert lines["lora"][0]["trainable"] < total


def test_the_run_says_what_was_used(runs):
    plugins = {p["name"]: p for p in json.loads((runs["lora"] / "plugins.json").read_text())}
    assert plugins["medtl-lora:lora"]["parameters"]["rank"] == 2
    assert record(runs["lora"])["policy"] == "lora"
    assert record(runs["then"])["policy"].startswith("lora:rank=2")
    assert "medtl_lora.layers:adapt" in (runs["lora"] / "policy.csv").read_text()
    names = {p["name"] for p in json.loads((runs["then"] / "plugins.json").read_text())}
    assert {"medtl-lora:lora", "medtl-monai:full"} <= names


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["lora", "then"])
@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_interrupted_and_resumed_it_ends_bitwise_equal(labels, source, runs, tmp_path, monkeypatch, name, epoch):
    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == epoch + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    run = tmp_path / "run"
    policy = LORA if name == "lora" else f"{LORA}.then(full, at=0.5)"
    assert train(labels, run, "--backbone", source, "--policy", policy, *OPTIONS, epochs=EPOCHS) == 130
    monkeypatch.setattr(fit.Fit, "_count_step", real)
    assert medtl("train", "--resume", run) == 0
    assert same(tensors(run), tensors(runs[name]))
    assert same(unmerged(run), unmerged(runs[name]))
    assert not same(tensors(run), tensors(runs["probe"]))


def test_prediction_needs_neither_adapters_nor_the_plugin(runs, monkeypatch):
    monkeypatch.setenv("MEDTL_PLUGINS", "")
    trained = TrainedRun(runs["lora"], Host.load(environ={"MEDTL_PLUGINS": ""}), device="cpu")
    assert not [k for k in trained.model.state_dict() if ".base." in k]
    assert medtl("evaluate", runs["lora"]) == 0
    rows = (runs["lora"] / "evaluation/test/predictions.csv").read_text().splitlines()
    assert len(rows) > 1


def test_the_merged_model_computes_what_the_adapted_one_does(runs, host):
    folder = RunFolder.open(runs["lora"])
    assembly = reassemble(folder, locate(folder), host)
    batch = load_datasets(assembly, Silent()).probe(4)
    merged = TrainedRun(runs["lora"], host, device="cpu", which="last").model
    load_states(assembly.model, tensors(runs["lora"]), unmerged(runs["lora"]))
    assert adapters(assembly.model)
    with torch.no_grad():
        a, b = merged.eval()(batch), assembly.model.eval()(batch)
    assert torch.allclose(a, b, atol=1e-5, rtol=0)
    assert a.std() > 1e-3


def test_a_run_with_adapters_is_a_source_again(labels, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_PLUGINS", "")
    out = tmp_path / "next"
    assert train(labels, out, "--backbone", runs["lora"], "--policy", "linear-probe", epochs=1) == 0
    best = tensors(runs["lora"], "best")
    after = tensors(out)
    assert all(np.array_equal(after[k], best[k]) for k in after if k.startswith("backbone."))
    assert json.loads((out / "coverage.json").read_text())["coverage"] == 1


@pytest.mark.usefixtures("installed")
def test_a_stage_without_targets_is_named_before_anything_is_written(labels, source, tmp_path, capsys):
    out = tmp_path / "run"
    policy = "lora:targets=no.such"
    assert train(labels, out, "--backbone", source, "--policy", policy) == 2
    assert "fits no layer of stage 'level0'" in capsys.readouterr().err
    assert not out.exists()


def test_resuming_without_the_plugin_says_what_is_missing(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDTL_PLUGINS", "")
    assert medtl("train", "--resume", runs["lora"]) == 2
    assert "needs adapter 'lora' of 'medtl_lora', which is no active plugin" in capsys.readouterr().err


@pytest.mark.usefixtures("installed")
def test_a_run_folder_cannot_choose_what_code_is_run(runs, tmp_path, capsys):
    run = shutil.copytree(runs["lora"], tmp_path / "run")
    table = run / "policy.csv"
    table.write_text(table.read_text().replace("medtl_lora.layers:adapt", "os:system"))
    assert medtl("train", "--resume", run) == 2
    assert "of 'os', which is no active plugin" in capsys.readouterr().err


@pytest.mark.usefixtures("installed")
def test_in_bf16_it_trains_and_resumes(labels, source, tmp_path):
    run = tmp_path / "run"
    options = [*OPTIONS, "--set", "training.precision=bf16"]
    assert train(labels, run, "--backbone", source, "--policy", LORA, *options, epochs=2) == 0
    base = {k: v for k, v in unmerged(run).items() if ".base." in k}
    start = tensors(source, "best")
    assert all(np.array_equal(v, start[k.replace(".base.", ".")]) for k, v in base.items())
    assert all(v.dtype == torch.float32 for v in tensors(run).values() if v.is_floating_point())
    assert medtl("train", "--resume", run) == 0

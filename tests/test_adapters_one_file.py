"""An adapter from a one-file plugin: train, resume, and predict from merged weights without the file."""

import pytest
from helpers_runs import make_data, medtl, train
from safetensors.torch import load_file
from torch import equal

from medtl_monai.host import Host
from medtl_monai.training import fit
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.trained import TrainedRun

PLUGIN = """
import torch
from torch import nn

from medtl_monai.plugin import Adapter, AdapterSpec, FreezePolicy, PolicySpec, Rule, hookimpl


class Shift(Adapter):
    def __init__(self, base):
        super().__init__(base)
        self.shift = nn.Parameter(torch.zeros_like(base.bias))

    def forward(self, x):
        return self.base(x) + self.shift[:, None, None, None]

    def merged(self):
        return {**self.base.state_dict(), "bias": self.base.bias + self.shift}


def adapt(name, layer):
    return Shift(layer) if type(layer) is nn.Conv3d and layer.bias is not None else None


class Shifted(FreezePolicy):
    def __call__(self, at, stages):
        rule = Rule(params="adapter", adapter=AdapterSpec(name="shift", build=f"{__name__}:adapt"))
        return {s.name: rule if s.pretrained else Rule() for s in stages}


@hookimpl
def medtl_freeze_policies():
    yield PolicySpec(name="shifted", summary="Shifts", build=":Shifted", license="MIT")
"""


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "shift.py"
    path.write_text(PLUGIN)
    return path


def test_it_trains_resumes_and_predicts(tmp_path, plugin, monkeypatch, capsys):
    labels = make_data(tmp_path / "data", cases=12)
    source, whole, run = tmp_path / "source", tmp_path / "whole", tmp_path / "run"
    assert train(labels, source, target="mask") == 0
    options = ["--backbone", source, "--plugin", plugin, "--policy", "shifted", "--set", "training.lr=0.01"]
    assert train(labels, whole, *options, epochs=3) == 0
    assert "adapters (shift) in " in capsys.readouterr().err

    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    assert train(labels, run, *options, epochs=3) == 130
    monkeypatch.setattr(fit.Fit, "_count_step", real)
    assert medtl("train", "--resume", run, "--plugin", plugin) == 0
    a, b, start = tensors(run), tensors(whole), load_file(CheckpointStore(source / "checkpoints").model_file("best"))
    assert set(a) == set(b)
    assert all(equal(a[k], b[k]) for k in a)
    moved = {k.rpartition(".")[2] for k in a if k.startswith("backbone.") and not equal(a[k], start[k])}
    assert moved == {"bias"}
    model = TrainedRun(run, Host.load(environ={"MEDTL_PLUGINS": ""}), device="cpu", which="last").model
    assert all(equal(tensor, a[k]) for k, tensor in model.state_dict().items())

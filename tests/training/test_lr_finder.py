"""The range test suggests by its rule, stops in time, and leaves no trace."""

import csv
import json
import math
import random

import numpy as np
import pytest
import torch
from helpers_runs import QUICK, make_data, medtl, train
from safetensors.torch import load_file

from medtl_monai.config import load_config
from medtl_monai.host import Host
from medtl_monai.training.assemble import assemble
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.datasets import load_datasets
from medtl_monai.training.lr_finder import find_lr, suggest
from medtl_monai.training.reporter import Silent

BACKBONE = "unet-3d:features=8,levels=3,num_res_units=0"


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


def settings(labels, **more):
    base = {"data.labels": str(labels), "data.target": "kind", "model.backbone": BACKBONE, "model.policy": "full"}
    return load_config(None, {**base, "training.batch_size": 4, **more})


def assembled(config):
    assembly = assemble(config, Host.load(), Silent())
    return assembly, load_datasets(assembly, Silent())


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


def test_the_loss_falls_then_rises_and_the_suggestion_lies_between(labels):
    assembly, datasets = assembled(settings(labels))
    curve = find_lr(assembly, datasets, Silent())
    assert len(curve.lrs) == len(curve.losses) == len(curve.smoothed) > 40
    ratios = [b / a for a, b in zip(curve.lrs, curve.lrs[1:], strict=False)]
    assert max(ratios) / min(ratios) == pytest.approx(1)
    assert curve.suggestion is not None
    assert curve.lrs[0] < curve.suggestion < curve.lowest <= curve.lrs[-1]
    assert min(curve.smoothed) < 0.9 * curve.smoothed[0]
    assert set(curve.trains) == {stage.name for stage in assembly.model.stages}


def test_only_what_the_first_phase_trains_takes_part(labels, tmp_path):
    assert train(labels, tmp_path / "source", target="bright", epochs=1) == 0
    config = settings(labels, **{"model.backbone": str(tmp_path / "source"), "model.policy": "linear-probe"})
    assembly, datasets = assembled(config)
    assert find_lr(assembly, datasets, Silent(), steps=5).trains == ("head",)


def test_it_leaves_no_trace_in_the_process(labels):
    assembly, datasets = assembled(settings(labels))
    before = {name: value.clone() for name, value in assembly.model.state_dict().items()}
    torch.manual_seed(4)
    np.random.seed(4)
    random.seed(4)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    rules, training = dict(assembly.model.rules), assembly.model.training
    curve = find_lr(assembly, datasets, Silent(), steps=30)
    assert len(set(curve.losses)) > 20  # it did train
    assert all(torch.equal(value, before[name]) for name, value in assembly.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert (assembly.model.rules, assembly.model.training) == (rules, training)
    assert all(p.grad is None and p.requires_grad for p in assembly.model.parameters())
    # Once more gives the same.
    assert find_lr(assembly, datasets, Silent(), steps=30) == curve


def test_training_after_it_is_training_without_it(labels, tmp_path, capsys):
    assert train(labels, tmp_path / "before") == 0
    assert train(labels, tmp_path / "after", "--find-lr") == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "after").exists()
    assert (tmp_path / "after-lr.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "after-lr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["lr", "loss", "smoothed"]
    assert float(rows[0]["lr"]) == 1e-6
    assert "no suggestion" in out or "\n  --lr " in out
    assert train(labels, tmp_path / "after") == 0
    one, two = tensors(tmp_path / "before"), tensors(tmp_path / "after")
    assert all(np.array_equal(one[k], two[k]) for k in one)


def test_the_command_speaks_json_and_takes_folds(labels, capsys):
    flags = ["--labels", labels, "--target", "kind", "--backbone", BACKBONE, *QUICK]
    assert medtl("train", *flags, "--folds", 3, "--find-lr", "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert set(found) >= {"lrs", "losses", "smoothed", "suggestion", "lowest", "diverged", "trains"}
    assert found["files"] == []
    assert "looked for on fold-1" in captured.err
    assert medtl("train", *flags, "--find-lr", "--dry-run") == 2


def test_it_stops_when_the_loss_diverges(labels, monkeypatch):
    assembly, datasets = assembled(settings(labels))
    real, calls = type(assembly.model.head).loss, []

    def loss(self, output, batch):
        calls.append(1)
        return real(self, output, batch) * (math.nan if len(calls) > 12 else 1)

    monkeypatch.setattr(type(assembly.model.head), "loss", loss)
    curve = find_lr(assembly, datasets, Silent())
    assert curve.diverged
    assert len(curve.lrs) == 13


def test_the_rule():
    lrs = np.geomspace(1e-6, 1, 121)
    falling = 1 / (1 + (lrs / 1e-3) ** 2) + 0.1  # half way down at 1e-3, and steepest there
    suggestion, lowest = suggest(lrs, falling)
    assert 6e-4 < suggestion < 1.7e-3
    assert lowest == 1
    assert suggest(lrs, np.ones(121))[0] is None
    assert suggest(lrs, 1 + np.linspace(0, 1, 121))[0] is None
    assert suggest(lrs, 1 - 0.03 * np.linspace(0, 1, 121))[0] is None
    assert suggest(lrs[:3], [math.nan] * 3) == (None, None)

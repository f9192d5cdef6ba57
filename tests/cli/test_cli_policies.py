"""medtl policies show POLICY --backbone B: the table that a policy makes, before there is any data."""

import json

import pytest

from medtl_monai.cli import main

SHOW = ["policies", "show"]
WITH = ["--backbone", "resnet10-3d", "--epochs", "6"]


@pytest.fixture(autouse=True)
def _builtins_only(monkeypatch):
    monkeypatch.setenv("MEDTL_PLUGINS", "")


def table(capsys, policy, *arguments):
    assert main([*SHOW, policy, *(arguments or WITH), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(capsys, *arguments):
    assert main([*SHOW, *arguments]) == 2
    return capsys.readouterr().err


def test_epochs_stages_rates_and_parameters(capsys):
    assert main([*SHOW, "gradual:every=3", *WITH]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:2] == ["Epochs", "Stage"]
    assert ["1-3", "layer4", "backbone", "loaded", "frozen", "-", "0", "yes"] in lines
    assert ["4-6", "layer4", "backbone", "loaded", "all", "1", "10,750,976", "-"] in lines
    assert ["1-3", "head", "head", "none", "all", "1", "1,026", "-"] in lines
    assert ["4-6", "all", "10,752,002"] in lines


def test_as_json(capsys):
    rows = table(capsys, "last-n:n=2")
    assert [row["stage"] for row in rows] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert [row["cacheable"] for row in rows] == [True] * 3 + [False] * 3
    assert [row["trains"] for row in rows] == ["none"] * 3 + ["all"] * 3
    assert {(row["first_epoch"], row["last_epoch"]) for row in rows} == {(0, 5)}
    assert [row["parameters"] > 0 for row in rows] == [False] * 3 + [True] * 3


def test_policies_combined(capsys):
    rows = table(capsys, "linear-probe.then(full * llrd:decay=0.5, at=0.5)")
    assert [row["lr"] for row in rows] == [0, 0, 0, 0, 0, 1, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1]
    assert {row["policy"] for row in rows} == {"linear-probe.then(full * llrd:decay=0.5, at=0.5)"}


def test_plateaus_are_shown_and_explained(capsys):
    assert main([*SHOW, "gradual-on-plateau", *WITH]) == 0
    captured = capsys.readouterr()
    assert "2-6 (plateau 1)" in captured.out
    assert "training.plateau_patience" in captured.err


def test_another_head_brings_its_necks(capsys):
    rows = table(capsys, "linear-probe", "--backbone", "unet-2d", "--head", "segmentation", "--epochs", "2")
    necks = [row for row in rows if row["role"] == "neck"]
    assert necks
    assert all(row["weights"] == "none" and row["trains"] == "all" for row in necks)


@pytest.mark.parametrize("head", ["classification", "multilabel", "regression", "segmentation"])
def test_every_head_can_be_shown(head, capsys):
    rows = table(capsys, "full", "--backbone", "unet-3d:levels=3", "--head", head)
    assert rows[-1]["stage"] == "head"
    assert rows[-1]["parameters"] > 0
    assert rows[0]["last_epoch"] == 29, "the default of training"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["bitfitt", *WITH], "Did you mean 'bitfit'"),
        (["gradual * lrrd", *WITH], "Did you mean 'llrd'"),
        (["full", "--backbone", "resnet10"], "Did you mean 'resnet10-3d'"),
        (["full", *WITH, "--head", "clasification"], "Did you mean 'classification'"),
        (["surgical:stages=layer9", *WITH], "no stage 'layer9'"),
        (["last-n:n=9", *WITH], "n=9, but 5 stages received weights"),
        (["full", "--backbone", "resnet10-3d", "--epochs", "0"], "epochs is 0"),
        (["full", "--epochs", "3"], "Add --backbone"),
        (["full", "--head", "segmentation"], "Add --backbone"),
        (["full * llrd"], "Add --backbone"),
        (["norm-only * bitfit", *WITH], "cannot be combined"),
        (["full.then(llrd)", *WITH], "at=0.3"),
    ],
)
def test_what_does_not_fit_is_said(arguments, what, capsys):
    assert what in error(capsys, *arguments)


def test_without_a_backbone_the_policy_is_described(capsys):
    assert main([*SHOW, "gradual"]) == 0
    assert "every=3" in capsys.readouterr().out

"""medtl scan with several images a study: which series would be which input, and why the others would not."""

import csv
import json

import pytest
from helpers_dicom import Recipe
from helpers_inputs import described, write_study

from medtl_monai.cli import main

ONE = ["--input", "T1.description=t1", "--input", "FLAIR.description=flair"]


@pytest.fixture(autouse=True)
def id_key(monkeypatch):
    monkeypatch.setenv("MEDTL_ID_KEY", "a key for the tests of this room")


@pytest.fixture
def tree(tmp_path):
    """Four studies: clear, without FLAIR, with two FLAIR, and with a FLAIR that misses a slice."""
    folder = tmp_path / "studies"
    for n in range(4):
        first = write_study(folder / f"s{n}", n, flair=n != 1)
        if n == 2:
            Recipe(study=first.study, patient="P2", slices=9, edit=described("flair 2")).write(folder / "s2/more")
    sorted((folder / "s3/flair").iterdir())[4].unlink()
    return folder


def report(capsys, *options):
    assert main(["scan", *map(str, options), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(found):
    return {s["folder"]: (s["input"], s["verdict"], s["reason"]) for study in found["studies"] for s in study["series"]}


def states(found):
    return [study["inputs"] for study in sorted(found["studies"], key=lambda study: study["series"][0]["folder"])]


def test_each_series_has_its_input_or_a_reason(tree, capsys):
    found = report(capsys, tree, *ONE)
    shown = lines(found)
    assert shown["s0/t1"] == ("T1", "kept", "")
    assert shown["s0/flair"] == ("FLAIR", "kept", "")
    assert shown["s2/more"] == shown["s2/flair"] == ("FLAIR", "one of several", "2 series could be FLAIR")
    assert shown["s3/flair"][:2] == ("FLAIR", "refused")
    assert "missing" in shown["s3/flair"][2]
    assert {"T1": "kept", "FLAIR": "kept"} in states(found)
    wrong = [study["inputs"]["FLAIR"] for study in found["studies"]]
    assert wrong == ["kept", "missing", "2 series could be it", "refused"]
    # Best first, in the order of the inputs.
    assert [s["folder"] for s in found["studies"][2]["series"]] == ["s2/t1", "s2/more", "s2/flair"]


def test_reasons_by_input(tree, capsys):
    found = report(capsys, tree, "--input", "PD.description=pd", "--input", "T1.description=t1")
    assert lines(found)["s0/flair"] == ("", "left out", "PD: description; T1: description")
    assert lines(found)["s0/t1"] == ("T1", "kept", "")
    found = report(capsys, tree, "--input", "T1.description=t1", "--input", "MPRAGE.description=mprage")
    assert lines(found)["s0/t1"] == ("T1 or MPRAGE", "one of several", "it could be T1 or MPRAGE")
    assert found["studies"][0]["inputs"] == {"T1": "the same series as MPRAGE", "MPRAGE": "the same series as T1"}


def test_the_table_and_the_terminal(tree, tmp_path, capsys):
    assert main(["scan", str(tree), *ONE, "-o", str(tmp_path / "cases.csv")]) == 0
    shown = capsys.readouterr()
    assert "Input" in shown.out
    assert "FLAIR: missing" in shown.out
    assert "the images are clear in 1" in shown.out
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["input FLAIR"] for row in rows] == ["kept", "missing", "2 series could be it", "refused"]
    verdicts = [row["verdict"] for row in rows]
    assert verdicts[:3] == ["kept", "FLAIR: missing", "FLAIR: 2 series could be it"]
    assert verdicts[3].startswith("FLAIR: refused: ")
    assert "1 slice(s) missing" in verdicts[3]
    assert rows[0]["shape"] == "12x12x6"


def test_from_a_configuration(tree, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        "data:\n  inputs:\n    T1: {description: t1}\n    FLAIR: {description: flair, missing: fill}\n"
        "training: {epochs: 3}\n"
    )
    found = report(capsys, tree, "--config", config)
    assert found["studies"][1]["inputs"]["FLAIR"] == "missing, filled"
    assert main(["scan", str(tree), "--config", str(config)]) == 0
    assert "the images are clear in 2" in capsys.readouterr().out
    found = report(capsys, tree, "--config", config, "--input", "FLAIR.missing=drop")
    assert found["studies"][1]["inputs"]["FLAIR"] == "missing, the study is left out"
    config.write_text("data:\n  select: {description: t1}\n")
    found = report(capsys, tree, "--config", config)
    assert "inputs" not in found["studies"][0]
    assert [s["verdict"] for s in found["studies"][0]["series"]] == ["kept", "left out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "description=t1"], "'description' is not NAME.RULE"),
        (["--input", "T1.a.b=t1"], "'T1.a.b' is not NAME.RULE"),
        (["--input", "T1.descripton=t1"], "unknown key 'data.inputs.T1.descripton'"),
        (["--input", "T1.modality=MR", "--select", "modality=MR"], "select and inputs are both set"),
        (["--config", "absent.yaml"], "no such config file"),
    ],
)
def test_bad_options(options, message, tree, capsys):
    assert main(["scan", str(tree), *options]) == 2
    assert message in capsys.readouterr().err

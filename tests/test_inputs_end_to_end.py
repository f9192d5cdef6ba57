"""Several series as channels through the command line: scan, train, evaluate, predict, resume."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers_data import affine_of
from helpers_dicom import Recipe
from helpers_inputs import DROP, described, write_pet_ct
from helpers_runs import BACKBONE, QUICK, make_data, medtl, read_rows, record, train, write_rows
from safetensors.torch import load_file

from medtl_monai.data.preprocessing import Preprocessing
from medtl_monai.training import fit
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.folder import RunFolder

CASES = 12
SIZE = ["--set", "preprocessing.size=[16, 16, 16]", "--backbone", BACKBONE, "--epochs", "2", *QUICK]
INPUTS = ["--set", "data.inputs={T1: {description: t1}, FLAIR: {description: flair, missing: fill}}"]


def write_mr(folder: Path, n: int, *, flair: bool = True) -> Recipe:
    """Write a noisy T1 that tells nothing and a FLAIR, on a grid of its own, that is bright in every other study."""
    rng = np.random.default_rng(n)

    def fill(text, level):
        def edit(dataset, k):
            values = rng.normal(level, 30, (dataset.Rows, dataset.Columns)).clip(0, 60000)
            dataset.PixelData = values.astype("<u2").tobytes()
            dataset.SeriesDescription = text

        return edit

    grid = {"columns": 16, "rows": 16, "slices": 12, "spacing": (1.0, 1.0), "step": 1.0, "patient": f"P{n}"}
    first = Recipe(edit=fill("t1 mprage", 500), **grid).write(folder / "t1")
    if flair:
        coarse = {**grid, "columns": 12, "rows": 12, "slices": 10, "spacing": (1.5, 1.5), "step": 1.5}
        pattern = fill("t2 flair", 500)

        def edit(dataset, k):
            pattern(dataset, k)
            # Bright slices in the upper half of b: what zscore leaves to be learnt.
            if n % 2 and k >= 5:
                dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + 400).astype("<u2").tobytes()

        Recipe(study=first.study, edit=edit, origin=(-20.5, -31.5, 41.5), **coarse).write(folder / "flair")
    return first


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mr")
    recipes = [write_mr(folder / "studies" / f"s{n:02d}", n, flair=n != 4) for n in range(CASES)]
    rows = [{"StudyInstanceUID": r.study, "kind": "ab"[n % 2]} for n, r in enumerate(recipes)]
    write_rows(folder / "labels.csv", rows)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "mr"
    flags = ["--studies", data / "studies", "--labels", data / "labels.csv", "--target", "kind", "--out", out]
    assert medtl("train", *flags, *SIZE, *INPUTS) == 0
    return out


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_the_run_knows_its_inputs(data, run):
    stored = record(run)
    assert stored["images"]["inputs"] == ["T1", "FLAIR"]
    assert stored["images"]["channels"] == 2
    assert {name: len(ids) for name, ids in stored["images"]["filled"].items()} == {"FLAIR": 1}
    plan = Preprocessing.from_json(stored["model"]["preprocessing"])
    assert [p.name for p in plan.channel_plans] == ["T1", "FLAIR"]
    assert stored["model"]["context"]["image_channels"] == 2
    assert RunFolder(run).read_config().data.inputs["FLAIR"].missing == "fill"
    report = (run / "report.html").read_text()
    assert "T1, FLAIR" in report
    assert "FLAIR in 1 of 12 cases" in report
    written = b"".join(p.read_bytes() for p in run.rglob("*") if p.is_file())
    for secret in ("DOE^JANE", "s04", str(data), "t1 mprage"):
        assert secret.encode() not in written


def test_evaluate(run, capsys):
    capsys.readouterr()
    assert medtl("evaluate", run, "--part", "train", "--json") == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics


def test_predict_chooses_the_inputs_and_refuses_what_lacks_one(data, run, tmp_path, capsys):
    new = tmp_path / "new"
    write_mr(new / "whole", 1)
    write_mr(new / "half", 3, flair=False)
    other = Recipe(patient="P5", edit=described("pd"), columns=16, rows=16, slices=12)
    other.write(new / "other/pd")
    assert medtl("predict", run, new, "--out", tmp_path / "out", "--id-map", tmp_path / "map.csv") == 2
    names = {row["case_id"]: row["source"].split(os.sep)[0] for row in read_rows(tmp_path / "map.csv")}
    rows = {names[row["case_id"]]: row for row in read_rows(tmp_path / "out/predictions.csv")}
    assert set(rows) == {"whole", "half", "other"}
    assert rows["whole"]["predicted"] in "ab"
    assert rows["whole"]["filled"] == ""
    assert rows["half"]["filled"] == "FLAIR"
    assert rows["half"]["predicted"] in "ab"
    assert "0 series that could be T1" in rows["other"]["refused"]
    assert rows["whole"]["probability_a"] != rows["half"]["probability_a"]
    assert "0 series that could be T1" in capsys.readouterr().err


def test_a_required_input_is_named_where_it_is_missing(data, run, tmp_path):
    # The same run, as if the FLAIR had been required.
    strict = tmp_path / "strict"
    strict.mkdir()
    for item in run.iterdir():
        (strict / item.name).symlink_to(item)
    (strict / "config.yaml").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["inputs"]["FLAIR"]["missing"] = "error"
    (strict / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_mr(tmp_path / "new/half", 3, flair=False)
    write_mr(tmp_path / "new/whole", 3)
    assert medtl("predict", strict, tmp_path / "new", "--out", tmp_path / "out") == 2
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert [("0 series that could be FLAIR" in row["refused"]) for row in rows].count(True) == 1
    assert "filled" not in rows[0]


def test_resumed_equals_uninterrupted(data, run, tmp_path, monkeypatch):
    out = tmp_path / "again"
    flags = ["--studies", data / "studies", "--labels", data / "labels.csv", "--target", "kind", "--out", out]
    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    assert medtl("train", *flags, *SIZE, *INPUTS) == 130
    monkeypatch.undo()
    assert not equal(tensors(out), tensors(run))
    assert medtl("train", "--resume", out) == 0
    assert equal(tensors(out), tensors(run))


def test_a_source_run_with_one_channel_gives_weights_for_two(data, tmp_path, capsys):
    flags = ["--studies", data / "studies", "--labels", data / "labels.csv", "--target", "kind"]
    one = ["--set", "data.select.description=t1"]
    assert medtl("train", *flags, *SIZE, *one, "--out", tmp_path / "one") == 0
    rest = [*SIZE[:2], "--backbone", tmp_path / "one", *SIZE[4:]]
    drop = ["--set", f"data.inputs={json.dumps(DROP)}"]
    assert medtl("train", *flags, *rest, *drop, "--out", tmp_path / "two") == 0
    assert record(tmp_path / "two")["images"]["channels"] == 2
    assert sum(record(tmp_path / "two")["cases"].values()) == CASES - 1
    text = capsys.readouterr().err
    assert "1 studies that miss an input were left out" in text
    loaded, total = re.search(r"loaded (\d+) of (\d+) backbone tensors from run one", text).groups()
    assert loaded == total != "0"
    again = [*SIZE[:2], "--backbone", tmp_path / "two", *SIZE[4:]]
    assert medtl("train", *flags, *again, *drop, "--dry-run") == 0
    shown = capsys.readouterr()
    assert "T1, FLAIR" in shown.out
    assert "source run has learnt" not in shown.err


def test_a_run_from_before_there_were_inputs_still_opens(tmp_path):
    labels = make_data(tmp_path / "data", cases=8)
    run = tmp_path / "run"
    assert train(labels, run, epochs=1) == 0
    stored = record(run)
    assert stored["images"]["inputs"] == []
    for key in ("inputs", "filled"):
        del stored["images"][key]
    del stored["model"]["preprocessing"]["channel_plans"]
    (run / "run.json").write_text(json.dumps(stored))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["image"] == ["image"]
    config["data"]["image"] = "image"
    for section, key in (("data", "inputs"), ("data", "channels"), ("preprocessing", "channels")):
        del config[section][key]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert medtl("evaluate", run) == 0
    assert medtl("predict", run, tmp_path / "data/images", "--out", tmp_path / "out") == 0
    assert len({row["probability_a"] for row in read_rows(tmp_path / "out/predictions.csv")}) > 1
    assert medtl("train", "--resume", run) == 0


def test_pet_and_ct(tmp_path):
    recipes = [write_pet_ct(tmp_path / "studies" / f"s{n}", n) for n in range(6)]
    rows = [{"StudyInstanceUID": r.study, "value": f"{0.5 * n + 0.25}"} for n, r in enumerate(recipes)]
    write_rows(tmp_path / "labels.csv", rows)
    flags = ["--studies", tmp_path / "studies", "--labels", tmp_path / "labels.csv", "--target", "value", *SIZE]
    flags += ["--set", "data.inputs={CT: {modality: CT}, PET: {modality: PT}}", "--head", "regression"]
    assert medtl("train", *flags, "--set", "preprocessing.clip=[-1000, 400]", "--out", tmp_path / "bad") == 2
    assert not (tmp_path / "bad").exists()
    own = ["--set", "preprocessing.channels={CT: {clip: [-1000, 400]}, PET: {unit: SUVbw}}"]
    assert medtl("train", *flags, *own, "--out", tmp_path / "run") == 0
    images = record(tmp_path / "run")["images"]
    assert (images["modalities"], images["units"]) == (["CT", "PT"], ["HU", "SUVbw"])
    assert medtl("evaluate", tmp_path / "run") == 0
    assert medtl("predict", tmp_path / "run", tmp_path / "studies", "--out", tmp_path / "out") == 0
    values = [row["predicted_value"] for row in read_rows(tmp_path / "out/predictions.csv")]
    assert len(values) == 6


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["columns", "fourth axis"])
def test_nifti_masks(layout, tmp_path):
    import nibabel as nib

    rng = np.random.default_rng(0)
    rows = []
    for n in range(8):
        ball = np.linalg.norm(np.indices((16, 16, 16)) - rng.uniform(6, 10, 3)[:, None, None, None], axis=0) < 5
        pair = [rng.normal(0, 0.3, ball.shape), rng.normal(0, 0.3, ball.shape) + 2 * ball]
        mask = nib.Nifti1Image(ball.astype(np.uint8), affine_of(np.eye(3)))
        nib.save(mask, tmp_path / f"mask_{n}.nii")
        row = {"patient": f"P{n}", "mask": f"mask_{n}.nii"}
        if layout == "columns":
            for name, array in zip(("t1", "flair"), pair, strict=True):
                nib.save(nib.Nifti1Image(array.astype(np.float32), mask.affine), tmp_path / f"{name}_{n}.nii")
                row[name] = f"{name}_{n}.nii"
        else:
            nib.save(nib.Nifti1Image(np.stack(pair, -1).astype(np.float32), mask.affine), tmp_path / f"image_{n}.nii")
            row["image"] = f"image_{n}.nii"
        rows.append(row)
    write_rows(tmp_path / "labels.csv", rows)
    flags = ["--labels", tmp_path / "labels.csv", "--target", "mask", "--out", tmp_path / "run"]
    flags += ["--backbone", BACKBONE, "--epochs", "3", *QUICK, "--set", "training.min_steps=12", "--no-augment"]
    flags += ["--image", "t1,flair"] if layout == "columns" else ["--set", "data.channels=t1,flair"]
    assert medtl("train", *flags) == 0
    assert record(tmp_path / "run")["images"]["inputs"] == ["t1", "flair"]
    assert medtl("evaluate", tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run/evaluation/test/metrics.json").read_text())["metrics"]
    assert metrics["dice"] > 0.5
    (tmp_path / "new").mkdir()
    if layout == "columns":
        source = tmp_path / "labels.csv"
    else:
        source = tmp_path / "new"
        (source / "case.nii").write_bytes((tmp_path / "image_3.nii").read_bytes())
    assert medtl("predict", tmp_path / "run", source, "--out", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert len(rows) == (8 if layout == "columns" else 1)
    made = nib.load(tmp_path / "out" / rows[3 if layout == "columns" else 0]["mask"])
    true = np.asarray(nib.load(tmp_path / "mask_3.nii").dataobj)
    found = np.asarray(made.dataobj)
    assert 2 * (found * true).sum() / (found.sum() + true.sum()) > 0.5

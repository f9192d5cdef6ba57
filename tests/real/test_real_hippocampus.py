"""Real MR studies as DICOM, end to end through the command line: a short run of each task."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers_runs import medtl, read_rows, record

FOLDER = Path(os.environ.get("MEDTL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "hippocampus_dicom"

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real hippocampus studies are not on this machine"),
]

QUICK = ["--epochs", 1, "--no-tune", "--set", "training.warmup=0"]
SMALL = "resnet10-3d:features=8,levels=3,norm=instance"


def train(out, target, *flags):
    data = ["--studies", FOLDER / "studies", "--labels", FOLDER / "labels.csv", "--target", target, "--out", out]
    assert medtl("train", *data, *QUICK, *flags) == 0
    assert medtl("evaluate", out) == 0
    metrics = json.loads((out / "evaluation/test/metrics.json").read_text())
    assert metrics["cases"] == 8
    return metrics["metrics"]


def test_classification(tmp_path):
    metrics = train(tmp_path / "run", "large", "--backbone", SMALL, "--set", "training.min_steps=6")
    assert 0 <= metrics["roc_auc"] <= 1
    rows = read_rows(tmp_path / "run/evaluation/test/predictions.csv")
    assert {row["true"] for row in rows} == {"0", "1"}
    assert len({row["probability_1"] for row in rows}) == 8


def test_regression(tmp_path):
    metrics = train(tmp_path / "run", "anterior_ml", "--backbone", SMALL, "--set", "training.min_steps=6")
    rows = read_rows(tmp_path / "run/evaluation/test/predictions.csv")
    truth = np.array([float(row["true_anterior_ml"]) for row in rows])
    predicted = np.array([float(row["predicted_anterior_ml"]) for row in rows])
    assert predicted.std() > 0
    assert metrics["mae"] == pytest.approx(np.abs(truth - predicted).mean(), rel=1e-4)


def test_segmentation(tmp_path):
    backbone = "unet-3d:features=16,levels=4,num_res_units=0,first_stride=2"
    flags = ["--backbone", backbone, "--lr", 3e-3, "--set", "training.min_steps=25"]
    metrics = train(tmp_path / "run", "mask", *flags)
    assert record(tmp_path / "run")["model"]["context"]["target"]["classes"][0] == "background"
    assert metrics["dice"] > 0.3
    study = sorted((FOLDER / "studies").iterdir())[0]
    assert medtl("predict", tmp_path / "run", study, "--out", tmp_path / "out") == 0
    (row,) = read_rows(tmp_path / "out/predictions.csv")
    mask = nib.load(tmp_path / "out" / row["mask"])
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
    assert np.asarray(mask.dataobj).any()
    assert "dicom" not in str(mask.header["descrip"])

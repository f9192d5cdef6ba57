"""Data sets as they are found, end to end through the command line."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers_layouts import class_folders, decathlon, nnunet
from helpers_runs import BACKBONE, QUICK, make_data, medtl, read_rows, record

import medtl_monai
from medtl_monai.config import load_config

SAMPLES = Path(__file__).parents[1] / "sample_dicoms"


def train(dataset, out, *arguments, epochs=1):
    flags = ["--dataset", dataset, "--out", out, "--epochs", epochs, "--backbone", BACKBONE]
    return medtl("train", *flags, *QUICK, *arguments)


def as_decathlon(root):
    """Write learnable images and masks in the Decathlon's layout, two of them for prediction."""
    table = make_data(root / "made", cases=12)
    images, masks = ([root / "made" / row[column] for row in read_rows(table)] for column in ("image", "mask"))
    data = decathlon(root / "Task99_DOE_JANE", cases=10, tests=2, modality={"0": "CT"})
    for n, (image, mask) in enumerate(zip(images, masks, strict=True)):
        name = f"heart_{n:03d}.nii.gz"
        nib.save(nib.load(image), data / ("imagesTr" if n < 10 else "imagesTs") / name)
        if n < 10:
            nib.save(nib.load(mask), data / "labelsTr" / name)
    return data


def test_one_command_trains_on_a_decathlon_data_set(tmp_path, capfd, monkeypatch):
    data = as_decathlon(tmp_path)
    run = tmp_path / "runs/heart"
    assert train(data, run) == 0
    shown = capfd.readouterr().err
    assert "taken for the Medical Segmentation Decathlon's layout: 10 labelled cases (CT)" in shown
    assert record(run)["model"]["context"]["target"]["classes"] == ["background", "atrium", "wall"]
    assert medtl("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert metrics["cases"] == 2
    assert "dice/wall" in metrics["metrics"]
    assert medtl("predict", run, data, "--out", tmp_path / "runs/out") == 0
    rows = read_rows(tmp_path / "runs/out/predictions.csv")
    assert len(rows) == 2
    assert {row["atrium_ml"] for row in rows} != {""}
    for path in (tmp_path / "runs").rglob("*"):
        if path.is_file():
            assert b"DOE_JANE" not in path.read_bytes(), path.name
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
            assert b"heart_0" not in path.read_bytes(), path.name


def test_a_data_set_that_has_moved(tmp_path, capfd):
    data = as_decathlon(tmp_path)
    run = tmp_path / "run"
    assert train(data, run, epochs=2) == 0
    first = record(run)
    data.rename(tmp_path / "moved")
    assert medtl("evaluate", run) == 2
    assert "the run's data set is not where it was. Say where: --dataset PATH" in capfd.readouterr().err
    assert medtl("evaluate", run, "--dataset", tmp_path / "moved") == 0
    assert medtl("evaluate", run, "--studies", tmp_path / "moved") == 2
    assert "not trained on a place given by --studies" in capfd.readouterr().err
    assert medtl("train", "--resume", run, "--dataset", tmp_path / "moved") == 0
    assert record(run)["best_value"] == first["best_value"] is not None


def test_the_plan_and_the_configuration_of_a_run(tmp_path, capfd):
    data = as_decathlon(tmp_path)
    assert train(data, tmp_path / "run", "--dry-run") == 0
    shown = capfd.readouterr()
    assert "Structures" in shown.out
    assert "atrium, wall" in shown.out
    assert not (tmp_path / "run").exists()
    assert train(data, tmp_path / "run") == 0
    stored = (tmp_path / "run/config.yaml").read_text()
    assert "layout: decathlon" in stored
    assert "dataset: null" in stored
    again = ["train", tmp_path / "run/config.yaml", "--dataset", data, "--out", tmp_path / "again", "--dry-run"]
    assert medtl(*again) == 0


def test_the_same_words_in_python(tmp_path):
    data = as_decathlon(tmp_path)
    settings = {"training.min_steps": 1, "training.warmup": 0, "training.tune": False}
    run = medtl_monai.train(dataset=data, backbone=BACKBONE, epochs=1, out=tmp_path / "run", set=settings)
    assert run.evaluate().cases == 2
    config = load_config(None, {"data.dataset": str(data), "model.backbone": BACKBONE, **settings})
    other = medtl_monai.train(config, epochs=1, out=tmp_path / "other")
    assert other.record["best_value"] == run.record["best_value"] is not None


def test_nnunet_with_given_test_cases(tmp_path):
    data = nnunet(tmp_path / "Dataset001", cases=6, tests=2, labelled=True, shape=(16, 16, 16))
    run = tmp_path / "run"
    assert train(data, run, "--set", "splits.val=0.3") == 0
    assert record(run)["cases"] == {"train": 4, "val": 2, "test": 2}
    assert medtl("evaluate", run) == 0
    assert json.loads((run / "evaluation/test/metrics.json").read_text())["cases"] == 2
    # The parts of an earlier run go with those the data set gives.
    assert train(data, tmp_path / "two", "--set", f"splits.file={run / 'splits.csv'}") == 0
    assert (tmp_path / "two/splits.csv").read_text() == (run / "splits.csv").read_text()


@pytest.mark.parametrize("layout", ["decathlon", "nnunet"])
def test_several_channels(tmp_path, layout):
    shape = (16, 16, 16)
    if layout == "decathlon":
        data = decathlon(tmp_path / "set", cases=6, shape=(*shape, 2), modality={"0": "T1", "1": "T2"})
    else:
        data = nnunet(tmp_path / "set", cases=6, tests=2, channels=("T1", "T2"), shape=shape)
    run = tmp_path / "run"
    assert train(data, run) == 0
    assert record(run)["images"]["channels"] == 2
    assert medtl("evaluate", run) == 0
    assert medtl("predict", run, data, "--out", tmp_path / "out") == 0
    assert len({row["wall_ml"] for row in read_rows(tmp_path / "out/predictions.csv")}) == 2


def test_dicom_in_class_folders(tmp_path, capfd):
    """The sample MR studies by kind; the table's given parts as folders."""
    root = tmp_path / "kinds"
    rows = read_rows(SAMPLES / "target.csv")
    for row in rows:
        number = row["AccessionNumber"][-3:]
        shutil.copytree(SAMPLES / "studies/mr" / number, root / row["split"] / row["kind"] / number)
    run = tmp_path / "run"
    assert train(root, run) == 0
    shown = capfd.readouterr().err
    assert "taken for one folder a class: 25 DICOM images in 2 classes (ring 12, solid 13)" in shown
    wanted = {part: sum(row["split"] == part for row in rows) for part in ("train", "val", "test")}
    assert record(run)["cases"] == wanted == {"train": 7, "val": 4, "test": 14}
    assert medtl("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert (metrics["cases"], metrics["groups"]) == (14, 12)
    assert medtl("predict", run, root / "test", "--out", tmp_path / "out") == 0
    ids = {row["case_id"] for row in read_rows(tmp_path / "out/predictions.csv")}
    assert ids == {row["case_id"] for row in read_rows(run / "evaluation/test/predictions.csv")}
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert not any(row[key].encode() in written for row in rows for key in ("StudyInstanceUID", "PatientID"))


def test_scan_says_how_to_train_on_a_data_set(tmp_path, capfd):
    data = decathlon(tmp_path / "Task02_Heart")
    assert medtl("scan", data) == 0
    assert f"medtl train --dataset {data}" in capfd.readouterr().err
    assert medtl("scan", data, "--out", tmp_path / "t.csv") == 2
    assert "Train from it with --dataset" in capfd.readouterr().err
    assert (
        medtl(
            "train",
            "--studies",
            data,
            "--labels",
            SAMPLES / "labels.csv",
            "--target",
            "kind",
            "--out",
            tmp_path / "run",
        )
        == 2
    )
    assert "give the folder with --dataset" in capfd.readouterr().err
    assert medtl("scan", class_folders(tmp_path / "classes")) == 0
    assert "--dataset" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["studies", "labels", "dataset"])
def test_a_place_of_no_use_is_refused(tmp_path, name, capfd):
    data = class_folders(tmp_path / "classes", each=5)
    for path in data.rglob("*.nii.gz"):
        nib.save(nib.Nifti1Image(np.pad(nib.load(path).get_fdata(), 6), np.eye(4)), path)
    assert train(data, tmp_path / "run") == 0
    assert medtl("evaluate", tmp_path / "run", f"--{name}", data) == (0 if name == "dataset" else 2)

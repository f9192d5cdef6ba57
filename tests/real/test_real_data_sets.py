"""Real images in the Decathlon's own layout, end to end through the command line."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers_runs import medtl, read_rows, record

FOLDER = Path(os.environ.get("MEDTL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "hippocampus"
QUICK = ["--epochs", 1, "--no-tune", "--set", "training.warmup=0", "--set", "training.min_steps=2"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real hippocampus images are not on this machine"),
]


@pytest.fixture
def task(tmp_path):
    """Task04 as its archive unpacks, with eight training cases and two for testing."""
    root = tmp_path / "Task04_Hippocampus"
    names = sorted(path.name for path in (FOLDER / "images").iterdir())[:10]
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    for n, name in enumerate(names):
        shutil.copy(FOLDER / "images" / name, root / ("imagesTr" if n < 8 else "imagesTs") / name)
        if n < 8:
            shutil.copy(FOLDER / "labels" / name, root / "labelsTr" / name)
    content = {
        "name": "Hippocampus",
        "reference": "Vanderbilt University Medical Center",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 8,
        "numTest": 2,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[:8]],
        "test": [f"./imagesTs/{name}" for name in names[8:]],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_train_evaluate_and_predict(task, tmp_path):
    run = tmp_path / "run"
    backbone = "unet-3d:features=8,levels=2,num_res_units=0"
    assert medtl("train", "--dataset", task, "--backbone", backbone, "--out", run, *QUICK) == 0
    assert record(run)["cases"] == {"train": 5, "val": 2, "test": 1}
    assert medtl("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())["metrics"]
    assert {"dice/Anterior", "dice/Posterior"} <= metrics.keys()
    assert medtl("predict", run, task, "--out", tmp_path / "out") == 0
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert len({row["Anterior_ml"] for row in rows}) == 2


def test_the_images_alone_are_no_classes(tmp_path, capfd):
    assert medtl("train", "--dataset", FOLDER, "--out", tmp_path / "run") == 2
    assert "look like images and masks" in capfd.readouterr().err

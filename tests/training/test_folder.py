import json
from pathlib import Path

import pytest

from medtl_monai.config import load_config
from medtl_monai.errors import RunError
from medtl_monai.training.folder import FORMAT, RunFolder


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match=r"not empty.*--resume"):
        RunFolder.create(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_an_empty_folder_is_taken(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.update(status="started")
    folder.update(epochs=3)
    assert RunFolder.open(tmp_path / "run").record == {"format": FORMAT, "status": "started", "epochs": 3}


def test_something_else_is_not_a_run(tmp_path):
    with pytest.raises(RunError, match=r"run\.json"):
        RunFolder.open(tmp_path)


def test_a_run_of_a_newer_medtl_is_refused(tmp_path):
    RunFolder.create(tmp_path / "run").update(format=FORMAT + 1)
    with pytest.raises(RunError, match="Upgrade"):
        RunFolder.open(tmp_path / "run")


def test_the_config_comes_back_without_places(tmp_path):
    (tmp_path / "DOE_JANE").mkdir()
    config = load_config(
        None,
        {
            "data.studies": str(tmp_path / "DOE_JANE"),
            "data.labels": "archive/DOE_JANE.csv",
            "plugins": [str(tmp_path / "DOE_JANE" / "head.py")],
            "out": str(tmp_path / "run"),
            "training.epochs": 7,
            "data.target": "a,b",
        },
    )
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config(config)
    text = (folder.path / "config.yaml").read_text()
    assert str(tmp_path) not in text
    assert "DOE_JANE" not in text
    back = folder.read_config()
    assert back.data.target == ["a", "b"]
    assert back.plugins == [Path("head.py")]
    assert back.training == config.training
    assert back.training.epochs == 7


def test_metrics_are_lines_and_a_cut_off_line_is_left_out(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    for epoch in range(3):
        folder.append_metrics({"epoch": epoch, "loss": 1 / (epoch + 1), "auc": float("nan")})
    with folder.metrics_file.open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert [line["epoch"] for line in folder.read_metrics()] == [0, 1, 2]
    assert folder.read_metrics()[0]["auc"] is None
    folder.keep_metrics(2)
    assert [json.loads(t)["epoch"] for t in folder.metrics_file.read_text().splitlines()] == [0, 1]

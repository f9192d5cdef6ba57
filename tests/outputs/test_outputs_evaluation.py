"""What an evaluation leaves in the run folder."""

import json
import math

import pytest
import torch
from helpers_reports import make_run
from helpers_runs import read_rows

from medtl_monai.data.cases import Case
from medtl_monai.evaluation.evaluate import CaseResult, Evaluation
from medtl_monai.evaluation.statistics import Interval
from medtl_monai.modules import Prediction
from medtl_monai.outputs.evaluation import write_evaluation
from medtl_monai.specs import TargetInfo


def evaluation(path, part="test"):
    results = tuple(
        CaseResult(
            case=Case(case_id=f"c{n}", group=f"g{n}", row=n + 2, image=path),
            prediction=Prediction(probabilities=torch.tensor([[1 - p, p]]), classes=torch.tensor([int(p > 0.5)])),
            target=torch.tensor([n % 2]),
            scores={},
        )
        for n, p in enumerate([0.125, 0.75, 0.25, 0.5, 0.375, 1.0])
    )
    return Evaluation(
        run="run", part=part, checkpoint_epoch=10, cases=6, groups=6,
        metrics={"roc_auc": 1.0, "f1_macro": math.nan, "accuracy": 0.8333},
        intervals={"roc_auc": None, "f1_macro": None, "accuracy": Interval(0.5, 1.0)},
        results=results, target=TargetInfo(kind="class", columns=("lesion",), classes=("benign", "malignant")),
    )  # fmt: skip


def test_metrics_table_and_report_are_written(tmp_path):
    run = make_run(tmp_path / "run", parts=())
    folder = write_evaluation(run, evaluation(tmp_path))
    assert folder == run / "evaluation/test"
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored["metrics"] == {"roc_auc": 1.0, "f1_macro": None, "accuracy": 0.8333}
    assert stored["intervals"] == {"roc_auc": None, "f1_macro": None, "accuracy": [0.5, 1.0]}
    assert (stored["part"], stored["cases"], stored["groups"], stored["checkpoint_epoch"]) == ("test", 6, 6, 10)
    rows = read_rows(folder / "predictions.csv")
    assert [row["true"] for row in rows] == ["benign", "malignant"] * 3
    assert [float(row["probability_malignant"]) for row in rows] == [0.125, 0.75, 0.25, 0.5, 0.375, 1.0]
    page = (run / "report.html").read_text()
    assert "0.500 to 1.000" in page
    assert "malignant (area 1.000)" in page


@pytest.mark.usefixtures("undrawn")
def test_parts_stand_side_by_side_and_a_second_evaluation_replaces_the_first(tmp_path):
    run = make_run(tmp_path / "run", parts=())
    write_evaluation(run, evaluation(tmp_path))
    before = (run / "report.html").read_bytes()
    write_evaluation(run, evaluation(tmp_path, "val"))
    assert (run / "evaluation/test/metrics.json").exists()
    assert "Results: val" in (run / "report.html").read_text()
    assert "Results: val" not in before.decode()
    write_evaluation(run, evaluation(tmp_path, "val"))
    assert len(list((run / "evaluation").iterdir())) == 2


@pytest.mark.usefixtures("undrawn")
def test_nothing_names_the_images(tmp_path):
    run = make_run(tmp_path / "run", parts=())
    write_evaluation(run, evaluation(tmp_path / "DOE^JANE"))
    for file in run.rglob("*"):
        if file.is_file():
            assert "DOE" not in file.read_text()
            assert str(tmp_path) not in file.read_text()

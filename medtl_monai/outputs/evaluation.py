"""Storing an evaluation in its run folder."""

from __future__ import annotations

from pathlib import Path

from medtl_monai.evaluation.evaluate import Evaluation
from medtl_monai.files import write_json
from medtl_monai.outputs.report import write_report
from medtl_monai.outputs.tables import evaluation_rows, write_csv


def write_evaluation(run: Path, evaluation: Evaluation) -> Path:
    """Write ``RUN/evaluation/PART/metrics.json`` and ``predictions.csv``, and renew ``RUN/report.html``.

    Returns:
        The folder written to.
    """
    folder = run / "evaluation" / evaluation.part
    write_json(folder / "metrics.json", evaluation.to_json())
    write_csv(folder / "predictions.csv", evaluation_rows(evaluation))
    write_report(run)
    return folder

"""Reading a folder of runs from their records alone: no torch, no plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one mapping for each run below ``folder``, sorted by path; damaged ones have the status ``damaged``.

    Runs that belong together (folds, seeds) come after an entry for all of them, with the value of their common test.

    Keys: ``run`` (path relative to the folder), ``status, task, backbone, head, start`` (random, weights or the source
    run), ``policy, epochs, metric, val, test`` (values of the key metric, or None).
    """
    single = {file.parent: _describe(file.parent, folder) for file in folder.glob("**/run.json")}
    several = {file.parent: _describe_several(file.parent, folder) for file in folder.glob("**/folds.json")}
    return [found for _, found in sorted({**single, **several}.items())]


def _describe(run: Path, root: Path) -> dict[str, Any]:
    record = _read(run / "run.json")
    coverage = _read(run / "coverage.json")
    metric = record.get("key_metric")
    test = _read(run / "evaluation" / "test" / "metrics.json").get("metrics", {})
    model = record.get("model", {})
    return {
        "run": run.relative_to(root).as_posix() if run != root else run.name,
        "status": record.get("status", "damaged"),
        "task": record.get("task", "-"),
        "backbone": _short(model.get("backbone", "-")),
        "head": _short(model.get("head", "-")),
        "start": coverage.get("source", "random"),
        "policy": record.get("policy", "-"),
        "epochs": record.get("epochs"),
        "metric": metric,
        "val": record.get("best_value"),
        "test": test.get(metric),
    }


def _describe_several(runs: Path, root: Path) -> dict[str, Any]:
    """Describe runs that belong together by what they share and by their common evaluation."""
    record = _read(runs / "folds.json")
    members = [str(member.get("path", "")) for member in record.get("members", ())]
    first = next((runs / path for path in members if (runs / path / "run.json").is_file()), runs)
    shared = _describe(first, first.parent)
    values = _read(runs / "evaluation" / "test" / "metrics.json").get("metrics", {})
    return {
        **shared,
        "run": runs.relative_to(root).as_posix() if runs != root else runs.name,
        "status": record.get("status", "damaged"),
        "epochs": None,
        "val": None,
        "test": values.get(shared["metric"]),
    }


def _short(name: str) -> str:
    # The built-in distribution goes without saying.
    return name.removeprefix("medtl-monai:")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

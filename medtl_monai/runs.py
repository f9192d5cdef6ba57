"""Reading a folder of runs from their records alone: no torch, no plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one mapping for each run below ``folder``, sorted by path; damaged ones have the status ``damaged``.

    Keys: ``run`` (path relative to the folder), ``status, task, backbone, head, start`` (random, weights or the source
    run), ``policy, epochs, metric, val, test`` (values of the key metric, or None).
    """
    return [_describe(file.parent, folder) for file in sorted(folder.glob("**/run.json"))]


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


def _short(name: str) -> str:
    # The built-in distribution goes without saying.
    return name.removeprefix("medtl-monai:")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

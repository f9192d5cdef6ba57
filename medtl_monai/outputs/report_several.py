"""What the report of runs that belong together says beside the results: the runs, and how they differ."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from medtl_monai.evaluation.spread import MIN_SEEDS
from medtl_monai.outputs import report_facts
from medtl_monai.outputs.report_files import EvaluatedPart, RunFiles, SeveralFiles
from medtl_monai.outputs.report_results import Table
from medtl_monai.outputs.report_text import count, duration, fixed, metric_name, number

_NOTES = {
    "folds": (
        "Each fold is tested on cases of its own. Training sets overlap, so the standard deviation describes the folds "
        "and gives no interval: that of the pooled cases, above, is by patient."
    ),
    "seeds": (
        "The same data, another seed of initialisation, order and augmentation. This spread is that of training, on "
        "these very cases; it says nothing of other patients."
    ),
}


def headline(several: SeveralFiles) -> dict[str, Any]:
    """Return title, pooled key result, banners and what all runs share."""
    files = several.files
    facts = dict(report_facts.headline(files)["facts"])
    facts["Training"] = plan(several)
    groups = len({row.get("group") for row in files.splits})
    facts["Cases"] = f"{count(len(files.splits), 'case')} in {count(groups, 'group')}"
    key = report_facts.key_result(files)
    if key:
        how = f"{several.folds} folds pooled" if several.folds else f"mean of {count(len(several.runs), 'run')}"
        key["label"] = key["label"].replace(", test", f", {how}")
    return {
        "name": files.name,
        "task": files.record.get("task", "unknown task"),
        "status": files.record.get("status", "unknown"),
        "key": key,
        "banners": _banners(several),
        "facts": list(facts.items()),
    }


def plan(several: SeveralFiles) -> str:
    """Return ``5 folds × 3 seeds, 20 epochs each``."""
    seeds = len({run["seed"] for run in several.runs})
    parts = [count(several.folds, "fold")] if several.folds else []
    parts += [count(seeds, "seed")] if seeds > 1 or not parts else []
    seconds = sum(run.get("seconds") or 0 for run in several.runs)
    return " × ".join(parts) + (f", {duration(seconds)} in all" if seconds else "")


def _banners(several: SeveralFiles) -> list[tuple[str, str]]:
    files = several.files
    found = report_facts.control_banners(files)
    left = [run["path"] for run in several.runs if run.get("status") != "finished"]
    if left:
        mend = f"Go on with: medtl train --resume {files.name}"
        found.append(
            ("warning", f"{len(left)} of {len(several.runs)} runs are not finished: {', '.join(left)}. {mend}")
        )
    for part in files.parts:
        found += report_facts.part_banners(files, part)
    return found + [("warning", f"{problem}.") for problem in files.problems]


def metric(several: SeveralFiles) -> str:
    """Return what the key metric is called."""
    return metric_name(str(several.files.record.get("key_metric") or "key metric"))


def run_rows(several: SeveralFiles) -> list[dict[str, Any]]:
    """Return each run: its folder, status, best epoch, and the key metric in validation and in test."""
    key = str(several.files.record.get("key_metric"))
    tested = {m["run"]: m for part in several.files.parts if part.part == "test" for m in part.members}
    rows = []
    for run in several.runs:
        best = run.get("best_epoch")
        own = tested.get(run["path"], {})
        rows.append(
            {
                "path": run["path"],
                "status": run.get("status") or "not started",
                "best": "–" if best is None else f"{best + 1} of {run.get('epochs')}",
                "val": _value(run.get("best_value")),
                "cases": number(own.get("cases")),
                "test": _value(own.get("metrics", {}).get(key)),
                "linked": run.get("status") is not None,
            }
        )
    return rows


def place_rows(several: SeveralFiles) -> list[tuple[str, str, str]]:
    """Return cases and groups of each fold or part."""
    splits = several.files.splits
    cases = Counter(row.get("split") for row in splits)
    groups = Counter(place for _, place in {(row.get("group"), row.get("split")) for row in splits})
    return [(str(place), number(cases[place]), number(groups[place])) for place in cases]


def spread_tables(files: RunFiles, part: EvaluatedPart) -> list[Table]:
    """Return a table for the folds and one for the seeds, where several runs were evaluated together."""
    tables = []
    for spread in part.spreads:
        over, names = str(spread["over"]), [str(name) for name in spread["names"]]
        rows = []
        for name, found in spread["metrics"].items():
            bounds = found.get("interval")
            shown = f"{fixed(bounds[0])} to {fixed(bounds[1])}" if bounds else "descriptive only"
            cells = (metric_name(name), *map(_value, found["values"]), _value(found["mean"]), _value(found["sd"]))
            rows.append((*cells, shown) if over == "seeds" else cells)
        columns = ("Metric", *names, "Mean", "Standard deviation")
        note = _NOTES.get(over, "")
        if over == "seeds":
            columns = (*columns, "95 % interval of the mean")
            note += f" Below {MIN_SEEDS} seeds no interval is given." if len(names) < MIN_SEEDS else ""
        tables.append(Table(f"From {over[:-1]} to {over[:-1]}", columns, tuple(rows), note))
    return tables


def flips_text(part: EvaluatedPart) -> str:
    """Return how the predictions were averaged over flips; empty where they were not."""
    if not part.flips:
        return ""
    return f", each predicted as the mean over flips along axes {', '.join(map(str, part.flips))}"


def _value(value: Any) -> str:
    return "–" if value is None else fixed(float(value) if isinstance(value, (int, float)) else math.nan)

"""The report's results: a table per evaluated part, the figures of its task, and the cases to look at first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medtl_monai.evaluation.statistics import MIN_GROUPS
from medtl_monai.outputs.figures.classification import (
    MOST_CURVES,
    Scored,
    confusion,
    confusion_figure,
    histogram_figure,
    roc_figure,
)
from medtl_monai.outputs.figures.regression import agreement_figure
from medtl_monai.outputs.figures.structures import structures_figure
from medtl_monai.outputs.report_files import EvaluatedPart, RunFiles
from medtl_monai.outputs.report_text import fixed, metric_name

WORST = 5
"""How many cases are listed to look at first."""

_MOST_COLUMNS = 8
_MOST_CLASSES = 30


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing and the sentence below it."""

    svg: Markup
    caption: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts: the first column names, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclasses.dataclass
class Result:
    """What the report says of one evaluated part."""

    part: str
    metrics: tuple[dict[str, Any], ...]
    figures: list[Figure] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)
    problem: str = ""


def result_of(files: RunFiles, part: EvaluatedPart) -> Result:
    """Return table, figures and worst cases of one part."""
    result = Result(part.part, tuple(metric_rows(files, part)))
    draw = _TASKS.get(str(files.target.get("kind")))
    if draw is None or not part.rows:
        return result
    try:
        with np.errstate(invalid="ignore"):
            draw(files, part, result)
    except (KeyError, ValueError, TypeError, IndexError):
        result.problem = f"evaluation/{part.part}/predictions.csv does not fit this run: evaluate it again"
    return result


def metric_rows(files: RunFiles, part: EvaluatedPart) -> Iterator[dict[str, Any]]:
    """Yield one mapping a metric: its name, value and interval as texts, and whether it is the key metric."""
    for name, value in part.metrics.items():
        yield {
            "name": metric_name(name),
            "id": name,
            "value": fixed(value),
            "interval": interval_text(part, name),
            "key": name == files.record.get("key_metric"),
            "component": "/" in name,
        }


def interval_text(part: EvaluatedPart, name: str) -> str:
    """Return ``0.61 to 0.93``, or why there is no interval."""
    if name not in part.intervals:
        return "not computed"
    bounds = part.intervals[name]
    if bounds is not None:
        return f"{fixed(bounds[0])} to {fixed(bounds[1])}"
    if math.isnan(part.metrics.get(name, math.nan)):
        return "–"
    return "too few patients" if part.groups < MIN_GROUPS else "not estimable"


def _column(part: EvaluatedPart, name: str) -> NDArray[np.float64]:
    """Return a column of numbers; empty cells are NaN."""
    return np.array([float(row[name] or "nan") for row in part.rows], np.float64)


def _classes(files: RunFiles, part: EvaluatedPart, result: Result) -> None:
    names = [str(name) for name in files.target["classes"]]
    true = [row["true"] for row in part.rows]
    scores = {name: _column(part, f"probability_{name}") for name in names}
    # Of two classes the last is the positive one, as in the metrics.
    chosen = names if len(names) > 2 else names[-1:]
    curves = [Scored(n, scores[n], np.array([t == n for t in true])) for n in chosen]
    if any(curve.drawable for curve in curves):
        caption = f"ROC curve of {chosen[0]!r}" if len(chosen) == 1 else "ROC curves of each class against the others"
        if len(chosen) > MOST_CURVES:
            caption += f" (the first {MOST_CURVES} of {len(chosen)})"
        result.figures.append(Figure(roc_figure(f"roc-{part.part}", curves), f"{caption}; dashed: chance."))
    if len(names) <= _MOST_CLASSES:
        counts = confusion(true, [row["predicted"] for row in part.rows], names)
        svg = confusion_figure(f"confusion-{part.part}", counts, names)
        result.figures.append(
            Figure(svg, "Cases of each true class (rows) by predicted class, with shares of the row.")
        )
    result.figures.append(_probabilities(part, names, true, scores))
    mine = np.array([scores[t][n] for n, t in enumerate(true)])
    wrong = [n for n, row in enumerate(part.rows) if row["predicted"] != row["true"]]
    wrong.sort(key=lambda n: (mine[n], part.rows[n]["case_id"]))
    rows = [(part.rows[n]["case_id"], true[n], part.rows[n]["predicted"], fixed(mine[n])) for n in wrong]
    columns = ("case", "true", "predicted", "probability of the true class")
    result.tables.append(_worst("Wrong, and most sure of it", columns, rows, len(wrong)))


def _probabilities(
    part: EvaluatedPart, names: list[str], true: list[str], scores: dict[str, NDArray[np.float64]]
) -> Figure:
    is_true = {name: np.array([t == name for t in true]) for name in names}
    shown = [name for name in names if is_true[name].any()][:MOST_CURVES]
    if len(names) == 2:
        groups = [(f"true {name}", scores[names[-1]][is_true[name]]) for name in shown]
        xlabel, caption = f"probability of {names[-1]}", f"Probability given to {names[-1]!r}, by true class."
    else:
        groups = [(f"true {name}", scores[name][is_true[name]]) for name in shown]
        xlabel, caption = "probability of the true class", "Probability given to the true class."
    return Figure(histogram_figure(f"probabilities-{part.part}", groups, xlabel), caption)


def _labels(files: RunFiles, part: EvaluatedPart, result: Result) -> None:
    rows, curves = [], []
    for name in map(str, files.target["classes"]):
        truth, scores = _column(part, f"true_{name}"), _column(part, f"probability_{name}")
        set_, known = _column(part, f"predicted_{name}") == 1, ~np.isnan(truth)
        positive, negative = truth == 1, truth == 0
        curves.append(Scored(name, scores[known], positive[known]))
        values = [part.metrics.get(f"{m}/{name}", math.nan) for m in ("roc_auc", "average_precision", "f1_macro")]
        rates = [_share(set_ & positive, positive), _share(~set_ & negative, negative)]
        shown = (f"{positive.sum()} of {known.sum()}", *map(fixed, values), *map(fixed, rates))
        rows.append((name, *shown))
    columns = ("label", "set / known", "ROC area", "average precision", "F1", "sensitivity", "specificity")
    note = "F1, sensitivity and specificity at probability 0.5. Cases without a label do not count for it."
    result.tables.append(Table("Labels", columns, tuple(rows), note))
    if any(curve.drawable for curve in curves):
        drawn = sum(curve.drawable for curve in curves)
        some = f" (the first {MOST_CURVES} of {drawn})" if drawn > MOST_CURVES else ""
        result.figures.append(Figure(roc_figure(f"roc-{part.part}", curves), f"ROC curve of each label{some}."))


def _share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(of.sum() / among.sum()) if among.any() else math.nan


def _numbers(files: RunFiles, part: EvaluatedPart, result: Result) -> None:
    columns = [str(name) for name in files.target["columns"]]
    spreads = dict(zip(columns, files.target["std"], strict=True))
    errors: list[tuple[float, tuple[str, ...]]] = []
    for number, name in enumerate(columns):
        true, predicted = _column(part, f"true_{name}"), _column(part, f"predicted_{name}")
        known = np.isfinite(true) & np.isfinite(predicted)
        for n in np.flatnonzero(known):
            error = float(predicted[n] - true[n])
            which = (name,) if len(columns) > 1 else ()
            texts = (part.rows[n]["case_id"], *which, fixed(true[n]), fixed(predicted[n]), fixed(error))
            errors.append((-abs(error) / float(spreads[name]), texts))
        if known.any() and number < _MOST_COLUMNS:
            svg = agreement_figure(f"agreement-{part.part}-{number}", name, true[known], predicted[known])
            caption = f"{name}: predicted against true (dashed: equal), and difference against the mean of both."
            result.figures.append(Figure(svg, caption))
    rows = [texts for _, texts in sorted(errors)]
    names = ("case", *(("column",) if len(columns) > 1 else ()), "true", "predicted", "difference")
    result.tables.append(_worst("Largest errors", names, rows, len(rows)))


def _masks(files: RunFiles, part: EvaluatedPart, result: Result) -> None:
    key = str(files.record.get("key_metric"))
    names = [name for name in part.metrics if name.startswith(f"{key}/")] or [key]
    scores = {name: _column(part, name) for name in names}
    shown = [(name.partition("/")[2] or name, values[np.isfinite(values)]) for name, values in scores.items()]
    missing = [f"{text} in {len(part.rows) - len(v)}" for text, v in shown if len(v) < len(part.rows)]
    caption = f"{metric_name(key)} of every case; the line in a box is the median."
    if missing:
        caption += (
            f" Cases without a score, because the structure is neither there nor predicted: {', '.join(missing)}."
        )
    if any(len(values) for _, values in shown):
        svg = structures_figure(f"structures-{part.part}", metric_name(key), shown)
        result.figures.append(Figure(svg, caption))
    lowest = 1 if files.record.get("mode", "max") == "max" else -1
    whole = _column(part, key)
    order = [int(n) for n in np.argsort(lowest * whole, kind="stable") if np.isfinite(whole[n])]
    rows = [(part.rows[n]["case_id"], fixed(whole[n]), *(fixed(scores[name][n]) for name in names)) for n in order]
    columns = ("case", metric_name(key), *(name.partition("/")[2] or name for name in names))
    if names == [key]:
        rows, columns = [row[:2] for row in rows], columns[:2]
    result.tables.append(_worst(f"Worst {metric_name(key)}", columns, rows, len(rows)))


def _worst(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], total: int) -> Table:
    note = f"{WORST} of {total}." if total > WORST else ("None." if not total else "")
    return Table(title, columns, tuple(rows[:WORST]), note)


_TASKS: dict[str, Callable[[RunFiles, EvaluatedPart, Result], None]] = {
    "class": _classes,
    "classes": _labels,
    "number": _numbers,
    "mask": _masks,
}

"""How the report says numbers, metrics and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_MEAN = ", mean over classes"

METRICS = {
    "roc_auc": "Area under the ROC curve",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "f1_macro": f"F1{_MEAN}",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mae": "Mean absolute error",
    "mae_sd": "Mean absolute error, in standard deviations",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "pearson_r": "Pearson correlation",
    "spearman_r": "Spearman correlation",
    "dice": "Dice",
}
"""What the built-in metrics are called in a sentence."""


def metric_name(name: str) -> str:
    """Return what a metric (or ``metric/component``) is called.

    Example:
        >>> metric_name("dice/anterior")
        'Dice, anterior'
        >>> metric_name("my_score")
        'my_score'
    """
    base, slash, component = name.partition("/")
    known = METRICS.get(base, base)
    return f"{known.removesuffix(_MEAN)}, {component}" if slash else known


def number(value: Any, digits: int = 4) -> str:
    """Return a number with ``digits`` significant digits; a dash where there is none.

    Example:
        >>> number(0.123456), number(28712992), number(None), number(float("nan"))
        ('0.1235', '28,712,992', '–', 'undefined')
    """
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    if math.isnan(value):
        return "undefined"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits and math.isfinite(value) else f"{value:.{digits}g}"


def fixed(value: float) -> str:
    """Return a measured value: three decimals below ten, so that columns of shares line up; four digits above."""
    if math.isnan(value):
        return "undefined"
    return f"{value:.3f}" if abs(value) < 10 and (abs(value) >= 0.01 or value == 0) else f"{value:.4g}"


def by(values: Sequence[float] | None, unit: str = "") -> str:
    """Return a size such as ``64×64×32``, or a dash."""
    if not values:
        return "–"
    return "×".join(f"{v:.4g}" for v in values) + (f" {unit}" if unit else "")


def count(n: int, noun: str) -> str:
    """Return ``1 case``, ``2 cases``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def duration(seconds: Any) -> str:
    """Return seconds, minutes or hours; a dash where it is not known."""
    if not isinstance(seconds, (int, float)):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

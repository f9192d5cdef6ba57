"""Figures of predicted numbers: against the truth, and the difference against the mean."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from medtl_monai.outputs.figures.canvas import INK, SERIES, SOFT, drawing, label

FloatVector = NDArray[np.float64]
_LIMITS = 1.96
_FEWEST = 3


def agreement_figure(name: str, column: str, true: FloatVector, predicted: FloatVector) -> Markup:
    """Draw predicted against true values beside the difference against the mean of both (Bland and Altman 1986).

    Args:
        name: Unique in the page.
        column: The label column, which names the unit.
        true: ``[N]`` finite values.
        predicted: ``[N]`` finite values.
    """
    with drawing(name, f"Agreement of {label(column)}", width=8.4, height=3.9) as one:
        left, right = one.axes(1, 2)
        _scatter(left, label(column), true, predicted)
        _bland_altman(right, label(column), true, predicted)
    return one.svg


def limits_of_agreement(true: FloatVector, predicted: FloatVector) -> tuple[float, float, float]:
    """Return mean difference (predicted − true) and the limits within which 95 % of differences are expected.

    Mean ± 1.96 sample standard deviations; NaN limits with fewer than three cases.
    """
    difference = predicted - true
    bias = float(difference.mean())
    if len(difference) < _FEWEST:
        return bias, float("nan"), float("nan")
    spread = _LIMITS * float(difference.std(ddof=1))
    return bias, bias - spread, bias + spread


def _scatter(axes: Axes, column: str, true: FloatVector, predicted: FloatVector) -> None:
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    margin = 0.05 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="equal")
    axes.scatter(true, predicted, color=SERIES[0], s=22, alpha=0.75, linewidths=0)
    axes.set(xlabel=f"true {column}", ylabel=f"predicted {column}", xlim=ends, ylim=ends, aspect="equal")
    axes.set_title("Predicted against true", loc="left")


def _bland_altman(axes: Axes, column: str, true: FloatVector, predicted: FloatVector) -> None:
    bias, low, high = limits_of_agreement(true, predicted)
    axes.axhline(0, color=SOFT, linewidth=1)
    axes.scatter((true + predicted) / 2, predicted - true, color=SERIES[0], s=22, alpha=0.75, linewidths=0)
    for value, text, style in ((bias, "mean", "-"), (low, "−1.96 SD", "--"), (high, "+1.96 SD", "--")):
        if np.isfinite(value):
            axes.axhline(value, color=SERIES[1], linewidth=1.3, linestyle=style)
            where = axes.get_yaxis_transform()
            axes.text(1.01, value, _lines(text, value), transform=where, va="center", fontsize=9, color=INK)
    axes.set(xlabel=f"mean of true and predicted {column}", ylabel="predicted − true")
    axes.margins(y=0.12)
    axes.set_title("Difference against mean", loc="left")


def _lines(text: str, value: float) -> str:
    return f"{text}\n{value:.3g}".replace("-", "−")

"""Figures of class and label predictions: ROC curves, confusion matrix, probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from medtl_monai.outputs.figures.canvas import SERIES, SOFT, drawing, label

FloatVector = NDArray[np.float64]
MOST_CURVES = len(SERIES)
_MOST_NUMBERED = 12


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of one class against the rest.

    Attributes:
        name: The class or label.
        scores: ``[N]`` probabilities.
        truth: ``[N]`` whether the case has it.
    """

    name: str
    scores: FloatVector
    truth: NDArray[np.bool_]

    @property
    def drawable(self) -> bool:
        """Whether there are cases with it and cases without."""
        return bool(self.truth.any()) and not bool(self.truth.all())


def roc_points(scored: Scored) -> tuple[FloatVector, FloatVector]:
    """Return false-positive and true-positive rates at every distinct score, from (0, 0) to (1, 1).

    Cases of equal score change sides together, so that the curve does not depend on their order.
    """
    order = np.argsort(-scored.scores, kind="stable")
    scores, truth = scored.scores[order], scored.truth[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    positive, negative = np.cumsum(truth)[last], np.cumsum(~truth)[last]
    return np.append(0.0, negative / max(negative[-1], 1)), np.append(0.0, positive / max(positive[-1], 1))


def area(scored: Scored) -> float:
    """Return the area under the ROC curve (ties count one half); NaN if all cases are alike."""
    if not scored.drawable:
        return math.nan
    x, y = roc_points(scored)
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


def roc_figure(name: str, curves: Sequence[Scored]) -> Markup:
    """Draw the ROC curves of at most :data:`MOST_CURVES` classes."""
    drawn = [curve for curve in curves if curve.drawable][:MOST_CURVES]
    with drawing(name, "ROC curve", width=4.2, height=4.0) as one:
        axes = one.axes()[0]
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        for color, curve in zip(SERIES, drawn, strict=False):
            x, y = roc_points(curve)
            axes.plot(x, y, color=color, label=f"{label(curve.name)} (area {area(curve):.3f})")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.legend(loc="lower right", fontsize=9)
    return one.svg


def confusion_figure(name: str, counts: NDArray[np.int64], classes: Sequence[str]) -> Markup:
    """Draw a confusion matrix ``[true, predicted]``: counts, shaded by the share of the true class."""
    size = len(classes)
    side = min(1.6 + 0.62 * size, 7.5)
    with drawing(name, "Confusion matrix", width=side + 0.6, height=side) as one:
        axes = one.axes()[0]
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (row, column), count in np.ndenumerate(counts):
            # Never darker than text can be read on.
            alpha = 0.05 + 0.5 * shares[row, column]
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=SERIES[0], alpha=alpha, linewidth=0))
            if size <= _MOST_NUMBERED or count:
                axes.text(column, row, _cell(int(count), shares[row, column], size), ha="center", va="center")
        names = [label(text) for text in classes]
        axes.set_xticks(range(size), names, rotation=90 if size > 4 else 0)
        axes.set_yticks(range(size), names)
        axes.set(xlabel="predicted", ylabel="true", xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
        _bare(axes)
    return one.svg


def histogram_figure(name: str, groups: Sequence[tuple[str, FloatVector]], xlabel: str) -> Markup:
    """Draw how probabilities are distributed, one row a group, on one scale."""
    with drawing(name, "Distribution of probabilities", width=4.6, height=0.8 + 1.35 * len(groups)) as one:
        panels = one.axes(len(groups), 1, sharex=True, sharey=True)
        for axes, color, (text, values) in zip(panels, _cycle(len(groups)), groups, strict=True):
            axes.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=color, alpha=0.75)
            axes.set_title(f"{label(text)} (n = {len(values)})", loc="left")
            axes.set_ylabel("cases")
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panels[-1].set(xlabel=xlabel, xlim=(0, 1))
    return one.svg


def _cell(count: int, share: float, size: int) -> str:
    return f"{count}\n{share:.0%}" if size <= 5 else str(count)


def _cycle(count: int) -> list[str]:
    return [SERIES[n % len(SERIES)] for n in range(count)]


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def confusion(true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> NDArray[Any]:
    """Count ``[true, predicted]`` pairs.

    Raises:
        ValueError: If a name is none of the classes.
    """
    counts = np.zeros((len(classes), len(classes)), np.int64)
    index = list(classes)
    for t, p in zip(true, predicted, strict=True):
        counts[index.index(t), index.index(p)] += 1
    return counts

"""The figure of mask scores: every case as a dot, every structure as a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medtl_monai.outputs.figures.canvas import INK, SERIES, SOFT, drawing, label

_FEWEST_FOR_BOX = 5


def structures_figure(name: str, metric: str, scores: Sequence[tuple[str, NDArray[np.float64]]]) -> Markup:
    """Draw the scores of each structure: dots, and a box (quartiles, whiskers to 1.5 times their distance).

    Args:
        name: Unique in the page.
        metric: Name of the score.
        scores: Structure and its ``[N]`` finite scores.
    """
    with drawing(name, f"{metric} per structure", width=7.2, height=1.0 + 0.62 * len(scores)) as one:
        axes = one.axes()[0]
        for row, (_, values) in enumerate(scores):
            if len(values) >= _FEWEST_FOR_BOX:
                line = {"color": SOFT, "linewidth": 1.2}
                axes.boxplot(
                    [values],
                    positions=[row],
                    orientation="horizontal",
                    widths=0.5,
                    showfliers=False,
                    boxprops=line,
                    whiskerprops=line,
                    capprops=line,
                    medianprops={"color": INK, "linewidth": 2},
                )
            axes.scatter(values, row + _spread(len(values)), color=SERIES[0], s=18, alpha=0.7, linewidths=0, zorder=3)
        axes.set_yticks(range(len(scores)), [f"{label(text)} (n = {len(values)})" for text, values in scores])
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.set_xlabel(label(metric))
        axes.grid(visible=False, axis="y")
        values = np.concatenate([values for _, values in scores])
        if values.size and values.min() >= 0 and values.max() <= 1:
            axes.set_xlim(-0.02, 1.02)
    return one.svg


def _spread(count: int) -> NDArray[np.float64]:
    """Return small shifts that keep equal scores apart: the same for the same number of cases."""
    return np.asarray(((np.arange(count) * 0.618) % 1 - 0.5) * 0.36, np.float64)

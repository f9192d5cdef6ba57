"""Learning curves: loss, key metric and learning rate, with what trains when."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from medtl_monai.outputs.figures.canvas import INK, SERIES, SOFT, drawing, label


@dataclasses.dataclass(frozen=True)
class Span:
    """Epochs in which the same parameters train.

    Attributes:
        first: First epoch, from 0.
        last: Last epoch.
        text: What trains, in two or three words.
    """

    first: int
    last: int
    text: str


def learning_curves(
    epochs: Sequence[Mapping[str, Any]], key: str | None, best: int | None, spans: Sequence[Span]
) -> Markup:
    """Draw what ``metrics.jsonl`` holds, one panel below the other.

    Args:
        epochs: The lines of the file.
        key: Name of the key metric; its panel is left out where no epoch has a value.
        best: The best epoch, from 0.
        spans: Phases; shaded in turn where there are several.
    """
    series = [("loss", "training loss", False), ("lr", "learning rate", True)]
    if key is not None and any(line.get(f"val/{key}") is not None for line in epochs):
        series.insert(1, (f"val/{key}", f"validation {key}", False))
    with drawing("learning", "Learning curves", width=7.6, height=0.7 + 1.75 * len(series)) as one:
        panels = one.axes(len(series), 1, sharex=True)
        for n, (axes, (name, text, logarithmic)) in enumerate(zip(panels, series, strict=True)):
            _curve(axes, epochs, name, SERIES[n])
            axes.set_ylabel(label(text))
            if logarithmic:
                _decades(axes, [float(line.get(name) or 0) for line in epochs])
            _mark_best(axes, epochs, name, best, in_words=name.startswith("val/"))
        _shade(panels, spans, len(epochs))
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return one.svg


def _curve(axes: Axes, epochs: Sequence[Mapping[str, Any]], name: str, color: str) -> None:
    x = [int(line["epoch"]) + 1 for line in epochs]
    y = [float("nan") if line.get(name) is None else float(line[name]) for line in epochs]
    # Dots also where the curve has gaps: a single value between two gaps is no line.
    axes.plot(x, y, color=color, marker="o", markersize=3 if len(x) < 60 else 1)


def _decades(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic scale with plain labels where the values span more than a few-fold."""
    if min(values) <= 0 or max(values) < 5 * min(values):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if max(values) > 50 * min(values) else (1, 2, 5)))
    # matplotlib's own labels are TeX.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_best(axes: Axes, epochs: Sequence[Mapping[str, Any]], name: str, best: int | None, *, in_words: bool) -> None:
    if best is None:
        return
    axes.axvline(best + 1, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    value = next((line.get(name) for line in epochs if line["epoch"] == best), None)
    if in_words and value is not None:
        axes.plot([best + 1], [value], marker="o", markersize=8, markerfacecolor="none", markeredgecolor=INK)
        axes.set_title(f"best: {float(value):.4g} in epoch {best + 1}", loc="right", fontsize=9)


def _shade(panels: Sequence[Axes], spans: Sequence[Span], count: int) -> None:
    shown = [span for span in spans if span.first < count]
    if len(shown) < 2:
        return
    # Room for every third of an inch of text: a narrow phase is shaded without words.
    for n, span in enumerate(shown):
        left, right = span.first + 0.5, min(span.last + 1, count) + 0.5
        for axes in panels:
            if n % 2 == 0:
                axes.axvspan(left, right, color=SOFT, alpha=0.13, linewidth=0)
        if (right - left) / count > 0.013 * len(span.text):
            where = panels[0].get_xaxis_transform()
            panels[0].text((left + right) / 2, 1.03, span.text, transform=where, ha="center", va="bottom", fontsize=9)
    for axes in panels:
        axes.set_xlim(0.5, count + 0.5)

"""Drawing one figure and turning it into SVG that sits inside a page.

Colours are placeholders that become CSS variables, so that a figure follows the page's light or dark scheme; text stays
text. Equal data gives equal bytes: ids come from the figure's name, and no date is written.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER = "#a0a001", "#a0a002", "#a0a003", "#a0a004"
"""Text and axes; secondary text and guide lines; grid lines; the card behind the figure."""
SERIES = ("#a0a011", "#a0a012", "#a0a013", "#a0a014", "#a0a015", "#a0a016")
"""Data, in order of use."""

_VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    GRID: "line",
    PAPER: "card",
    **{color: f"series-{n}" for n, color in enumerate(SERIES, 1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
_NO_METADATA: dict[str, str | None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_LONGEST_LABEL = 24


class Drawing:
    """A figure being drawn.

    Attributes:
        figure: The matplotlib figure.
        svg: What it became; empty until the drawing is finished.
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = Markup("")

    def axes(self, rows: int = 1, columns: int = 1, **options: object) -> list[Axes]:
        """Add a grid of axes and return them, row by row."""
        grid = self.figure.subplots(rows, columns, squeeze=False, **options)  # type: ignore[call-overload]
        return [axes for row in grid for axes in row]


@contextmanager
def drawing(name: str, title: str, *, width: float = 5.0, height: float = 3.6) -> Iterator[Drawing]:
    """Draw a figure under the report's style; its SVG is there when the block ends.

    Args:
        name: Unique in the page: ids are made from it.
        title: Text for those who do not see the figure.
        width: Width in inches.
        height: Height in inches.

    Example:
        >>> with drawing("line", "A line", width=2, height=1) as one:
        ...     _ = one.axes()[0].plot([0, 1], [0, 1], color=SERIES[0])
        >>> "var(--series-1)" in one.svg
        True
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # Names of classes may be in any script; the reader's browser has the letters, the layout font may not.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        one = Drawing(Figure(figsize=(width, height), layout="constrained"))
        yield one
        text = io.StringIO()
        one.figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    one.svg = _inline(text.getvalue(), title)


def label(text: str) -> str:
    """Return a name in one printable line of bounded length."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"


def _inline(document: str, title: str) -> Markup:
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<svg [^>]*?(width=\S+) (height=\S+) (viewBox=\"[^\"]*\")[^>]*>", r"<svg \1 \2 \3 role=img>", svg)
    svg = svg.replace("role=img>", f'role="img"><title>{escape(title)}</title>', 1)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.S)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"style=\"[^\"]*\"", lambda found: _colours(found.group()), svg)
    # Everything in it was written by matplotlib, which escapes the texts.
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))


def _colours(style: str) -> str:
    for color, variable in _VARIABLES.items():
        style = style.replace(color, f"var(--{variable})")
    return style

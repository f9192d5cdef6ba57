"""The learning-rate range test as a table and a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from medtl_monai.files import atomic_path
from medtl_monai.outputs.tables import write_csv
from medtl_monai.training.lr_finder import LrCurve

_LINE, _DOTS, _MARK = "#1f6fd6", "#9aa4b1", "#c2570c"
_ABOVE = 1.6


def write_lr_curve(stem: Path, curve: LrCurve) -> tuple[Path, Path]:
    """Write ``STEM.csv`` (rate, loss, smoothed loss of every step) and ``STEM.png``; older ones are replaced.

    Returns:
        Both paths.

    Raises:
        StorageError: If one cannot be written.
    """
    table, picture = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.png")
    steps = zip(curve.lrs, curve.losses, curve.smoothed, strict=True)
    write_csv(table, [{"lr": f"{lr:.6g}", "loss": f"{loss:.6g}", "smoothed": f"{s:.6g}"} for lr, loss, s in steps])
    with atomic_path(picture) as temporary:
        _draw(curve).savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    return table, picture


def _draw(curve: LrCurve) -> Figure:
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.lrs, curve.losses, ".", color=_DOTS, markersize=3, label="each batch")
    axes.plot(curve.lrs, curve.smoothed, color=_LINE, label="smoothed")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color=_MARK, linestyle="--", label=f"suggestion {curve.suggestion:.1e}")
    axes.set_xscale("log")
    low, start = min(curve.smoothed), curve.smoothed[0]
    if low < start:
        # The divergence at the end would flatten all that is of interest.
        axes.set_ylim(low - 0.1 * (start - low), start + _ABOVE * (start - low))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure

"""``report.html``: one self-contained page about a run, drawn from what its folder holds."""

from __future__ import annotations

from pathlib import Path


def write_report(run: Path) -> Path:
    """Write ``RUN/report.html`` and return its path."""
    return run / "report.html"

"""Scan a tree for DICOM files, headers only."""

from __future__ import annotations

from pathlib import Path

from medtl_monai.dicom.series import StudyIndex


def scan(path: Path | str, *, workers: int | None = None) -> StudyIndex:
    """Scan ``path`` recursively: every candidate volume, every segmentation, everything skipped and why."""
    raise NotImplementedError

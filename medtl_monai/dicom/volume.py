"""Assemble one series into a volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from medtl_monai.dicom.geometry import Volume
from medtl_monai.dicom.series import Series

OnGap = Literal["error", "interpolate"]


def read_volume(
    path: Path | str | Series,
    *,
    select: Mapping[str, Any] | None = None,
    on_gap: OnGap = "error",
    units: str | None = None,
    voi: bool = False,
) -> Volume:
    """Read one series into a volume: exact geometry, or a typed error."""
    raise NotImplementedError

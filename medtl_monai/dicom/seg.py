"""DICOM SEG onto an image's grid."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtl_monai.dicom.geometry import Volume


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SegMask:
    """A segmentation on the grid of an image.

    Attributes:
        labels: int16 ``[i, j, k]``; 0 is background, n the n-th name.
        names: Segment labels; the n-th name (from 1) is value n.
        notes: What was done beyond plain reading.
    """

    labels: NDArray[np.int16]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_seg(path: Path | str, like: Volume) -> SegMask:
    """Read a DICOM SEG onto the grid of ``like``, by geometry."""
    raise NotImplementedError

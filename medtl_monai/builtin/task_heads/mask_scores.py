"""The Dice score of each structure, with absence told apart from failure."""

from __future__ import annotations

import math

import torch
from monai.metrics import DiceMetric
from torch import Tensor


class StructureDice(DiceMetric):
    """MONAI's Dice per case and structure, averaged over the cases that have the structure.

    A structure absent from truth *and* prediction of a case has no score there (NaN, left out); absent from the truth
    but predicted, it scores 0. (MONAI offers either 1 for the first, or no score for both, which hides false positives;
    and its mean over no case at all is 0.) A structure without any score is NaN. Ignored voxels count nowhere. Only the
    scores are kept, on the CPU.

    Args:
        structures: Number of structures, background left out.
        ignore: Label value that does not count, or None.
    """

    def __init__(self, structures: int, *, ignore: int | None = None) -> None:
        super().__init__(
            include_background=False,
            reduction="none",
            ignore_empty=False,
            num_classes=structures + 1,
            ignore_index=ignore,
        )
        self.structures = structures

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Score label indices ``[B, 1, *spatial]`` against label indices: ``[B, structures]``."""
        scores: Tensor = super()._compute_tensor(y_pred, y)
        valid = torch.ones_like(y, dtype=torch.bool) if self.ignore_index is None else y != self.ignore_index
        present = torch.stack(
            [(((y_pred == c) | (y == c)) & valid).flatten(1).any(dim=1) for c in range(1, self.structures + 1)], dim=1
        )
        return scores.masked_fill(~present, math.nan).float().cpu()

    def aggregate(self) -> Tensor:
        """Return the mean score of each structure ``[structures]`` over the cases that have one."""
        scores = self.get_buffer()
        if scores is None:
            return torch.full((self.structures,), math.nan)
        mean: Tensor = scores.nanmean(dim=0)
        return mean

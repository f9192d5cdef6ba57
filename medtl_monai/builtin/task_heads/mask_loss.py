"""Dice plus cross-entropy over the voxels that are labelled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medtl_monai.errors import DataError

_SMOOTH = 1e-5


class DiceCELoss(nn.Module):
    """Soft Dice of the structures plus cross-entropy of all classes, both without the ignored voxels.

    Without an ignored voxel it equals ``monai.losses.DiceCELoss(include_background=False, softmax=True)``; with
    one, neither part depends on the network's output there, so its gradient is exactly zero. Background is left out of
    the Dice part (it would drown small structures) and kept in the cross-entropy, which punishes false positives.
    Sources: Milletari et al. 2016 (soft Dice), Isensee et al. 2021 (the sum).

    Args:
        classes: Number of classes, background included.
        ignore: Label value to leave out, or None.
        batch_dice: Sum over the batch before dividing: steadier where a patch lacks a structure.
        dice_weight: Weight of the Dice part.
        ce_weight: Weight of the cross-entropy part.
        class_weights: Weights of the classes in the cross-entropy, background first; empty = all 1.
    """

    class_weight: Tensor

    def __init__(
        self,
        classes: int,
        *,
        ignore: int | None = None,
        batch_dice: bool = True,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        class_weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.classes = classes
        self.ignore = ignore
        self.batch_dice = batch_dice
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.register_buffer("class_weight", torch.tensor(class_weights or [1.0] * classes))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``logits [B, K, *spatial]`` against label indices ``[B, *spatial]``; 0 if all is ignored.

        Raises:
            DataError: If the target has a value that is neither a class nor the ignored one.
        """
        target = target.long()
        valid = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        self._check(target[valid])
        log_p = logits.float().log_softmax(dim=1)
        indices = torch.arange(self.classes, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
        truth = (target.unsqueeze(1) == indices).float()  # all zero where ignored
        return self.ce_weight * self._cross_entropy(log_p, truth) + self.dice_weight * self._dice(
            log_p.exp() * valid.unsqueeze(1), truth
        )

    def _cross_entropy(self, log_p: Tensor, truth: Tensor) -> Tensor:
        # Written out: torch's own has no repeatable CUDA kernel for images, and the one-hot truth is there anyway.
        weight = self.class_weight.view(1, -1, *[1] * (truth.ndim - 2))
        weighted = truth * weight
        return -(weighted * log_p).sum() / weighted.sum().clamp(min=torch.finfo(torch.float32).tiny)

    def _dice(self, p: Tensor, truth: Tensor) -> Tensor:
        p, truth = p[:, 1:], truth[:, 1:]
        axes = [0] * self.batch_dice + list(range(2, p.ndim))
        overlap, total = (p * truth).sum(axes), p.sum(axes) + truth.sum(axes)
        return (1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)).mean()

    def _check(self, labels: Tensor) -> None:
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            found = sorted(set(labels.unique().tolist()) - set(range(self.classes)))
            raise DataError(
                f"the mask holds the values {found}, the classes are 0 to {self.classes - 1}",
                where="mask",
                mend="Name every structure in data.structures, or set data.ignore_label",
            )

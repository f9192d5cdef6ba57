"""Metrics of heads that say something of a whole case: collected over all cases, computed once at the end.

MONAI computes areas and confusion matrices. What is added here is what must not be silent: a split that lacks a class,
a diverged network, or labels that are missing give NaN, and a name means what scikit-learn means by it. (MONAI's
``"balanced accuracy"`` and ``"accuracy"`` of several classes are one-versus-rest figures; its RMSE averages the root
of each case, which for one number is the MAE.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from monai.metrics import (
    CumulativeIterationMetric,
    compute_average_precision,
    compute_confusion_matrix_metric,
    compute_roc_auc,
    get_confusion_matrix,
)
from torch import Tensor
from torch.nn import functional

Score = Callable[[Tensor, Tensor], "Tensor | float"]
"""A function of all predictions and all targets, first axis = cases."""
ColumnScore = Callable[[Tensor, Tensor], float]
"""A score of ``[N]`` numbers against ``[N]`` numbers."""
Mode = Literal["max", "min"]
"""Whether higher or lower is better."""


class Collected(CumulativeIterationMetric):
    """Keep predictions and targets of every case on the CPU in float32, and score them together.

    Args:
        score: The metric as a function of all predictions and targets.
        size: How many numbers ``score`` returns.
    """

    def __init__(self, score: Score, *, size: int = 1) -> None:
        super().__init__()
        self.score = score
        self.size = size

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> list[Tensor]:
        return [y_pred.float().cpu(), y.float().cpu()]

    def aggregate(self) -> Tensor:
        """Return ``[size]`` numbers: NaN without any case, and NaN if any prediction is not finite."""
        buffers = self.get_buffer()
        if buffers is None or not bool(torch.isfinite(buffers[0]).all()):
            return torch.full((self.size,), math.nan)
        return torch.as_tensor(self.score(*buffers), dtype=torch.float32).reshape(self.size)


def column_by_column(score: ColumnScore) -> Score:
    """Make a score of ``[N]`` against ``[N]`` into one of ``[N, L]`` against ``[N, L]``.

    Missing targets (NaN) are left out of their column.
    """

    def scored(predictions: Tensor, targets: Tensor) -> Tensor:
        columns = zip(predictions.unbind(1), targets.unbind(1), strict=True)
        return torch.tensor([score(p[~t.isnan()], t[~t.isnan()]) for p, t in columns])

    return scored


def roc_auc(scores: Tensor, truth: Tensor) -> float:
    """Return the area under the ROC curve of ``scores [N]`` for ``truth [N]`` in {0, 1}; NaN if only one is present."""
    return float(compute_roc_auc(scores, truth)) if truth.unique().numel() == 2 else math.nan


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Return the average precision of ``scores [N]`` for ``truth [N]`` in {0, 1}; NaN if only one is present."""
    return float(compute_average_precision(scores, truth)) if truth.unique().numel() == 2 else math.nan


def binary_f1(probabilities: Tensor, truth: Tensor) -> float:
    """Return the F1 score at probability 0.5; NaN without a positive case."""
    if not bool(truth.any()):
        return math.nan
    return _confusion_metric("f1 score", (probabilities >= 0.5)[:, None].float(), truth[:, None])[0].item()


def over_classes(score: ColumnScore) -> Score:
    """Make a binary score into one of probabilities ``[N, K]`` against class indices ``[N]``.

    For two classes it is the score of the last class, the positive one; for more, the unweighted mean over each class
    against the rest. It is NaN if any class is absent.
    """

    def scored(probabilities: Tensor, classes: Tensor) -> float:
        count = probabilities.shape[1]
        chosen = range(count) if count > 2 else [1]
        parts = [score(probabilities[:, c], (classes == c).float()) for c in chosen]
        return sum(parts) / len(parts)

    return scored


def accuracy(probabilities: Tensor, classes: Tensor) -> float:
    """Return the share of cases whose most probable class is the true one."""
    return (probabilities.argmax(1) == classes).float().mean().item()


def balanced_accuracy(probabilities: Tensor, classes: Tensor) -> float:
    """Return the mean recall over classes; NaN if any class is absent."""
    return recall(probabilities, classes).mean().item()


def f1_macro(probabilities: Tensor, classes: Tensor) -> float:
    """Return the mean F1 score over classes; NaN if any class is absent."""
    predicted, truth = _one_hot(probabilities, classes)
    scores = _confusion_metric("f1 score", predicted, truth)
    return torch.where(truth.sum(0) > 0, scores, math.nan).mean().item()


def sensitivity(probabilities: Tensor, classes: Tensor) -> float:
    """Return the recall of the positive class, the last of two; NaN without a positive case."""
    return recall(probabilities, classes)[1].item()


def specificity(probabilities: Tensor, classes: Tensor) -> float:
    """Return the recall of the negative class, the first of two; NaN without a negative case."""
    return recall(probabilities, classes)[0].item()


def recall(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Return the recall of each class ``[K]``; NaN where a class is absent."""
    return _confusion_metric("recall", *_one_hot(probabilities, classes))


def _one_hot(probabilities: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    count = probabilities.shape[1]
    predicted = functional.one_hot(probabilities.argmax(1), count)
    return predicted.float(), functional.one_hot(classes.long(), count).float()


def _confusion_metric(name: str, predicted: Tensor, truth: Tensor) -> Tensor:
    """Return MONAI's metric per column from the confusion matrix of all cases (not the mean of each case's)."""
    matrix: Tensor = get_confusion_matrix(predicted, truth).sum(dim=0)
    result: Tensor = compute_confusion_matrix_metric(name, matrix)
    return result

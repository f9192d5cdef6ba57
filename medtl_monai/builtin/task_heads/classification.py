"""One class a case. This module is also the model for a head of your own: it is all there is to one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtl_monai.builtin.task_heads import scoring
from medtl_monai.builtin.task_heads.checks import name_of, pick, require_counts, require_kind, within
from medtl_monai.builtin.task_heads.pooling import FullPrecisionLinear, GlobalPool
from medtl_monai.errors import DataError
from medtl_monai.modules import Batch, Head, Metric, Prediction
from medtl_monai.specs import HeadContext, TargetInfo


class ClassificationHead(Head):
    """Global pooling, dropout, one linear layer; cross-entropy.

    The loss of a batch is the mean of *weight of the true class × cross-entropy* over its cases. (PyTorch's own
    weighted mean divides by the weights in the batch, so that in a batch of one the weight would cancel out.)

    Args:
        context: What the host knows of backbone and labels.
        pool: ``"avg"``, ``"max"`` or ``"avgmax"`` (both side by side).
        stages: How many of the backbone's last taps are pooled.
        dropout: Share of pooled features dropped in training.
        class_weights: ``"balanced"`` weighs each class by the inverse of its share of the training cases (the mean
            weight over the training cases is 1); ``"none"`` weighs all alike.
        label_smoothing: Share of the target spread evenly over all classes.

    Raises:
        DataError: If there are fewer than two classes, or a class has no training case.
        ConfigError: If an option is out of range.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        context: HeadContext,
        *,
        pool: str = "avg",
        stages: int = 1,
        dropout: float = 0.2,
        class_weights: str = "balanced",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_labels(context.target)
        self.pool = GlobalPool(context.stages, last=stages, kind=pool)
        self.dropout = nn.Dropout(within("dropout", dropout, 0, 1))
        self.linear = FullPrecisionLinear(self.pool.features, len(context.target.classes))
        self.label_smoothing = within("label_smoothing", label_smoothing, 0, 1)
        pick("class_weights", class_weights, ("balanced", "none"))
        balanced = class_weights == "balanced"
        self.register_buffer("class_weight", balanced_weights(context.target) if balanced else None)

    def forward(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Map taps ``[B, C, *spatial]`` to logits ``[B, K]``."""
        return self.linear(self.dropout(self.pool(features)))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the weighted cross-entropy against class indices ``[B]``."""
        return functional.cross_entropy(
            output.float(),
            batch.labels().long(),
            weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            reduction="none",
        ).mean()

    def predict(self, output: Tensor, batch: Batch) -> Prediction:
        """Return the probability of each class and the most probable one."""
        probabilities = output.float().softmax(dim=1)
        return Prediction(probabilities=probabilities, classes=probabilities.argmax(dim=1))

    def metrics(self) -> dict[str, Metric]:
        """Return the area under the ROC curve (the key metric) and its companions; all are better when higher."""
        scores: dict[str, scoring.Score] = {
            "roc_auc": scoring.over_classes(scoring.roc_auc),
            "balanced_accuracy": scoring.balanced_accuracy,
            "accuracy": scoring.accuracy,
            "f1_macro": scoring.f1_macro,
            "average_precision": scoring.over_classes(scoring.average_precision),
        }
        if self.linear.out_features == 2:
            scores |= {"sensitivity": scoring.sensitivity, "specificity": scoring.specificity}
        return {
            name: Metric(fn=scoring.Collected(score), inputs=_probabilities_and_class) for name, score in scores.items()
        }


def balanced_weights(target: TargetInfo) -> Tensor:
    """Return cases / (classes × cases of the class) for each class ``[K]``."""
    counts = torch.tensor(require_counts(target, "classification"), dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)


def _probabilities_and_class(prediction: Prediction, batch: Batch) -> tuple[Tensor | None, Tensor]:
    return prediction.probabilities, batch.labels()


def _check_labels(target: TargetInfo) -> None:
    require_kind(target, "class", "classification")
    if len(target.classes) < 2:
        raise DataError(
            f"{len(target.classes)} class is too few to tell classes apart",
            where=name_of(target),
            mend="Check the column: it needs at least two different values",
        )
    empty = [name for name, count in zip(target.classes, target.counts, strict=False) if count == 0]
    if empty:
        raise DataError(
            f"no training case has the class {' or '.join(map(repr, empty))}",
            where=name_of(target),
            mend="Add cases, merge classes, or divide the cases with another splits.seed",
        )

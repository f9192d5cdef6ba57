"""Several yes-or-no labels a case, each of which may be missing."""

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


class MultilabelHead(Head):
    """Global pooling, dropout, one linear layer; binary cross-entropy of each label that is known.

    A target of NaN means *not labelled*: it takes part in neither loss nor metrics.

    Args:
        context: What the host knows of backbone and labels.
        pool: ``"avg"``, ``"max"`` or ``"avgmax"`` (both side by side).
        stages: How many of the backbone's last taps are pooled.
        dropout: Share of pooled features dropped in training.
        pos_weight: ``"balanced"`` weighs the positive cases of a label by its negative / positive training cases;
            ``"none"`` weighs all alike.

    Raises:
        DataError: If there is no label, or a label is set in no training case or in all of them.
        ConfigError: If an option is out of range.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        context: HeadContext,
        *,
        pool: str = "avg",
        stages: int = 1,
        dropout: float = 0.2,
        pos_weight: str = "balanced",
    ) -> None:
        super().__init__()
        _check_labels(context.target)
        self.labels = context.target.classes
        self.pool = GlobalPool(context.stages, last=stages, kind=pool)
        self.dropout = nn.Dropout(within("dropout", dropout, 0, 1))
        self.linear = FullPrecisionLinear(self.pool.features, len(self.labels))
        pick("pos_weight", pos_weight, ("balanced", "none"))
        balanced = pos_weight == "balanced"
        self.register_buffer("pos_weight", balanced_pos_weight(context.target) if balanced else None)

    def forward(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Map taps ``[B, C, *spatial]`` to logits ``[B, L]``."""
        return self.linear(self.dropout(self.pool(features)))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean binary cross-entropy over the known entries of ``[B, L]``; 0 if none is known."""
        targets = batch.labels().float()
        known = ~targets.isnan()
        losses = functional.binary_cross_entropy_with_logits(
            output.float(), targets.nan_to_num(), pos_weight=self.pos_weight, reduction="none"
        )
        return losses[known].sum() / known.sum().clamp(min=1)

    def predict(self, output: Tensor, batch: Batch) -> Prediction:
        """Return the probability of each label, and which labels reach 0.5."""
        probabilities = output.float().sigmoid()
        return Prediction(probabilities=probabilities, classes=(probabilities >= 0.5).long())

    def metrics(self) -> dict[str, Metric]:
        """Return the area under the ROC curve (the key metric), average precision and F1, each label a component.

        A label whose known cases are all alike has no area: its component is NaN and the mean is over the others.
        """
        scores = {
            "roc_auc": scoring.roc_auc,
            "average_precision": scoring.average_precision,
            "f1_macro": scoring.binary_f1,
        }
        return {name: self._metric(scoring.column_by_column(score)) for name, score in scores.items()}

    def _metric(self, score: scoring.Score) -> Metric:
        collected = scoring.Collected(score, size=len(self.labels))
        return Metric(fn=collected, inputs=_probabilities_and_labels, components=self.labels)


def balanced_pos_weight(target: TargetInfo) -> Tensor:
    """Return negative / positive training cases of each label ``[L]``, among the cases in which it is known."""
    positive = torch.tensor(require_counts(target, "multilabel"), dtype=torch.float32)
    return (torch.tensor(_known(target), dtype=torch.float32) - positive) / positive


def _known(target: TargetInfo) -> tuple[int, ...]:
    return target.labelled or (target.cases,) * len(target.classes)


def _probabilities_and_labels(prediction: Prediction, batch: Batch) -> tuple[Tensor | None, Tensor]:
    return prediction.probabilities, batch.labels()


def _check_labels(target: TargetInfo) -> None:
    require_kind(target, "classes", "multilabel")
    if not target.classes:
        raise DataError("there is no label to learn", where=name_of(target), mend="Name at least one label column")
    for name, count, known in zip(target.classes, target.counts, _known(target), strict=False):
        if count in (0, known):
            raise DataError(
                f"{'no' if count == 0 else 'every'} training case has this label, so it cannot be learnt",
                where=f"label {name}",
                mend="Leave the label out, add cases, or divide the cases with another splits.seed",
            )

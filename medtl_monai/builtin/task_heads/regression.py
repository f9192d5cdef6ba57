"""One or several numbers a case, in the units of the labels."""

from __future__ import annotations

import math

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from medtl_monai.builtin.task_heads import scoring
from medtl_monai.builtin.task_heads.checks import name_of, pick, require_kind, within
from medtl_monai.builtin.task_heads.pooling import FullPrecisionLinear, GlobalPool
from medtl_monai.errors import DataError
from medtl_monai.modules import Batch, Head, Metric, Prediction
from medtl_monai.specs import HeadContext, TargetInfo

_LOSSES = {"mse": functional.mse_loss, "l1": functional.l1_loss, "smooth-l1": functional.smooth_l1_loss}


class RegressionHead(Head):
    """Global pooling, dropout, one linear layer that learns standardised values.

    Mean and standard deviation of the training labels are buffers, so a checkpoint says by itself what its outputs
    mean; predictions are in the units of the labels. A target of NaN means *not labelled*: it takes part in neither
    loss nor metrics.

    Args:
        context: What the host knows of backbone and labels.
        pool: ``"avg"``, ``"max"`` or ``"avgmax"`` (both side by side).
        stages: How many of the backbone's last taps are pooled.
        dropout: Share of pooled features dropped in training.
        loss: ``"mse"``, ``"l1"`` or ``"smooth-l1"`` (quadratic within one standard deviation), on standardised values.

    Raises:
        DataError: If there is no column, or a column does not vary over the training cases.
        ConfigError: If an option is out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        context: HeadContext,
        *,
        pool: str = "avg",
        stages: int = 1,
        dropout: float = 0.0,
        loss: str = "smooth-l1",
    ) -> None:
        super().__init__()
        _check_labels(context.target)
        self.columns = context.target.columns
        self.pool = GlobalPool(context.stages, last=stages, kind=pool)
        self.dropout = nn.Dropout(within("dropout", dropout, 0, 1))
        self.linear = FullPrecisionLinear(self.pool.features, len(self.columns))
        self.criterion = _LOSSES[pick("loss", loss, tuple(_LOSSES))]
        self.register_buffer("mean", torch.tensor(context.target.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(context.target.std, dtype=torch.float32))

    def forward(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Map taps ``[B, C, *spatial]`` to standardised values ``[B, N]``."""
        return self.linear(self.dropout(self.pool(features)))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss over the known entries of ``[B, N]``, in standard deviations; 0 if none is known."""
        targets = batch.labels().float()
        known = ~targets.isnan()
        standardised = ((targets - self.mean) / self.std).nan_to_num()
        losses = self.criterion(output.float(), standardised, reduction="none")
        return losses[known].sum() / known.sum().clamp(min=1)

    def predict(self, output: Tensor, batch: Batch) -> Prediction:
        """Return the values in the units of the labels."""
        return Prediction(values=output.float() * self.std + self.mean)

    def metrics(self) -> dict[str, Metric]:
        """Return the errors in label units, R² and correlations, each column a component.

        One column: the key metric is ``mae``. Several: a mean over columns of different units means nothing, so the key
        metric is ``mae_sd``, the mean absolute error in training standard deviations.
        """
        metrics = {
            "mae": self._metric(mean_absolute_error, "min"),
            "rmse": self._metric(root_mean_squared_error, "min"),
            "r2": self._metric(r_squared),
            "pearson_r": self._metric(pearson_r),
            "spearman_r": self._metric(spearman_r),
        }
        if len(self.columns) > 1:
            metrics = {"mae_sd": self._metric(mean_absolute_error, "min", standardise=True), **metrics}
        return metrics

    def _metric(self, score: scoring.ColumnScore, mode: scoring.Mode = "max", *, standardise: bool = False) -> Metric:
        def values_and_numbers(prediction: Prediction, batch: Batch) -> tuple[Tensor | None, Tensor]:
            values, targets = prediction.values, batch.labels()
            if standardise and values is not None:
                return values / self.std.to(values.device), targets / self.std.to(targets.device)
            return values, targets

        count = len(self.columns)
        return Metric(
            fn=scoring.Collected(scoring.column_by_column(score), size=count),
            inputs=values_and_numbers,
            mode=mode,
            components=self.columns if count > 1 else (),
        )


def mean_absolute_error(values: Tensor, truth: Tensor) -> float:
    """Return the mean absolute error of ``[N]``; NaN without a case."""
    return (values.double() - truth.double()).abs().mean().item()


def root_mean_squared_error(values: Tensor, truth: Tensor) -> float:
    """Return the root of the mean squared error of ``[N]``; NaN without a case."""
    return (values.double() - truth.double()).square().mean().sqrt().item()


def r_squared(values: Tensor, truth: Tensor) -> float:
    """Return the coefficient of determination of ``[N]``; NaN if the truth does not vary."""
    spread = (truth.double() - truth.double().mean()).square().sum()
    if len(truth) < 2 or not spread > 0:
        return math.nan
    return (1 - (truth.double() - values.double()).square().sum() / spread).item()


def pearson_r(values: Tensor, truth: Tensor) -> float:
    """Return the linear correlation of ``[N]``; NaN if either side does not vary."""
    if values.unique().numel() < 2 or truth.unique().numel() < 2:
        return math.nan
    return torch.corrcoef(torch.stack([values.double(), truth.double()]))[0, 1].item()


def spearman_r(values: Tensor, truth: Tensor) -> float:
    """Return the rank correlation of ``[N]``, ties sharing their mean rank; NaN if either side does not vary."""
    return pearson_r(torch.from_numpy(rankdata(values.numpy())), torch.from_numpy(rankdata(truth.numpy())))


def _check_labels(target: TargetInfo) -> None:
    require_kind(target, "number", "regression")
    if not target.columns:
        raise DataError("there is no number to learn", where="labels", mend="Name at least one label column")
    if not len(target.mean) == len(target.std) == len(target.columns):
        raise DataError(
            f"{len(target.mean)} means and {len(target.std)} standard deviations for {len(target.columns)} columns",
            where=name_of(target),
            mend="Give one of each for every column",
        )
    for column, mean, std in zip(target.columns, target.mean, target.std, strict=True):
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise DataError(
                "the numbers do not vary over the training cases, or there are none",
                where=f"label column {column}",
                mend="Check the column, or add cases",
            )

"""How a metric varies from run to run: described always, with an interval only where that means something."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

from medtl_monai.evaluation.statistics import Interval

MIN_SEEDS = 6
"""Below this many seeds the spread is descriptive only: no interval is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Values of each metric over folds or seeds.

    Attributes:
        over: What differs between the runs.
        names: What each value is of: ``fold-1``, ``seed-0``.
        values: Metric to its values, in the order of the names; NaN where undefined.
        mean: Metric to the mean of its values that are defined.
        sd: Metric to their standard deviation (n - 1); NaN with fewer than two.
        intervals: Metric to a 95 % interval of the mean; None where none can be given.
    """

    over: Literal["folds", "seeds"]
    names: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    mean: dict[str, float]
    sd: dict[str, float]
    intervals: dict[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        metrics = {
            name: {
                "values": list(values),
                "mean": self.mean[name],
                "sd": self.sd[name],
                "interval": None if (i := self.intervals[name]) is None else [i.low, i.high],
            }
            for name, values in self.values.items()
        }
        return {"over": self.over, "names": list(self.names), "metrics": metrics}


def spread(over: Literal["folds", "seeds"], values: Mapping[str, Mapping[str, float]]) -> Spread:
    """Describe how metrics vary.

    Over seeds, an interval of the mean by Student's t from :data:`MIN_SEEDS` seeds on: what another seed would give on
    these very cases, which says nothing of other patients. Over folds there is none: training sets overlap, and the
    variance of a cross-validated mean has no unbiased estimate (Bengio and Grandvalet, JMLR 5, 2004).

    Args:
        over: What differs between the runs.
        values: Name of each run (or fold, or seed) to its metrics.
    """
    names = list(dict.fromkeys(name for each in values.values() for name in each))
    table = {name: tuple(each.get(name, math.nan) for each in values.values()) for name in names}
    known = {name: [v for v in row if math.isfinite(v)] for name, row in table.items()}
    return Spread(
        over=over,
        names=tuple(values),
        values=table,
        mean={name: float(np.mean(row)) if row else math.nan for name, row in known.items()},
        sd={name: float(np.std(row, ddof=1)) if len(row) > 1 else math.nan for name, row in known.items()},
        intervals={name: _of_mean(row) if over == "seeds" else None for name, row in known.items()},
    )


def _of_mean(values: Sequence[float]) -> Interval | None:
    if len(values) < MIN_SEEDS or np.ptp(values) == 0:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Interval(float(np.mean(values)) - half, float(np.mean(values)) + half)

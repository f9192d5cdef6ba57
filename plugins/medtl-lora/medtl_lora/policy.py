"""The policy ``lora``: pure values, no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from medtl_monai.plugin import AdapterSpec, At, FreezePolicy, PolicyError, Rule, StageInfo


@dataclasses.dataclass(frozen=True)
class Lora(FreezePolicy):
    """Adapters train in stages that received weights, whose own parameters and statistics stay as they are.

    The head trains as usual, and so does everything else that received no weights.

    Attributes:
        adapter: The adapters.
        stages: Names of the stages that get them; the other pretrained ones are frozen. Empty means all.
        lr: Learning-rate factor of the adapters.
    """

    adapter: AdapterSpec
    stages: tuple[str, ...] = ()
    lr: float = 1.0

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Mapping[str, Rule]:
        """Return the rules, the same in every epoch."""
        rules = {stage.name: Rule() for stage in stages if stage.role == "head" or not stage.pretrained}
        body = [stage.name for stage in stages if stage.name not in rules and stage.kinds]
        if not any(stage.name in body for stage in stages if stage.role == "backbone"):
            mend = "Load weights, use --policy full, or set model.allow_random_frozen: true for a control experiment"
            raise PolicyError("no backbone stage received weights to adapt", where="lora", mend=mend)
        rule = Rule(params="adapter", norm="eval", lr=self.lr, adapter=self.adapter)
        return rules | dict.fromkeys(self.stages or body, rule)


def lora(
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    stages: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    lr: float = 1.0,
) -> FreezePolicy:
    """Build ``lora``.

    Raises:
        PolicyError: If an option makes no sense.
    """
    _check(rank >= 1, f"rank={rank} is not a whole number above 0", "rank=8")
    _check(alpha > 0 and math.isfinite(alpha), f"alpha={alpha} is not a positive number", "alpha=16")
    _check(0 <= dropout < 1, f"dropout={dropout} is not from 0 to below 1", "dropout=0.1")
    _check(lr > 0 and math.isfinite(lr), f"lr={lr} is not a positive number", "lr=1")
    options = (("rank", rank), ("alpha", float(alpha)), ("dropout", float(dropout)), ("targets", tuple(targets)))
    adapter = AdapterSpec(name="lora", build="medtl_lora.layers:adapt", options=options)
    return Lora(adapter, tuple(stages), lr)


def _check(ok: bool, what: str, example: str) -> None:
    if not ok:
        raise PolicyError(what, where="lora", mend=f"Give one such as {example}")

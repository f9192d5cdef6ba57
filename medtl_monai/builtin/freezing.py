"""The built-in freeze policies: pure values, no torch.

Two rules hold for all of them. Stages and necks that received no weights train by themselves, with the head: there is
nothing in them worth keeping. And the stages that a policy counts or freezes are those that *did* receive weights,
backbone first, then necks, in order; without any in the backbone the policy has no meaning and says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from medtl_monai.errors import PolicyError, did_you_mean
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import At, NormMode, Params, Rule, StageInfo

Rules = Mapping[str, Rule]


@dataclasses.dataclass(frozen=True)
class Full(FreezePolicy):
    """Everything trains; stages with weights at ``lr`` times the rate of the rest."""

    lr: float = 1.0

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return a rule for every stage."""
        if self.lr == 1:
            return {stage.name: Rule() for stage in stages}
        return fresh(stages) | {stage.name: Rule(lr=self.lr) for stage in pretrained(stages, "full with lr")}


@dataclasses.dataclass(frozen=True)
class LinearProbe(FreezePolicy):
    """Only the head trains."""

    name: str = "linear-probe"

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return the rules of the head and of what received no weights."""
        pretrained(stages, self.name)
        return fresh(stages)


@dataclasses.dataclass(frozen=True)
class LastN(FreezePolicy):
    """The last ``n`` stages with weights train, and the head."""

    n: int = 1

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return the rules of what trains."""
        body = pretrained(stages, "last-n")
        if self.n > len(body):
            mend = f"Choose n from 1 to {len(body)}, or --policy full"
            raise PolicyError(f"n={self.n}, but {len(body)} stages received weights", where="last-n", mend=mend)
        return fresh(stages) | {stage.name: Rule() for stage in body[-self.n :]}


@dataclasses.dataclass(frozen=True)
class Gradual(FreezePolicy):
    """The head first, then one more stage from the top every ``every`` epochs."""

    every: int = 3
    lr: float = 1.0

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return the rules of what trains in this epoch."""
        body = pretrained(stages, "gradual")
        first = max(0, len(body) - at.epoch // self.every)
        return fresh(stages) | {stage.name: Rule(lr=self.lr) for stage in body[first:]}


@dataclasses.dataclass(frozen=True)
class GradualOnPlateau(FreezePolicy):
    """The head first, then one more stage from the top whenever the key metric stalls."""

    lr: float = 1.0

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return the rules of what trains after this many plateaus."""
        body = pretrained(stages, "gradual-on-plateau")
        first = max(0, len(body) - at.plateaus)
        return fresh(stages) | {stage.name: Rule(lr=self.lr) for stage in body[first:]}


@dataclasses.dataclass(frozen=True)
class LayerwiseDecay(FreezePolicy):
    """Everything trains, each stage at ``decay`` times the rate of the stage above it."""

    decay: float = 0.75

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return a rule for every stage."""
        body = pretrained(stages, "llrd")
        factors = {stage.name: Rule(lr=self.decay ** (len(body) - i)) for i, stage in enumerate(body)}
        return fresh(stages) | factors


@dataclasses.dataclass(frozen=True)
class Subset(FreezePolicy):
    """Of stages with weights, only one kind of parameter trains; stages that have none of it are frozen."""

    name: str
    params: Params
    norm: NormMode
    meaning: str

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return the rules of what trains."""
        rule = Rule(params=self.params, norm=self.norm)
        chosen = {s.name: rule for s in pretrained(stages, self.name) if self.params in s.kinds}
        if not chosen:
            mend = "Use --policy linear-probe, which is what would be left"
            raise PolicyError(f"no stage with weights has {self.meaning}", where=self.name, mend=mend)
        return fresh(stages) | chosen


@dataclasses.dataclass(frozen=True)
class StartingPoint(FreezePolicy):
    """Everything trains, and stages with weights are pulled back to them instead of to zero."""

    anchor: float = 0.01

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return a rule for every stage."""
        return fresh(stages) | {stage.name: Rule(anchor=self.anchor) for stage in pretrained(stages, "l2-sp")}


@dataclasses.dataclass(frozen=True)
class Surgical(FreezePolicy):
    """The named stages train, and the head."""

    stages: tuple[str, ...]

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Rules:
        """Return the rules of what trains."""
        known = [stage.name for stage in stages]
        for name in self.stages:
            if name not in known:
                raise PolicyError(f"there is no stage {name!r}", where="surgical", mend=did_you_mean(name, known))
        pretrained(stages, "surgical")
        return fresh(stages) | {name: Rule() for name in self.stages}


def full(*, lr: float = 1.0) -> FreezePolicy:
    """Build ``full``."""
    return Full(_positive(lr, "full", "lr"))


def linear_probe() -> FreezePolicy:
    """Build ``linear-probe``."""
    return LinearProbe()


def last_n(*, n: int = 1) -> FreezePolicy:
    """Build ``last-n``."""
    return LastN(_at_least_one(n, "last-n", "n"))


def gradual(*, every: int = 3, lr: float = 1.0) -> FreezePolicy:
    """Build ``gradual``."""
    return Gradual(_at_least_one(every, "gradual", "every"), _positive(lr, "gradual", "lr"))


def gradual_on_plateau(*, lr: float = 1.0) -> FreezePolicy:
    """Build ``gradual-on-plateau``."""
    return GradualOnPlateau(_positive(lr, "gradual-on-plateau", "lr"))


def lp_ft(*, probe: float = 0.3, lr: float = 0.1, decay: float = 1.0) -> FreezePolicy:
    """Build ``lp-ft``: a linear probe for the share ``probe`` of the epochs, then everything, features slowly."""
    if not 0 < probe < 1:
        raise PolicyError(f"probe={probe} is not between 0 and 1", where="lp-ft", mend="Give a share such as 0.3")
    tune: FreezePolicy = Full(_positive(lr, "lp-ft", "lr"))
    if _decay(decay, "lp-ft") < 1:
        tune = tune * LayerwiseDecay(decay)
    return LinearProbe(name="lp-ft").then(tune, at=probe)


def llrd(*, decay: float = 0.75) -> FreezePolicy:
    """Build ``llrd``."""
    return LayerwiseDecay(_decay(decay, "llrd"))


def norm_only() -> FreezePolicy:
    """Build ``norm-only``: normalisation statistics stay live."""
    return Subset("norm-only", "norm", "live", "normalisation parameters")


def bitfit() -> FreezePolicy:
    """Build ``bitfit``: normalisation statistics are frozen, biases of normalisation layers train too."""
    return Subset("bitfit", "bias", "eval", "biases")


def l2_sp(*, anchor: float = 0.01) -> FreezePolicy:
    """Build ``l2-sp``."""
    return StartingPoint(_positive(anchor, "l2-sp", "anchor"))


def surgical(*, stages: tuple[str, ...] | str = ()) -> FreezePolicy:
    """Build ``surgical``; ``"a+b"`` stands for ``("a", "b")``."""
    if isinstance(stages, str):
        stages = tuple(stages.split("+"))
    if not stages:
        mend = "For example --policy surgical:stages=layer1+layer2"
        raise PolicyError("no stages are named", where="surgical", mend=mend)
    return Surgical(tuple(stages))


def fresh(stages: Sequence[StageInfo]) -> dict[str, Rule]:
    """Return the rules of what always trains: the head, and every stage that received no weights."""
    return {stage.name: Rule() for stage in stages if stage.role == "head" or not stage.pretrained}


def pretrained(stages: Sequence[StageInfo], policy: str) -> list[StageInfo]:
    """Return the stages with weights (and with parameters), backbone first, then necks.

    Raises:
        PolicyError: If no backbone stage is among them.
    """
    body = [stage for stage in stages if stage.role != "head" and stage.pretrained and stage.kinds]
    if not any(stage.role == "backbone" for stage in body):
        raise PolicyError(
            "no backbone stage received weights, so there is nothing to keep",
            where=policy,
            mend="Load weights, use --policy full, or set model.allow_random_frozen: true for a control experiment",
        )
    return body


def _positive(value: float, policy: str, name: str) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise PolicyError(f"{name}={value} is not a positive number", where=policy, mend=f"Give {name} such as 0.1")
    return value


def _decay(value: float, policy: str) -> float:
    if not 0 < value <= 1:
        raise PolicyError(f"decay={value} is not above 0 and at most 1", where=policy, mend="Give one such as 0.75")
    return value


def _at_least_one(value: int, policy: str, name: str) -> int:
    if value < 1 or value != int(value):
        raise PolicyError(f"{name}={value} is not a whole number above 0", where=policy, mend=f"Give {name}=1 or more")
    return int(value)

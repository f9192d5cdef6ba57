"""The freeze policy: a pure function from (moment, stages) to rules, and its two combinators."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from medtl_monai.errors import PolicyError
from medtl_monai.specs import FROZEN, At, Params, Rule, StageInfo

# Which parameter sets contain which: "norm" and "bias" overlap without one containing the other.
_CONTAINS: dict[str, set[str]] = {
    "all": {"all", "norm", "bias", "adapter", "none"},
    "norm": {"norm", "none"},
    "bias": {"bias", "none"},
    "adapter": {"adapter", "none"},
    "none": {"none"},
}


class FreezePolicy(ABC):
    """A freeze policy: a value that can be called, compared by what it returns, and combined.

    A policy is pure, total and deterministic. It never sees modules, optimizers or random state, so the host can
    evaluate it for every epoch before training starts. A stage it leaves out is frozen.

    Example:
        >>> class Probe(FreezePolicy):
        ...     def __call__(self, at, stages):
        ...         return {s.name: Rule() for s in stages if s.role == "head"}
    """

    @abstractmethod
    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Mapping[str, Rule]:
        """Return the rule of each stage that trains at this moment.

        Args:
            at: The epoch, of how many, and the plateau count.
            stages: Every stage of backbone and head, in order.
        """

    def __mul__(self, other: FreezePolicy) -> FreezePolicy:
        """Combine: learning-rate factors multiply, the smaller parameter set and ``norm="eval"`` win, anchors add."""
        return _Product(self, other)

    def then(self, other: FreezePolicy, *, at: float) -> FreezePolicy:
        """Follow this policy for the share ``at`` of the epochs (0 < at < 1), then ``other``, counted from there.

        Epochs are counted anew for ``other``; plateaus are not.
        """
        if not 0 < at < 1:
            raise PolicyError(f"then(at={at}) is not between 0 and 1", mend="Give the share of the epochs, such as 0.5")
        return _Sequence(self, other, at)


@dataclasses.dataclass(frozen=True)
class _Product(FreezePolicy):
    left: FreezePolicy
    right: FreezePolicy

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Mapping[str, Rule]:
        left, right = self.left(at, stages), self.right(at, stages)
        return {name: combine(left.get(name, FROZEN), right.get(name, FROZEN)) for name in {**left, **right}}


@dataclasses.dataclass(frozen=True)
class _Sequence(FreezePolicy):
    first: FreezePolicy
    second: FreezePolicy
    share: float

    def __call__(self, at: At, stages: Sequence[StageInfo]) -> Mapping[str, Rule]:
        switch = switch_epoch(at.epochs, self.share)
        if at.epoch < switch:
            return self.first(dataclasses.replace(at, epochs=switch), stages)
        return self.second(dataclasses.replace(at, epoch=at.epoch - switch, epochs=at.epochs - switch), stages)


def switch_epoch(epochs: int, share: float) -> int:
    """Return the first epoch of the second part: at least one epoch goes to each part where there are two."""
    return min(max(1, round(epochs * share)), max(1, epochs - 1))


def combine(left: Rule, right: Rule) -> Rule:
    """Combine two rules for one stage; see :meth:`FreezePolicy.__mul__`.

    Raises:
        PolicyError: If neither parameter set contains the other, or both rules bring adapters of their own.
    """
    params: Params
    if right.params in _CONTAINS[left.params]:
        params = right.params
    elif left.params in _CONTAINS[right.params]:
        params = left.params
    else:
        raise PolicyError(
            f"params={left.params!r} and params={right.params!r} cannot be combined",
            mend="Combine policies of which one trains a subset of the other's parameters",
        )
    if params == "none":
        return FROZEN
    adapters = {rule.adapter for rule in (left, right) if rule.adapter is not None}
    if len(adapters) > 1:
        names = " and ".join(sorted(adapter.name for adapter in adapters))
        mend = "Combine policies of which at most one brings adapters"
        raise PolicyError(f"two adapters for one stage ({names}) cannot be combined", mend=mend)
    return Rule(
        lr=left.lr * right.lr,
        params=params,
        norm="eval" if "eval" in (left.norm, right.norm) else "live",
        anchor=left.anchor + right.anchor,
        adapter=next(iter(adapters), None),
    )

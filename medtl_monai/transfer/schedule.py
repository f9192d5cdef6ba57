"""From a freeze policy to a table: evaluated for every epoch before training starts, and checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medtl_monai.adapters import AdapterSpec
from medtl_monai.errors import MedtlError, PolicyError, did_you_mean
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import FROZEN, At, Rule, StageInfo
from medtl_monai.transfer.table import Cell, PolicyTable, Row

_RANDOM = (
    "Load weights, let the stage train (--policy full), or set model.allow_random_frozen: true for a control experiment"
)


def plan(
    policy: FreezePolicy,
    stages: Sequence[StageInfo],
    epochs: int,
    *,
    name: str = "",
    allow_random_frozen: bool = False,
    max_plateaus: int | None = None,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> PolicyTable:
    """Evaluate a policy for every epoch (and plateau count) and validate what it asks for.

    Args:
        policy: The policy.
        stages: The model's stages in order, with measured ``pretrained``.
        epochs: Epochs of the run.
        name: What to call the policy in the table and in messages.
        allow_random_frozen: Show the policy every backbone stage as pretrained and let it freeze what received no
            weights: for control experiments. The table names those stages in ``random_frozen``.
        max_plateaus: Largest plateau count the policy is asked about; higher counts mean this one. Default: the
            number of stages.
        counts: Scalars of each stage and parameter set, for the printed table.

    Raises:
        PolicyError: If the policy fails, is not pure, names an unknown stage, has a rule that matches no parameter,
            freezes (or anchors) a stage that received no weights, never trains the head, trains nothing in some
            epoch, asks for a learning rate that is not finite, or for no or several adapters where one is meant.
    """
    name = name or type(policy).__name__.lower()
    if epochs < 1:
        raise PolicyError(f"epochs is {epochs}", where=name, mend="Train for at least one epoch")
    limit = len(stages) if max_plateaus is None else max_plateaus
    shown = tuple(_shown(stage, allow_random_frozen) for stage in stages)
    cells = [(epoch, plateaus) for epoch in range(epochs) for plateaus in range(min(epoch, limit) + 1)]
    rows = {cell: _evaluate(policy, cell, epochs, shown, name) for cell in cells}
    # Backwards, so that a policy which counts its own calls is found out.
    for cell in reversed(cells):
        if _evaluate(policy, cell, epochs, shown, name) != rows[cell]:
            mend = "A policy may depend on its arguments only: no counters, no random numbers, no clock"
            raise PolicyError(f"asked twice about epoch {cell[0]}, it answered differently", where=name, mend=mend)
    random_frozen: set[str] = set()
    for cell, row in rows.items():
        random_frozen |= _check_row(row, stages, name, cell, allow_random_frozen)
    _check_head(rows, stages, name)
    _check_adapters(rows, name)
    if all(row == rows[epoch, 0] for (epoch, _), row in rows.items()):
        rows, limit = {cell: row for cell, row in rows.items() if cell[1] == 0}, 0
    return PolicyTable(
        policy=name,
        epochs=epochs,
        stages=tuple(stages),
        max_plateaus=limit,
        cells=rows,
        random_frozen=tuple(s.name for s in stages if s.name in random_frozen),
        counts=counts,
    )


def _shown(stage: StageInfo, allow_random_frozen: bool) -> StageInfo:
    """Return the stage as the policy sees it: in a control experiment, a random backbone passes for a pretrained one.

    Necks do not: a new decoder trains in the experiment that is being controlled for, too.
    """
    if allow_random_frozen and stage.role == "backbone":
        return dataclasses.replace(stage, pretrained=True)
    return stage


def _evaluate(policy: FreezePolicy, cell: Cell, epochs: int, stages: tuple[StageInfo, ...], name: str) -> Row:
    epoch, plateaus = cell
    try:
        rules = policy(At(epoch=epoch, epochs=epochs, plateaus=plateaus), stages)
        given: dict[Any, Any] = dict(rules)
    except MedtlError:
        raise
    except Exception as error:
        mend = "Mend the policy: it must answer for every epoch"
        raise PolicyError(
            f"failed at epoch {epoch} with {type(error).__name__}: {error}", where=name, mend=mend
        ) from error
    known = [stage.name for stage in stages]
    for stage, rule in given.items():
        if stage not in known:
            raise PolicyError(f"there is no stage {stage!r}", where=name, mend=did_you_mean(str(stage), known))
        if not isinstance(rule, Rule):
            mend = "Return a mapping from stage names to Rule"
            raise PolicyError(f"stage {stage!r} got a {type(rule).__name__}, not a Rule", where=name, mend=mend)
        if not (math.isfinite(rule.lr) and math.isfinite(rule.anchor)):
            raise PolicyError(
                f"stage {stage!r} has lr factor {rule.lr} and anchor {rule.anchor} in epoch {epoch}",
                where=name,
                mend="Both must be finite",
            )
        _check_adapter(rule, stage, name)
    # One rule stands for every way of saying "frozen".
    return {stage: FROZEN if (rule := given.get(stage, FROZEN)).frozen else rule for stage in known}


def _check_row(row: Row, stages: Sequence[StageInfo], name: str, cell: Cell, allow_random: bool) -> set[str]:
    """Check one row; return the stages without weights that it freezes, where that is allowed."""
    when = f"in epoch {cell[0]}" + (f" after {cell[1]} plateaus" if cell[1] else "")
    random_frozen = set()
    for stage in stages:
        rule = row[stage.name]
        _check_matches(rule, stage, name, when)
        if _holds_random(rule, stage):
            if not allow_random:
                verb = "anchored" if rule.params == "all" else "frozen"
                what = f"stage {stage.name!r} received no weights and would be {verb} {when}"
                raise PolicyError(what, where=name, mend=_RANDOM)
            random_frozen.add(stage.name)
    if not any(_trains(row[stage.name], stage) for stage in stages):
        raise PolicyError(f"nothing trains {when}", where=name, mend="Give at least the head a rule")
    return random_frozen


def _check_matches(rule: Rule, stage: StageInfo, name: str, when: str) -> None:
    # A stage without any parameter may be given the rule of all others: there is nothing to miss in it.
    # Whether an adapter fits a layer shows when it is put in.
    if rule.params in ("none", "all") or rule.params in stage.kinds or (rule.params == "adapter" and stage.kinds):
        return
    what = f"params={rule.params!r} matches no parameter of stage {stage.name!r} {when}"
    raise PolicyError(what, where=name, mend="Leave the stage out, or choose another policy")


def _check_adapter(rule: Rule, stage: str, name: str) -> None:
    if rule.params == "adapter" and not isinstance(rule.adapter, AdapterSpec):
        what = f"stage {stage!r} is to train adapters, and no AdapterSpec says which"
        raise PolicyError(what, where=name, mend="Give Rule(params='adapter', adapter=AdapterSpec(…))")
    if rule.params != "adapter" and rule.adapter is not None:
        what = f"stage {stage!r} got an adapter with params={rule.params!r}"
        raise PolicyError(what, where=name, mend="Adapters go with params='adapter'")


def _check_adapters(rows: Mapping[Cell, Row], name: str) -> None:
    found: dict[str, AdapterSpec] = {}
    for row in rows.values():
        for stage, rule in row.items():
            if rule.adapter is not None and found.setdefault(stage, rule.adapter) != rule.adapter:
                what = f"stage {stage!r} gets one adapter at first and another one later"
                raise PolicyError(what, where=name, mend="Adapters are put in once: keep to one for the whole run")


def _holds_random(rule: Rule, stage: StageInfo) -> bool:
    """Whether a rule keeps random weights as they are: frozen, but for norms or biases, or anchored to them."""
    if stage.role == "head" or stage.pretrained:
        return False
    return rule.params != "all" or rule.anchor > 0


def _trains(rule: Rule, stage: StageInfo) -> bool:
    return rule.params in stage.kinds or rule.params == "adapter"


def _check_head(rows: Mapping[Cell, Row], stages: Sequence[StageInfo], name: str) -> None:
    for stage in stages:
        ever = any(_trains(row[stage.name], stage) for (_, plateaus), row in rows.items() if plateaus == 0)
        if stage.role == "head" and stage.kinds and not ever:
            mend = "Give the stage of role 'head' a rule: it is never pretrained"
            raise PolicyError(f"the head (stage {stage.name!r}) never trains", where=name, mend=mend)

"""Applying a policy table to a model and its optimizer, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medtl_monai.errors import PolicyError, RunError
from medtl_monai.specs import Params
from medtl_monai.transfer.lr import ramp
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.stages import ModelStage, StageParameter, frozen_statistics
from medtl_monai.transfer.table import PolicyTable, Row


class Freezer:
    """Makes a model and its optimizer follow a policy table.

    What trains is a function of the epoch and the plateau count, computed anew in every epoch: a resumed run needs
    nothing but :meth:`state_dict` and, where stages are anchored, :meth:`anchor_state`.

    Args:
        model: The model, its weights already loaded (anchors are taken from them).
        table: The table planned for this model.
        warmup: Share of the steps of each phase over which the learning rate of newly trainable stages rises.

    Raises:
        PolicyError: If the table was planned for another model, or a stage without weights would keep normalisation
            statistics that were never measured.
    """

    def __init__(self, model: TransferModel, table: PolicyTable, *, warmup: float = 0.0) -> None:
        self.model = model
        self.table = table
        self.warmup = warmup
        self.epoch: int | None = None
        self._stages = {stage.name: stage for stage in model.stages}
        self._history: list[int] = []
        self._windows: dict[str, tuple[int, int]] = {}
        self._check()
        self._anchors = {
            entry.name: entry.parameter.detach().clone()
            for name in table.anchored()
            for entry in self._stages[name].parameters
        }

    @property
    def row(self) -> Row:
        """The rules in force."""
        return self.table.row(self._now(), self._history[-1])

    def apply(self, epoch: int, plateaus: int = 0) -> bool:
        """Put the epoch's row into force; call it before every epoch. Idempotent.

        Args:
            epoch: The epoch about to start, from 0.
            plateaus: How often the metric has stalled so far.

        Returns:
            Whether other parameters train than before (a compiled or wrapped model must then be made anew).

        Raises:
            RunError: If the plateau counts of earlier epochs are needed and were not restored.
        """
        before = self._trainable_ids()
        self._remember(epoch, plateaus)
        self.epoch = epoch
        self.model.set_rules(self.table.row(epoch, plateaus))
        self._windows = {name: self._since(name) for name in self._stages}
        return before != self._trainable_ids()

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimizer's groups, the same for the whole run: everything that trains at some time.

        Each stage has up to two groups, ``<stage>/decay`` and ``<stage>/no-decay`` (biases, normalisation parameters,
        vectors). Beside ``params`` and ``weight_decay`` a group has ``name``, ``stage`` and ``decay`` (its weight
        decay while the stage is not anchored).
        """
        groups = []
        for name, kinds in self.table.ever().items():
            entries = _union(self._stages[name], kinds)
            for decays, label in ((True, "decay"), (False, "no-decay")):
                chosen = [entry.parameter for entry in entries if entry.decays is decays]
                if chosen:
                    decay = weight_decay if decays else 0.0
                    group = {"params": chosen, "name": f"{name}/{label}", "stage": name}
                    groups.append({**group, "weight_decay": decay, "decay": decay})
        return groups

    def set_lr(
        self, optimizer: Optimizer, base_lr: float, schedule: float, *, step: int = 0, steps_per_epoch: int = 1
    ) -> None:
        """Set every group's learning rate to base × schedule × rule.lr × ramp, and its weight decay.

        Args:
            optimizer: Made with :meth:`parameter_groups`.
            base_lr: Base learning rate.
            schedule: Factor of the schedule at this step.
            step: Step within the epoch, from 0.
            steps_per_epoch: Steps of each epoch.
        """
        for group in optimizer.param_groups:
            rule = self.row[group["stage"]]
            factor = 0.0 if rule.frozen else rule.lr * self.ramp(group["stage"], step, steps_per_epoch)
            group["lr"] = base_lr * schedule * factor
            # An anchored stage is pulled to its first weights; decay would pull it to zero as well.
            group["weight_decay"] = 0.0 if rule.anchor > 0 else group["decay"]

    def ramp(self, stage: str, step: int, steps_per_epoch: int) -> float:
        """Return the rising factor of a stage after an unfreeze, 1 when it is over or there was none.

        An optimizer's first updates of new parameters are as large as its learning rate whatever the gradient.
        """
        first, last = self._windows[stage]
        if first == 0:  # the schedule's own warm-up covers the start
            return 1.0
        length = round(self.warmup * (last - first + 1) * steps_per_epoch)
        return ramp((self._now() - first) * steps_per_epoch + step, length)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train now: those that gradient clipping may count."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def penalty(self) -> Tensor | None:
        """Return the L2-SP penalty, or None where no stage is anchored now.

        ``anchor / 2 · ‖w − w₀‖²`` summed over the trainable parameters of anchored stages (Li et al. 2018).
        """
        terms = []
        for name, rule in self.row.items():
            for entry in self._stages[name].select(rule.params) if rule.anchor > 0 else ():
                anchor = self._anchor(entry)
                terms.append(0.5 * rule.anchor * (entry.parameter - anchor).square().sum())
        return torch.stack(terms).sum() if terms else None

    def anchor_state(self) -> dict[str, Tensor]:
        """Return the weights that anchored stages are pulled to, by parameter name; empty without anchors."""
        return dict(self._anchors)

    def load_anchor_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the anchors of the run that is resumed.

        Raises:
            RunError: If names or shapes are not those of this model.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in self._anchors.items()}:
            raise RunError("the stored anchors do not fit this model", mend="Resume with the configuration of the run")
        for name, tensor in state.items():
            self._anchors[name] = tensor.detach().to(self._anchors[name], copy=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs beside the table: the plateau count of each epoch so far."""
        return {"plateaus": list(self._history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._history = [int(count) for count in state["plateaus"]]

    def _check(self) -> None:
        planned = [(stage.name, stage.role) for stage in self.table.stages]
        built = [(stage.name, stage.role) for stage in self.model.stages]
        if planned != built:
            what = f"the table is for stages {[n for n, _ in planned]}, the model has {[n for n, _ in built]}"
            raise PolicyError(what, where=self.table.policy, mend="Plan the policy for this model")
        for info in self.table.stages:
            rules = [row[info.name] for row in self.table.cells.values()]
            unknown = not info.pretrained and info.role != "head" and info.name not in self.table.random_frozen
            if unknown and self._stages[info.name].keeps_statistics and any(map(frozen_statistics, rules)):
                what = f"stage {info.name!r} received no weights and would keep normalisation statistics never measured"
                raise PolicyError(what, where=self.table.policy, mend="Give the stage norm='live', or load weights")

    def _remember(self, epoch: int, plateaus: int) -> None:
        count = min(plateaus, self.table.max_plateaus)
        if len(self._history) < epoch and count > 0:
            mend = "Restore the freezer's state from the checkpoint before the first epoch"
            raise RunError("the plateau counts of earlier epochs are not known", where=self.table.policy, mend=mend)
        self._history += [0] * (epoch - len(self._history))
        self._history[epoch:] = [count]

    def _now(self) -> int:
        if self.epoch is None:
            raise RuntimeError("apply() comes before the first step")
        return self.epoch

    def _since(self, stage: str) -> tuple[int, int]:
        """Return the epoch in which what trains of a stage last grew, and the last epoch of that phase."""
        now, table = self._now(), self.table
        params = [table.row(e, self._history[e])[stage].params for e in range(now + 1)]
        first = now
        entries = self._stages[stage]
        while first > 0 and not _grew(entries, params[first - 1], params[first]):
            first -= 1
        trains = table.trains(first, self._history[first])
        last = first
        while last + 1 < table.epochs:
            count = self._history[last + 1] if last < now else self._history[now]
            if table.trains(last + 1, count) != trains:
                break
            last += 1
        return first, last

    def _trainable_ids(self) -> set[int]:
        return {id(p) for p in self.model.parameters() if p.requires_grad}

    def _anchor(self, entry: StageParameter) -> Tensor:
        anchor = self._anchors[entry.name]
        if anchor.device != entry.parameter.device:
            anchor = self._anchors[entry.name] = anchor.to(entry.parameter.device)
        return anchor


def _union(stage: ModelStage, kinds: frozenset[Params]) -> list[StageParameter]:
    return [entry for entry in stage.parameters if any(entry.chosen_by(kind) for kind in kinds)]


def _grew(stage: ModelStage, before: Params, after: Params) -> bool:
    return any(not entry.chosen_by(before) for entry in stage.select(after))

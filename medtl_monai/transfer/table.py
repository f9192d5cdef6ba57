"""The policy table: what every stage does in every epoch, as a value that is printed, stored and applied."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from medtl_monai.adapters import AdapterSpec
from medtl_monai.errors import MedtlError, RunError
from medtl_monai.files import write_text
from medtl_monai.specs import FROZEN, NormMode, Params, Role, Rule, StageInfo

Cell = tuple[int, int]
"""An epoch (from 0) and a plateau count."""
Row = Mapping[str, Rule]
"""The rule of every stage."""

_COLUMNS = (
    "policy",
    "first_epoch",
    "last_epoch",
    "plateaus",
    "stage",
    "role",
    "weights",
    "kinds",
    "trains",
    "norm",
    "lr",
    "anchor",
    "adapter",
    "parameters",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A run of epochs in which the same parameters train.

    Attributes:
        first: Its first epoch, from 0.
        last: Its last epoch.
        trains: The parameter set of each stage that trains.
    """

    first: int
    last: int
    trains: Mapping[str, Params]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """A freeze policy evaluated for one model and run; made by :func:`medtl_monai.transfer.schedule.plan`.

    Attributes:
        policy: The policy's name.
        epochs: Epochs of the run.
        stages: The model's stages in order.
        max_plateaus: Largest plateau count that makes a difference; 0 if the policy does not look at it.
        cells: The row of every epoch and plateau count.
        random_frozen: Stages that are frozen although they received no weights (control experiment).
        counts: Scalars of each stage and parameter set, or None; not compared.
    """

    policy: str
    epochs: int
    stages: tuple[StageInfo, ...]
    max_plateaus: int
    cells: Mapping[Cell, Row]
    random_frozen: tuple[str, ...] = ()
    counts: Mapping[str, Mapping[str, int]] | None = dataclasses.field(default=None, compare=False)

    def row(self, epoch: int, plateaus: int = 0) -> Row:
        """Return the rule of every stage in ``epoch`` (from 0) after ``plateaus`` plateaus.

        Raises:
            ValueError: If there is no such epoch.
        """
        if not 0 <= epoch < self.epochs or plateaus < 0:
            raise ValueError(f"epoch {epoch}, plateaus {plateaus}: the table has {self.epochs} epochs")
        return self.cells[epoch, min(plateaus, self.max_plateaus, epoch)]

    def trains(self, epoch: int, plateaus: int = 0) -> dict[str, Params]:
        """Return the parameter set of each stage that trains in ``epoch``."""
        row = self.row(epoch, plateaus)
        return {name: rule.params for name, rule in row.items() if not rule.frozen}

    def phases(self, plateaus: int = 0) -> tuple[Phase, ...]:
        """Return the runs of epochs in which the same parameters train, at a constant plateau count."""
        phases: list[Phase] = []
        for epoch in range(self.epochs):
            trains = self.trains(epoch, plateaus)
            if phases and phases[-1].trains == trains:
                phases[-1] = dataclasses.replace(phases[-1], last=epoch)
            else:
                phases.append(Phase(first=epoch, last=epoch, trains=trains))
        return tuple(phases)

    def frozen_prefix(self, epoch: int, plateaus: int = 0) -> int:
        """Return how many leading backbone stages are frozen in ``epoch``."""
        row, count = self.row(epoch, plateaus), 0
        for stage in self.stages:
            if stage.role != "backbone" or not row[stage.name].frozen:
                break
            count += 1
        return count

    def ever(self) -> dict[str, frozenset[Params]]:
        """Return the parameter sets that each stage trains at some time; stages that never train are left out."""
        found: dict[str, set[Params]] = {}
        for row in self.cells.values():
            for name, rule in row.items():
                if not rule.frozen:
                    found.setdefault(name, set()).add(rule.params)
        return {stage.name: frozenset(found[stage.name]) for stage in self.stages if stage.name in found}

    def anchored(self) -> tuple[str, ...]:
        """Return the stages that are pulled towards their first weights at some time."""
        names = {name for row in self.cells.values() for name, rule in row.items() if rule.anchor > 0}
        return tuple(stage.name for stage in self.stages if stage.name in names)

    def adapters(self) -> dict[str, AdapterSpec]:
        """Return the adapter of each stage that has one at some time."""
        found = {name: rule.adapter for row in self.cells.values() for name, rule in row.items() if rule.adapter}
        return {stage.name: found[stage.name] for stage in self.stages if stage.name in found}

    def waits(self, epoch: int, plateaus: int) -> bool:
        """Return whether another plateau would change what happens from ``epoch`` on."""
        more = range(plateaus + 1, self.max_plateaus + 1)
        return any(self.row(e, p) != self.row(e, plateaus) for e in range(epoch, self.epochs) for p in more)

    def summary(self) -> list[dict[str, Any]]:
        """Return one plain mapping for each range of epochs and stage, for printing and JSON.

        Keys: ``policy, first_epoch, last_epoch`` (from 0, inclusive), ``plateaus, stage, role, weights`` (``loaded``,
        ``none`` or ``random-frozen``), ``kinds, trains, norm, lr, anchor, adapter`` (one line of JSON, or empty),
        ``parameters`` (scalars that train, or None) and ``cacheable`` (whether it is among the leading frozen stages,
        whose output for an image stays the same).
        """
        return [self._entry(span, stage) for span in self._spans() for stage in self.stages]

    def write(self, path: Path) -> None:
        """Write the table as CSV (``policy.csv``), atomically.

        Raises:
            StorageError: If the disk is full or the folder is not writable.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for entry in self.summary():
            writer.writerow({**entry, "kinds": "+".join(entry["kinds"]), "lr": repr(entry["lr"])})
        write_text(path, text.getvalue())

    @classmethod
    def read(cls, path: Path) -> PolicyTable:
        """Read back what :meth:`write` wrote; ``counts`` is None.

        Raises:
            RunError: If the file is missing or damaged.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                entries = list(csv.DictReader(file))
            return cls._parse(entries)
        except (OSError, KeyError, ValueError, TypeError, MedtlError) as error:
            mend = "Restore the run folder from a copy, or train again"
            raise RunError("the policy table is missing or damaged", where=path.name, mend=mend) from error

    @classmethod
    def _parse(cls, entries: list[dict[str, str]]) -> PolicyTable:
        if any(None in entry.values() for entry in entries):
            raise ValueError("a row is too short")
        stages: dict[str, StageInfo] = {}
        cells: dict[Cell, dict[str, Rule]] = {}
        for entry in entries:
            stage = _stage_of(entry)
            if stages.setdefault(stage.name, stage) != stage:
                raise ValueError(f"stage {stage.name!r} has two descriptions")
            for epoch in range(int(entry["first_epoch"]), int(entry["last_epoch"]) + 1):
                cells.setdefault((epoch, int(entry["plateaus"])), {})[stage.name] = _rule_of(entry)
        epochs, plateaus = 1 + max(epoch for epoch, _ in cells), max(p for _, p in cells)
        complete = {(e, p) for e in range(epochs) for p in range(min(e, plateaus) + 1)}
        if set(cells) != complete or any(set(row) != set(stages) for row in cells.values()):
            raise ValueError("rows are missing")
        return cls(
            policy=entries[0]["policy"],
            epochs=epochs,
            stages=tuple(stages.values()),
            max_plateaus=plateaus,
            cells=cells,
            random_frozen=tuple(dict.fromkeys(e["stage"] for e in entries if e["weights"] == "random-frozen")),
        )

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield ``(first epoch, last epoch, plateaus)`` of the ranges with equal rows."""
        for plateaus in range(self.max_plateaus + 1):
            first = plateaus
            for epoch in range(plateaus, self.epochs):
                if epoch + 1 == self.epochs or self.row(epoch + 1, plateaus) != self.row(first, plateaus):
                    yield first, epoch, plateaus
                    first = epoch + 1

    def _entry(self, span: tuple[int, int, int], stage: StageInfo) -> dict[str, Any]:
        first, last, plateaus = span
        rule = self.row(first, plateaus)[stage.name]
        weights = "random-frozen" if stage.name in self.random_frozen else "loaded" if stage.pretrained else "none"
        return {
            "policy": self.policy,
            "first_epoch": first,
            "last_epoch": last,
            "plateaus": plateaus,
            "stage": stage.name,
            "role": stage.role,
            "weights": weights,
            "kinds": sorted(stage.kinds),
            "trains": rule.params,
            "norm": rule.norm,
            "lr": 0.0 if rule.frozen else float(rule.lr),
            "anchor": float(rule.anchor),
            "adapter": rule.adapter.to_text() if rule.adapter else "",
            "parameters": None if self.counts is None else self.counts[stage.name].get(rule.params, 0),
            "cacheable": stage in self.stages[: self.frozen_prefix(first, plateaus)],
        }


def _stage_of(entry: Mapping[str, str]) -> StageInfo:
    return StageInfo(
        name=entry["stage"],
        role=cast(Role, entry["role"]),
        pretrained=entry["weights"] == "loaded",
        kinds=frozenset(entry["kinds"].split("+")) - {""},
    )


def _rule_of(entry: Mapping[str, str]) -> Rule:
    if entry["trains"] == "none":
        return FROZEN
    return Rule(
        params=cast(Params, entry["trains"]),
        norm=cast(NormMode, entry["norm"]),
        lr=float(entry["lr"]),
        anchor=float(entry["anchor"]),
        # Tables of older runs have no such column.
        adapter=AdapterSpec.from_text(text) if (text := entry.get("adapter", "")) else None,
    )

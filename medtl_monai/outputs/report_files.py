"""What a run folder holds, read for the report: all but ``run.json`` may be missing; what is damaged is named."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from medtl_monai.config import RunConfig
from medtl_monai.data.cases import HELD_OUT, PARTS
from medtl_monai.errors import MedtlError
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.folds import RunsFolder, summary_of
from medtl_monai.transfer.coverage import CoverageReport
from medtl_monai.transfer.table import PolicyTable

Rows = tuple[dict[str, str], ...]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedPart:
    """One ``evaluation/PART`` folder.

    Attributes:
        part: test, val or train.
        cases: Number of cases.
        groups: Number of patients (or other groups).
        checkpoint_epoch: Epochs the evaluated checkpoint had been trained for, or None.
        metrics: Values by name; NaN where undefined.
        intervals: 95 % intervals by name; None where none could be given; a name may be absent.
        rows: ``predictions.csv``.
        flips: Axes of test-time augmentation.
        members: Each run's own values, where several were evaluated together.
        spreads: How metrics vary over folds and seeds, as :class:`~medtl_monai.evaluation.spread.Spread` stores it.
    """

    part: str
    cases: int
    groups: int
    checkpoint_epoch: int | None
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]
    rows: Rows
    flips: tuple[int, ...] = ()
    members: tuple[dict[str, Any], ...] = ()
    spreads: tuple[dict[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run folder's content; what is missing is None or empty.

    Attributes:
        name: The folder's name.
        record: ``run.json``.
        epochs: ``metrics.jsonl``, up to the first damaged line.
        policy: ``policy.csv``.
        coverage: ``coverage.json``; None also where no weights were loaded.
        tuning: ``tuning.json``.
        environment: ``environment.json``.
        plugins: ``plugins.json``.
        splits: ``splits.csv``.
        config: ``config.yaml``.
        parts: The evaluations: test, val, train.
        problems: Files that could not be read, one sentence each.
    """

    name: str
    record: dict[str, Any]
    epochs: tuple[dict[str, Any], ...] = ()
    policy: PolicyTable | None = None
    coverage: CoverageReport | None = None
    tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    plugins: tuple[dict[str, Any], ...] = ()
    splits: Rows = ()
    config: RunConfig | None = None
    parts: tuple[EvaluatedPart, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def target(self) -> Mapping[str, Any]:
        """What the labels are, as :class:`~medtl_monai.specs.TargetInfo` stores it; empty where it is not known."""
        return self.below("model", "context", "target")

    def below(self, *keys: str) -> Mapping[str, Any]:
        """Return a nested mapping of ``run.json``; empty where a level is missing."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, Mapping) else {}

    @property
    def best_epoch(self) -> int | None:
        """The epoch (from 0) of the best checkpoint so far."""
        best = [int(line["epoch"]) for line in self.epochs if line.get("best")]
        recorded = self.record.get("best_epoch")
        return best[-1] if recorded is None and best else recorded


def read_files(path: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        RunError: If it is not a run folder, its ``run.json`` is damaged, or it is one of a newer medtl.
    """
    folder = RunFolder.open(path)
    reader = _Reader(path)
    return RunFiles(
        name=folder.name,
        record=folder.record,
        epochs=reader.epochs(folder),
        policy=reader.policy(),
        coverage=reader.coverage(),
        tuning=reader.mapping("tuning.json"),
        environment=reader.mapping("environment.json"),
        plugins=reader.plugins(),
        splits=reader.rows("splits.csv", {"case_id", "group", "split"}),
        config=reader.config(folder),
        parts=tuple(part for name in (HELD_OUT, *reversed(PARTS)) if (part := reader.part(name)) is not None),
        problems=tuple(reader.problems),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeveralFiles:
    """A folder of runs that belong together.

    Attributes:
        files: What holds for all of them; model and images are those of the first run, where it has started.
        runs: What became of each run, as :func:`~medtl_monai.training.folds.summary_of` gives it.
        folds: How many folds there are; None without.
    """

    files: RunFiles
    runs: tuple[dict[str, Any], ...]
    folds: int | None


def read_several(path: Path) -> SeveralFiles:
    """Read a folder of runs.

    Raises:
        RunError: If it is not one, or its record is damaged.
    """
    folder = RunsFolder.open(path)
    summary = summary_of(folder)
    reader = _Reader(path)
    started = [run for member in folder.members if (run := folder.run(member)).record_file.is_file()]
    first = read_files(started[0].path) if started else None
    record = {**(first.record if first else {}), "status": summary["status"], "best_value": None, "best_epoch": None}
    files = RunFiles(
        name=folder.name,
        record={**record, "medtl": folder.record.get("medtl"), "inputs": folder.record.get("inputs")},
        coverage=first.coverage if first else None,
        environment=first.environment if first else {},
        plugins=first.plugins if first else (),
        splits=reader.rows("splits.csv", {"case_id", "group", "split"}),
        config=reader.config(folder),
        parts=tuple(part for name in (HELD_OUT, *reversed(PARTS)) if (part := reader.part(name)) is not None),
        problems=tuple(reader.problems),
    )
    return SeveralFiles(files=files, runs=tuple(summary["runs"]), folds=summary["folds"])


class _Reader:
    """Reads the files of one folder and notes which ones are damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def epochs(self, folder: RunFolder) -> tuple[dict[str, Any], ...]:
        try:
            lines = folder.read_metrics()
            return tuple({**line, "epoch": int(line["epoch"])} for line in lines)
        except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            return self._damaged("metrics.jsonl", ())

    def policy(self) -> PolicyTable | None:
        if not (self.path / "policy.csv").is_file():
            return None
        try:
            return PolicyTable.read(self.path / "policy.csv")
        except MedtlError:
            return self._damaged("policy.csv", None)

    def coverage(self) -> CoverageReport | None:
        value = self._json("coverage.json")
        try:
            return None if value is None else CoverageReport.from_json(value)
        except (KeyError, TypeError, AttributeError):
            return self._damaged("coverage.json", None)

    def config(self, folder: RunFolder) -> RunConfig | None:
        if not (self.path / "config.yaml").is_file():
            return None
        try:
            return folder.read_config()
        except (MedtlError, UnicodeDecodeError):
            return self._damaged("config.yaml", None)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._json(name)
        if value is not None and not isinstance(value, dict):
            return self._damaged(name, {})
        return value or {}

    def plugins(self) -> tuple[dict[str, Any], ...]:
        value = self._json("plugins.json") or []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            return self._damaged("plugins.json", ())
        return tuple(value)

    def rows(self, name: str, columns: set[str]) -> Rows:
        try:
            with (self.path / name).open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                rows = tuple(reader)
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError, csv.Error):
            return self._damaged(name, ())
        return rows if columns <= set(reader.fieldnames or ()) else self._damaged(name, ())

    def part(self, part: str) -> EvaluatedPart | None:
        name = f"evaluation/{part}/metrics.json"
        value = self._json(name)
        if value is None:
            return None
        try:
            intervals = {k: None if v is None else (float(v[0]), float(v[1])) for k, v in value["intervals"].items()}
            return EvaluatedPart(
                part=part,
                cases=int(value["cases"]),
                groups=int(value["groups"]),
                checkpoint_epoch=value.get("checkpoint_epoch"),
                metrics={k: math.nan if v is None else float(v) for k, v in value["metrics"].items()},
                intervals=intervals,
                rows=self.rows(f"evaluation/{part}/predictions.csv", {"case_id"}),
                flips=tuple(int(axis) for axis in value.get("tta_axes") or ()),
                members=tuple(dict(member) for member in value.get("members") or ()),
                spreads=tuple(dict(spread) for spread in value.get("spreads") or ()),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return self._damaged(name, None)

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return self._damaged(name, None)

    def _damaged(self, name: str, value: _T) -> _T:
        self.problems.append(f"{name} is damaged and is left out of this report")
        return value

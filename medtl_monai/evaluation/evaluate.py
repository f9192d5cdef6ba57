"""Evaluating a finished run on one part of its cases, with intervals by patient."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from medtl_monai.config import RunConfig
from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.data.cases import PARTS, Case, CaseTable, Part, load_cases
from medtl_monai.data.prepared import Prepared, prepare
from medtl_monai.data.splits import Splits
from medtl_monai.dicom.geometry import Volume
from medtl_monai.errors import DataError
from medtl_monai.evaluation.spread import Spread
from medtl_monai.evaluation.statistics import Indices, Interval, interval
from medtl_monai.modules import Batch, Prediction
from medtl_monai.specs import TargetInfo
from medtl_monai.training.places import locate
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.scores import score
from medtl_monai.training.trained import TrainedRun, concatenate


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case: what was predicted, what is true, and for masks how well they agree.

    Attributes:
        case: The case.
        prediction: A batch of one, masks left out (they are scored and let go).
        target: ``[1, …]`` truth as heads see it; None for masks.
        scores: Metrics of this case alone (masks only).
        members: What each member of an ensemble predicted; masks left out.
        fold: The fold it was tested in, from 1; None without folds.
    """

    case: Case
    prediction: Prediction
    target: torch.Tensor | None
    scores: dict[str, float]
    members: tuple[Prediction, ...] = ()
    fold: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberValues:
    """One of several runs on its own cases.

    Attributes:
        run: Its folder, below that of all.
        fold: Its fold, from 1; None without folds.
        seed: Its seed.
        cases: Number of cases.
        groups: Number of patients (or other groups).
        checkpoint_epoch: Epochs its checkpoint had been trained for.
        metrics: Values by name.
    """

    run: str
    fold: int | None
    seed: int
    cases: int
    groups: int
    checkpoint_epoch: int
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a run does on a part of its cases.

    Attributes:
        run: Name of the run folder.
        part: train, val, test or held-out.
        checkpoint_epoch: Epochs the evaluated checkpoint had been trained for; None for several runs.
        cases: Number of cases.
        groups: Number of patients (or other groups).
        metrics: Values by name.
        intervals: 95 % intervals by name; None where there are too few patients.
        results: Every case.
        target: What the labels are.
        flips: Axes of test-time augmentation.
        members: Each run's own values, where there are several.
        spreads: How the metrics vary from fold to fold and from seed to seed.
    """

    run: str
    part: str
    checkpoint_epoch: int | None
    cases: int
    groups: int
    metrics: dict[str, float]
    intervals: dict[str, Interval | None]
    results: tuple[CaseResult, ...]
    target: TargetInfo
    flips: tuple[int, ...] = ()
    members: tuple[MemberValues, ...] = ()
    spreads: tuple[Spread, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        several = {"members": [m.to_json() for m in self.members], "spreads": [s.to_json() for s in self.spreads]}
        return {
            "run": self.run,
            "part": self.part,
            "checkpoint_epoch": self.checkpoint_epoch,
            "cases": self.cases,
            "groups": self.groups,
            "metrics": self.metrics,
            "intervals": {k: None if v is None else [v.low, v.high] for k, v in self.intervals.items()},
            **({"tta_axes": list(self.flips)} if self.flips else {}),
            **(several if self.members else {}),
        }


def evaluate(
    run: TrainedRun,
    reporter: Reporter,
    *,
    part: Part = "test",
    config: RunConfig | None = None,
    resamples: int = 999,
) -> Evaluation:
    """Predict every case of a part and measure.

    Masks are compared on each image's own grid, not on the network's, so their images are always read; of others the
    preprocessed image is enough, which the cache may have.

    Args:
        run: The trained run.
        reporter: Who is told.
        part: ``"train"``, ``"val"``, ``"test"`` or ``"held-out"``.
        config: The stored configuration with other places for the data, where it has moved.
        resamples: Bootstrap resamples; 0 leaves the intervals out.

    Raises:
        DataError: If the part has no cases, or the data has changed.
    """
    config = config or locate(run.folder)
    info = run.record.context.target
    # First the splits: under another id key, that is what is wrong, and not that cases are missing.
    ids = Splits.read(run.folder.splits_file, run=run.folder.name).ids(part)
    table = load_cases(config.data, info.kind, classes=info.classes or None)
    cases = find_cases(table, ids, part)
    disk, trouble = CaseCache.open(config.cache) if info.kind != "mask" else (None, "")
    results = []
    for n, case in enumerate(cases, 1):
        results.append(mask_result(run, table, case) if info.kind == "mask" else case_result(run, table, case, disk))
        reporter.count(f"evaluating {part}", n, len(cases))
    for note in (*([trouble] if trouble else []), *(disk.notes() if disk else [])):
        reporter.warn(note)
    metrics, intervals = measure(run, results, resamples)
    return Evaluation(
        run=run.folder.name,
        part=part,
        checkpoint_epoch=run.epoch,
        cases=len(cases),
        groups=len({case.group for case in cases}),
        metrics=metrics,
        intervals=intervals,
        results=tuple(results),
        target=info,
        flips=run.flips,
    )


def read_image(run: TrainedRun, table: CaseTable, case: Case) -> Volume:
    """Read the image of a case as the run's training did: the same treatment of gaps, the same unit.

    Raises:
        DataError: If a NIfTI image cannot be used.
        DicomError: If a series does not make a volume.
    """
    plan = run.preprocessing
    return table.read_volume(case, on_gap=plan.on_gap, units=plan.units)


def find_cases(table: CaseTable, ids: Sequence[str], part: str) -> list[Case]:
    """Return the cases with these ids.

    Raises:
        DataError: If there are none, or some are no longer in the table.
    """
    if not ids:
        mend = "Choose another part with --part"
        mend += f", or train with a larger splits.{part}" if part in PARTS else ", or train with folds and splits.test"
        raise DataError(f"the run has no {part} cases", mend=mend)
    found = {case.case_id for case in table.cases}
    missing = [case_id for case_id in ids if case_id not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of the run's {len(ids)} {part} cases are no longer there: {', '.join(missing[:5])}",
            mend="Give the same studies, labels and id key as in training",
        )
    return [table[case_id] for case_id in ids]


def case_result(run: TrainedRun, table: CaseTable, case: Case, disk: CaseCache | None) -> CaseResult:
    """Predict one case that has no mask, from the cache of preprocessed images where there is one."""

    def make() -> Prepared:
        volume = read_image(run, table, case)
        run.seen.check(volume, case_id=case.case_id)
        return prepare(volume, table, case, run.preprocessing)

    if disk is None:
        prediction = run.predict(read_image(run, table, case), case_id=case.case_id)
    else:
        prepared, _ = disk.fetch(table, case, run.preprocessing, make)
        prediction = run.predict_prepared(prepared, case_id=case.case_id)
    truth = torch.as_tensor(np.asarray(table.label(case)))[None]
    return CaseResult(case=case, prediction=prediction, target=truth, scores={})


def mask_result(run: TrainedRun, table: CaseTable, case: Case) -> CaseResult:
    """Predict the mask of one case, and score it on the grid of the image."""
    volume = read_image(run, table, case)
    batch = truth_batch(table, case, volume)
    scores = score(run.model.head.metrics(), run.predict(volume, case_id=case.case_id), batch)
    return CaseResult(case=case, prediction=Prediction(), target=None, scores=scores)


def truth_batch(table: CaseTable, case: Case, volume: Volume) -> Batch:
    """Return a case's mask on the grid of its image, as metrics want it."""
    truth = torch.as_tensor(np.asarray(table.read_target(case, volume)))[None]
    return Batch(image=torch.empty(0), spatial_size=volume.shape, target=truth.long())


def measure(
    run: TrainedRun, results: list[CaseResult], resamples: int
) -> tuple[dict[str, float], dict[str, Interval | None]]:
    """Return the metrics of a run's head over cases, and their intervals by patient (none without resamples)."""
    groups = [result.case.group for result in results]
    everything = np.arange(len(results))
    compute: Callable[[Indices], dict[str, float]]
    compute = _MaskScores(results) if results[0].scores else _JointScores(run, results)
    with warnings.catch_warnings():
        # MONAI warns about a class without cases; the value is then NaN and shown as such.
        warnings.simplefilter("ignore", UserWarning)
        metrics = compute(everything)
        intervals = {name: interval(_one(compute, name), groups, resamples=resamples) for name in metrics if resamples}
    return metrics, intervals


def _one(compute: Callable[[Indices], dict[str, float]], name: str) -> Callable[[Indices], float]:
    return lambda chosen: compute(chosen)[name]


class _MaskScores:
    """Means over cases of what each case scores; a structure absent from a case does not count there."""

    def __init__(self, results: list[CaseResult]) -> None:
        self.names = list(results[0].scores)
        self.values = np.array([[r.scores[name] for name in self.names] for r in results])

    def __call__(self, chosen: Indices) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            means = dict(zip(self.names, np.nanmean(self.values[chosen], axis=0).tolist(), strict=True))
        for name in self.names:
            parts = [v for k, v in means.items() if k.startswith(f"{name}/") and np.isfinite(v)]
            if parts:
                means[name] = float(np.mean(parts))
        return means


class _JointScores:
    """Metrics that need all cases at once, such as an AUC; the same resample is computed only once."""

    def __init__(self, run: TrainedRun, results: list[CaseResult]) -> None:
        self.metrics = run.model.head.metrics()
        self.prediction = concatenate(r.prediction for r in results)
        self.target = torch.cat([r.target for r in results if r.target is not None])
        self.cache: dict[bytes, dict[str, float]] = {}

    def __call__(self, chosen: Indices) -> dict[str, float]:
        key = chosen.tobytes()
        if key not in self.cache:
            index = torch.from_numpy(chosen)
            taken = {
                f.name: value[index]
                for f in dataclasses.fields(Prediction)
                if (value := getattr(self.prediction, f.name)) is not None
            }
            batch = Batch(image=torch.empty(0), spatial_size=(), target=self.target[index])
            self.cache[key] = score(self.metrics, Prediction(**taken), batch)
        return self.cache[key]

"""Evaluating runs that belong together: folds pooled over all their cases, seeds as an ensemble."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from medtl_monai.config import RunConfig
from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.data.cases import HELD_OUT, Case, CaseTable, Part, load_cases
from medtl_monai.data.splits import Splits
from medtl_monai.errors import DataError, RunError
from medtl_monai.evaluation.evaluate import (
    CaseResult,
    Evaluation,
    MemberValues,
    case_result,
    find_cases,
    measure,
    read_image,
    truth_batch,
)
from medtl_monai.evaluation.spread import Spread, spread
from medtl_monai.host import Host
from medtl_monai.modules import Prediction
from medtl_monai.training.averaging import PredictionMean
from medtl_monai.training.ensemble import Ensemble, LoadedRuns
from medtl_monai.training.folds import Member, RunsFolder
from medtl_monai.training.places import locate
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.scores import score


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """Cases, and the runs that are asked about them."""

    fold: int | None
    members: tuple[Member, ...]
    ids: tuple[str, ...]


def evaluate_several(
    folder: RunsFolder,
    host: Host,
    reporter: Reporter,
    *,
    part: Part = "test",
    config: RunConfig | None = None,
    device: str = "auto",
    flips: Sequence[int] = (),
    resamples: int = 999,
) -> Evaluation:
    """Predict with every run the cases that it may be tested on, and measure.

    ``test`` with folds: each case is predicted by the fold that has not seen it, and the predictions of all folds are
    pooled. Without folds, and for ``held-out``: each case is predicted by all runs, whose mean counts. Several seeds of
    a fold are averaged too. Intervals are by patient, over the pooled cases.

    Args:
        folder: The folder of all runs.
        host: Where backbones and heads come from.
        reporter: Who is told.
        part: ``"test"`` or ``"held-out"``; without folds also ``"val"`` and ``"train"``.
        config: The stored configuration with other places for the data, where it has moved.
        device: Where to compute.
        flips: Axes of test-time augmentation.
        resamples: Bootstrap resamples; 0 leaves the intervals out.

    Raises:
        RunError: If a run is not finished, or the runs do not fit together.
        DataError: If the part has no cases, or the data has changed.
    """
    folder.require_finished()
    config = config or locate(folder)
    jobs = _jobs(folder, part)
    found: list[CaseResult] = []
    by_run: dict[str, list[CaseResult]] = defaultdict(list)
    members: list[MemberValues] = []
    total, done = sum(len(job.ids) for job in jobs), 0
    table: CaseTable | None = None
    first = None
    for job in jobs:
        runs = LoadedRuns([folder.run(m).path for m in job.members], host, device=device, flips=flips)
        ensemble = Ensemble(runs)
        first = first or runs[0]
        if table is None:
            table = load_cases(config.data, ensemble.target.kind, classes=ensemble.target.classes or None)
        cases = find_cases(table, job.ids, part)
        for result, own in _results(ensemble, table, cases, config, reporter):
            found.append(dataclasses.replace(result, fold=job.fold))
            for member, each in zip(job.members, own, strict=True):
                by_run[member.path].append(each)
            done += 1
            reporter.count(f"evaluating {part}", done, total)
        for member, epoch in zip(job.members, ensemble.epochs, strict=True):
            values, _ = measure(runs[0], by_run[member.path], 0)
            groups = len({case.group for case in cases})
            members.append(
                MemberValues(
                    run=member.path,
                    fold=member.fold,
                    seed=member.seed,
                    cases=len(cases),
                    groups=groups,
                    checkpoint_epoch=epoch,
                    metrics=values,
                )
            )
    if first is None:
        raise DataError(f"the runs have no {part} cases", where=folder.name)
    metrics, intervals = measure(first, found, resamples)
    pooled = {m: measure(first, results, 0)[0] for m, results in _by_seed(folder.members, by_run).items()}
    folds = {f"fold-{n}": measure(first, rs, 0)[0] for n, rs in _by_fold(found).items()}
    return Evaluation(
        run=folder.name,
        part=part,
        checkpoint_epoch=None,
        cases=len(found),
        groups=len({result.case.group for result in found}),
        metrics=metrics,
        intervals=intervals,
        results=tuple(found),
        target=first.record.context.target,
        flips=tuple(flips),
        members=tuple(members),
        spreads=_spreads(folds, pooled),
    )


def _jobs(folder: RunsFolder, part: Part) -> list[_Job]:
    members = folder.members
    folds = folder.record["folds"]
    splits = {m: Splits.read(folder.run(m).splits_file, run=m.path) for m in members}
    if folds and part == "test":
        numbers = dict.fromkeys(m.fold for m in members)
        own = {n: tuple(m for m in members if m.fold == n) for n in numbers}
        jobs = [_Job(fold=n, members=ms, ids=_same_ids(ms, splits, part)) for n, ms in own.items()]
        every = [i for job in jobs for i in job.ids]
        if len(set(every)) < len(every):
            raise RunError("a case is tested by two folds", where=folder.name, mend="Train the folds again")
        return jobs
    if folds and part != HELD_OUT:
        what = f"the {part} part differs from fold to fold"
        mend = f"Evaluate one of them: medtl evaluate {folder.path / members[0].path} --part {part}"
        raise DataError(what, where=folder.name, mend=mend)
    return [_Job(fold=None, members=members, ids=_same_ids(members, splits, part))]


def _same_ids(members: Sequence[Member], splits: Mapping[Member, Splits], part: Part) -> tuple[str, ...]:
    found = {m: splits[m].ids(part) for m in members}
    ids = found[members[0]]
    odd = [m.path for m, own in found.items() if set(own) != set(ids)]
    if odd:
        what = f"the {part} cases of {members[0].path} and {odd[0]} are not the same"
        raise RunError(what, mend="Train runs that belong together in one go")
    return ids


def _results(
    ensemble: Ensemble, table: CaseTable, cases: Sequence[Case], config: RunConfig, reporter: Reporter
) -> Iterator[tuple[CaseResult, list[CaseResult]]]:
    """Yield what the ensemble and each member says of each case."""
    if ensemble.target.kind == "mask":
        yield from (_of_mask(ensemble, table, case) for case in cases)
        return
    disk, trouble = CaseCache.open(config.cache)
    for case in cases:
        own = [case_result(run, table, case, disk) for run in ensemble.runs]
        yield _joined(ensemble, own), own
    for note in (*([trouble] if trouble else []), *(disk.notes() if disk else [])):
        reporter.warn(note)


def _joined(ensemble: Ensemble, own: Sequence[CaseResult]) -> CaseResult:
    if len(own) == 1:
        return own[0]
    total = PredictionMean(ensemble.target.kind, head=ensemble.head)
    for each in own:
        total.add(each.prediction)
    return dataclasses.replace(own[0], prediction=total.mean(), members=tuple(each.prediction for each in own))


def _of_mask(ensemble: Ensemble, table: CaseTable, case: Case) -> tuple[CaseResult, list[CaseResult]]:
    volume, joint = ensemble.predict(lambda run: read_image(run, table, case), case_id=case.case_id)
    batch = truth_batch(table, case, volume)
    metrics = ensemble.runs[0].model.head.metrics()
    results = [
        CaseResult(case=case, prediction=Prediction(), target=None, scores=score(metrics, each, batch))
        for each in (joint.mean, *joint.members)
    ]
    return results[0], results[1:]


def _by_fold(found: Sequence[CaseResult]) -> dict[int, list[CaseResult]]:
    results: dict[int, list[CaseResult]] = defaultdict(list)
    for result in found:
        if result.fold is not None:
            results[result.fold].append(result)
    return results


def _by_seed(members: Sequence[Member], by_run: Mapping[str, list[CaseResult]]) -> dict[str, list[CaseResult]]:
    """Return the results of each seed, over all folds where each tested its own cases."""
    results: dict[str, list[CaseResult]] = defaultdict(list)
    for member in members:
        known = {result.case.case_id for result in results[f"seed-{member.seed}"]}
        if any(each.case.case_id in known for each in by_run[member.path]):
            # Held-out cases, which every fold predicts: there is no one value of a seed.
            return {}
        results[f"seed-{member.seed}"] += by_run[member.path]
    return results


def _spreads(folds: Mapping[str, Mapping[str, float]], seeds: Mapping[str, Mapping[str, float]]) -> tuple[Spread, ...]:
    found = [spread("folds", folds)] if len(folds) > 1 else []
    return tuple([*found, spread("seeds", seeds)] if len(seeds) > 1 else found)

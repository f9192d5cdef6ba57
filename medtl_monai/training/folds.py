"""Several runs that belong together: the folds of a cross-validation, one run for each of several seeds, or both.

The folder holds a run folder for each, and beside them a record (``folds.json``), the shared configuration and the
division of the cases. Runs that are finished are not trained again; one that was interrupted goes on where it was.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gc
import io
import itertools
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtl_monai import __version__
from medtl_monai.config import RunConfig
from medtl_monai.data.cases import HELD_OUT, load_cases
from medtl_monai.data.identity import check_key, fingerprint, load_key
from medtl_monai.data.layouts import settle
from medtl_monai.data.splits import Splits, folds, make_splits
from medtl_monai.errors import ConfigError, MedtlError, RunError
from medtl_monai.files import translate_os_errors, write_text
from medtl_monai.host import Host
from medtl_monai.training.assemble import choose_parts
from medtl_monai.training.folder import SEVERAL, RunFolder
from medtl_monai.training.places import locate, remember, used
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.train import resume, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One of the runs.

    Attributes:
        path: Its folder, below that of all.
        fold: Number of the fold, from 1; None without folds.
        seed: Seed of the training.
    """

    path: str
    fold: int | None
    seed: int


class RunsFolder(RunFolder):
    """A folder of runs that belong together."""

    @property
    def record_file(self) -> Path:
        """``folds.json``: status, and which runs there are."""
        return self.path / SEVERAL

    @property
    def given_file(self) -> Path:
        """``splits-given.csv``: the stored splits that were given (``splits.file``), if any were."""
        return self.path / "splits-given.csv"

    @property
    def members(self) -> tuple[Member, ...]:
        """The runs, folds first."""
        return tuple(Member(**member) for member in self.record["members"])

    def run(self, member: Member) -> RunFolder:
        """Return the folder of a run; it may not be there yet."""
        return RunFolder(self.path / member.path)

    def unfinished(self) -> list[Member]:
        """Return the runs that were not trained to their end."""
        return [member for member in self.members if _status(self.run(member)) != "finished"]

    def require_finished(self) -> None:
        """Refuse to draw conclusions from some of the runs.

        Raises:
            RunError: If one is not finished.
        """
        left = self.unfinished()
        if left:
            what = f"{len(left)} of {len(self.members)} runs are not finished: {', '.join(m.path for m in left)}"
            raise RunError(what, where=self.name, mend=f"Go on with: medtl train --resume {self.path}")


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that are meant: of a folder that holds several runs, all of them.

    Raises:
        RunError: If one of several runs is not finished, a run is named twice, or a folder is no run.
    """
    found: list[Path] = []
    for path in paths:
        if holds_several(path):
            folder = RunsFolder.open(path)
            folder.require_finished()
            found += [folder.run(member).path for member in folder.members]
        else:
            found.append(RunFolder.open(path).path)
    names = [path.resolve() for path in found]
    if len(set(names)) < len(names):
        raise RunError("a run is named twice: it would count twice in the mean", mend="Name each run once")
    return found


def is_several(config: RunConfig) -> bool:
    """Whether a configuration asks for several runs."""
    return bool(config.training.seeds) or (config.splits.folds is not None and config.splits.fold is None)


def holds_several(path: Path) -> bool:
    """Whether a folder holds several runs that belong together."""
    return (path / SEVERAL).is_file()


def members_of(config: RunConfig) -> tuple[Member, ...]:
    """Return the runs that a configuration asks for: every fold, and in it every seed."""
    several = config.splits.folds is not None and config.splits.fold is None
    numbers = range(1, (config.splits.folds or 0) + 1) if several else [config.splits.fold]
    seeds = config.training.seeds or [config.training.seed]
    return tuple(
        Member(
            path="/".join([f"fold-{fold}"] * several + [f"seed-{seed}"] * bool(config.training.seeds)),
            fold=fold,
            seed=seed,
        )
        for fold, seed in itertools.product(numbers, seeds)
    )


def member_config(config: RunConfig, member: Member, out: Path | None) -> RunConfig:
    """Return the configuration of one of the runs, which can be trained by itself."""
    return config.model_copy(
        update={
            "splits": config.splits.model_copy(update={"fold": member.fold}),
            "training": config.training.model_copy(update={"seed": member.seed, "seeds": []}),
            "out": None if out is None else out / member.path,
        }
    )


def train_several(config: RunConfig, host: Host, reporter: Reporter) -> RunsFolder:
    """Train every run that a configuration with ``splits.folds`` or ``training.seeds`` asks for.

    Args:
        config: The configuration; ``out`` names the folder of all runs.
        host: The plugins.
        reporter: Who is told.

    Raises:
        MedtlError: If anything does not fit. If that shows before the first run has started, nothing is left behind.
    """
    if config.out is None:
        raise ConfigError("no run folder is named", where="out", mend="Say where: --out runs/my-run")
    RunFolder.check_free(config.out)
    division = _division(config, host)
    folder = RunsFolder.create(config.out)
    folder.write_config(config)
    write_text(folder.splits_file, _as_csv(division))
    if config.splits.file is not None:
        # Kept: runs that start later need it as it is now.
        Splits.read(config.splits.file).write(folder.given_file)
    run_id = secrets.token_hex(8)
    remember(run_id, config)
    folder.update(
        id=run_id,
        inputs=used(config),
        medtl=__version__,
        id_key=fingerprint(load_key()),
        status="started",
        folds=config.splits.folds if config.splits.fold is None else None,
        seeds=config.training.seeds,
        members=[dataclasses.asdict(member) for member in members_of(config)],
    )
    try:
        _train_members(folder, config, host, reporter)
    except MedtlError:
        if not any(folder.run(member).path.exists() for member in folder.members):
            # A mistake in the command: it can be corrected and given again.
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return folder


def resume_several(path: Path, host: Host, reporter: Reporter, *, config: RunConfig | None = None) -> RunsFolder:
    """Go on with runs that were interrupted: the one that was at work, then those that had not started.

    Args:
        path: The folder of all runs.
        host: The plugins.
        reporter: Who is told.
        config: The stored configuration with other places for the data, where it has moved.

    Raises:
        RunError: If a run is damaged, or the data or plugins are no longer the same.
    """
    folder = RunsFolder.open(path)
    config = config or locate(folder)
    if folder.given_file.is_file():
        config = config.model_copy(update={"splits": config.splits.model_copy(update={"file": folder.given_file})})
    if folder.unfinished():
        check_key(folder.record["id_key"], where=folder.name)
        stored = {case_id: part for case_id, (_, part) in read_division(folder).items()}
        found = {case_id: part for case_id, (_, part) in _division(config, host).items()}
        if stored != found:
            gone, new = len(set(stored) - set(found)), len(set(found) - set(stored))
            moved = sum(found[i] != stored[i] for i in set(stored) & set(found))
            what = f"the data has changed since: {gone} cases are missing, {new} are new, {moved} would change places"
            raise RunError(what, where=folder.name, mend="Give the same studies, labels and id key, or start anew")
    _train_members(folder, config, host, reporter)
    return folder


def read_division(folder: RunFolder) -> dict[str, tuple[str, str]]:
    """Return group and place of every case: ``fold-1`` (where it is tested), ``held-out``, or train, val and test.

    Raises:
        RunError: If ``splits.csv`` is missing or damaged.
    """
    try:
        with folder.splits_file.open(encoding="utf-8", newline="") as file:
            return {row["case_id"]: (row["group"], row["split"]) for row in csv.DictReader(file, strict=True)}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise RunError("splits.csv is missing or damaged", where=folder.name, mend="Train again") from error


def _train_members(folder: RunsFolder, config: RunConfig, host: Host, reporter: Reporter) -> None:
    folder.update(status="running")
    members = folder.members
    try:
        for n, member in enumerate(members, 1):
            reporter.note(f"run {n} of {len(members)}: {member.path}")
            _train_member(folder, member, config, host, reporter)
            # Models and images of one run make room for the next one's: they refer to themselves in circles.
            gc.collect()
    except KeyboardInterrupt:
        folder.update(status="interrupted")
        raise
    except MedtlError:
        # On a full disk the status cannot be written either; the first error is the one to report.
        with contextlib.suppress(MedtlError):
            folder.update(status="failed")
        raise
    folder.update(status="finished")


def _train_member(folder: RunsFolder, member: Member, config: RunConfig, host: Host, reporter: Reporter) -> None:
    run = folder.run(member)
    if _status(run) == "finished":
        reporter.note(f"{member.path} is finished already")
        return
    if (run.checkpoints / "index.json").is_file():
        places = {name: getattr(config.data, name) for name in ("studies", "labels", "dataset")}
        stored = run.read_config()
        data = stored.data.model_copy(update=places)
        own = stored.model_copy(update={"data": data, "plugins": config.plugins, "cache": config.cache})
        resume(run.path, host, reporter, config=own)
        return
    if run.path.exists():
        # It was stopped before its first checkpoint: nothing was learnt yet.
        with translate_os_errors(run.path):
            shutil.rmtree(run.path)
    train(member_config(config, member, folder.path), host, reporter)


def _status(run: RunFolder) -> str:
    return str(run.record.get("status", "")) if run.record_file.is_file() else ""


def _division(config: RunConfig, host: Host) -> dict[str, tuple[str, str]]:
    """Return group and place of every case, as :func:`read_division`; raises what does not fit before anything runs."""
    config = config.model_copy(update={"data": settle(config.data)})
    table = load_cases(config.data, choose_parts(config, host).head_spec.target)
    if config.splits.folds is None or config.splits.fold is not None:
        splits = make_splits(table, config.splits)
        return {i: (splits.groups[i], str(part)) for i, part in splits.parts.items()}
    found: dict[str, tuple[str, str]] = {}
    for n, splits in enumerate(folds(table, config.splits), 1):
        found |= _of_fold(splits, f"fold-{n}")
    return {i: found[i] for i in table.ids}


def _of_fold(splits: Splits, name: str) -> dict[str, tuple[str, str]]:
    names = {"test": name, HELD_OUT: HELD_OUT}
    return {i: (splits.groups[i], names[part]) for i, part in splits.parts.items() if part in names}


def _as_csv(division: Mapping[str, tuple[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case_id", "group", "split", "id_key"))
    mark = fingerprint(load_key())
    writer.writerows((case_id, group, part, mark) for case_id, (group, part) in division.items())
    return text.getvalue()


def summary_of(folder: RunsFolder) -> dict[str, Any]:
    """Return how the runs ended, as plain JSON values."""
    runs = []
    for member in folder.members:
        record = folder.run(member).record if folder.run(member).record_file.is_file() else {}
        kept = {name: record.get(name) for name in ("status", "epochs", "best_epoch", "best_value", "seconds")}
        runs.append({**dataclasses.asdict(member), **kept, "key_metric": record.get("key_metric")})
    return {"status": folder.record["status"], "folds": folder.record["folds"], "runs": runs}

"""Divide cases into train, val and test by group: seeded, stratified, stored, extended but never reshuffled."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, cast

import numpy as np

from medtl_monai.config import SplitConfig
from medtl_monai.data.assignment import Features, assign
from medtl_monai.data.cases import HELD_OUT, PARTS, Case, CaseTable, Part
from medtl_monai.data.identity import check_key, fingerprint, load_key
from medtl_monai.data.table import listing, read_table
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.files import write_text

_COLUMNS = ("case_id", "group", "split")
_KEY_COLUMN = "id_key"
_MOST_QUANTILES = 5
_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """Which part each case is in.

    Attributes:
        parts: Case id to part, in table order.
        groups: Case id to group.
        notes: What the user should know.
        absent: Cases of a stored file that the table does not have: kept, so that they stay where they were.
    """

    parts: Mapping[str, Part]
    groups: Mapping[str, str]
    notes: tuple[str, ...] = ()
    absent: Mapping[str, tuple[str, Part]] = dataclasses.field(default_factory=dict)

    def ids(self, part: Part) -> tuple[str, ...]:
        """Return the case ids of a part, in table order."""
        return tuple(case_id for case_id, own in self.parts.items() if own == part)

    def write(self, path: Path) -> None:
        """Write ``case_id, group, split, id_key`` as CSV, atomically: pseudonyms, and the fingerprint of their key.

        Raises:
            StorageError: If the file cannot be written; an older one is then unchanged.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*_COLUMNS, _KEY_COLUMN))
        mark = fingerprint(load_key())
        writer.writerows((case_id, self.groups[case_id], part, mark) for case_id, part in self.parts.items())
        writer.writerows((case_id, *rest, mark) for case_id, rest in self.absent.items())
        write_text(path, text.getvalue())

    @classmethod
    def read(cls, path: Path, *, run: str = "") -> Self:
        """Read what :meth:`write` wrote.

        Args:
            path: The file.
            run: Name of the run it belongs to, for messages.

        Raises:
            DataError: If it is no such file, repeats a case, or has a group in two parts.
            ConfigError: If its case ids were made with another key.
        """
        table = read_table(path)
        for mark in {row[_KEY_COLUMN] for row in table.rows} if _KEY_COLUMN in table.columns else ():
            check_key(mark, where=run or path.name)
        for column in _COLUMNS:
            table.require(column, "splits.file")
        known = (*PARTS, HELD_OUT)
        table.refuse(lambda row: row["split"] not in known, "split is not train, val or test", "Correct these rows")
        uses = Counter(row["case_id"] for row in table.rows)
        table.refuse(lambda row: uses[row["case_id"]] > 1, "a case is listed twice", "Keep one row a case")
        parts = {row["case_id"]: cast(Part, row["split"]) for row in table.rows}
        groups = {row["case_id"]: row["group"] for row in table.rows}
        _refuse_torn_groups(parts, groups, path.name)
        return cls(parts=parts, groups=groups)


def make_splits(table: CaseTable, config: SplitConfig) -> Splits:
    """Divide the cases of a table.

    Parts that a stored file (``config.file``) or the table's split column give are honoured; other cases follow their
    group, and new groups are assigned so that parts come nearest to their shares. Shares count groups.

    Raises:
        ConfigError: If shares leave nothing to train on.
        DataError: If there are too few groups, a group or an image is in two parts, or the stored file is of other
            cases.
    """
    if config.folds is not None:
        return _chosen_fold(table, config)
    if config.val + config.test_share >= 1:
        mend = "Lower splits.val or splits.test"
        raise ConfigError(f"val {config.val:g} and test {config.test_share:g} leave nothing to train on", mend=mend)
    stored = Splits.read(config.file) if config.file is not None else None
    given, notes = _given(table, stored, config)
    groups = {case.case_id: case.group for case in table}
    fixed = _by_group(given, groups, "the table's split column" if stored is None else "the stored splits")
    shares = [1 - config.val - config.test_share, config.val, config.test_share]
    if stored is None and config.val > 0 and len(given) == len(table) and "val" not in given.values():
        notes.append("no case is given as val: some of those given as train are taken")
        assigned = _carve_val(table, config, fixed)
    else:
        assigned = _assign(table, config, shares, fixed, np.random.default_rng(config.seed))
    parts = {case.case_id: assigned[case.group] for case in table}
    absent = {i: (stored.groups[i], stored.parts[i]) for i in stored.parts if i not in groups} if stored else {}
    splits = Splits(parts=parts, groups=groups, notes=(*notes, *_missing_classes(table, parts)), absent=absent)
    check_contents(splits, {case.case_id: case.fingerprints for case in table})
    return splits


def _chosen_fold(table: CaseTable, config: SplitConfig) -> Splits:
    if config.fold is None:
        what = f"a single run cannot be all of {config.folds} folds"
        raise ConfigError(what, where="splits.fold", mend="Say which: --set splits.fold=1")
    return folds(table, config)[config.fold - 1]


def folds(table: CaseTable, config: SplitConfig) -> list[Splits]:
    """Give ``config.folds`` divisions whose test parts are disjoint and cover all cases but those held out.

    Held out from every fold are the cases given as test (by the table's split column or ``config.file``); where none
    is given, the share ``config.test``. Within each fold, val is carved out of what is not its test part.

    Raises:
        ConfigError: If val leaves nothing to train on.
        DataError: If there are fewer groups than folds, or a group or an image is in two parts.
    """
    n = config.folds or 0
    if n < 2:
        raise ConfigError(f"{n} folds cannot be cross-validated", mend="Use at least 2")
    held, notes = _held_out(table, config)
    inner = dataclasses.replace(table, cases=tuple(case for case in table if case.group not in held))
    names, features = _features(inner, config)
    _refuse_few(len(names), n, "folds")
    order = np.random.default_rng(config.seed)
    fold_of = dict(zip(names, assign(features, [None] * len(names), [1 / n] * n, order), strict=True))
    found = []
    for f in range(n):
        splits = _fold(inner, config, {g for g, own in fold_of.items() if own == f}, f)
        parts = {case.case_id: splits.parts.get(case.case_id, HELD_OUT) for case in table}
        groups = {case.case_id: case.group for case in table}
        found.append(Splits(parts=parts, groups=groups, notes=(*notes, *splits.notes)))
        check_contents(found[-1], {case.case_id: case.fingerprints for case in table})
    return found


def _held_out(table: CaseTable, config: SplitConfig) -> tuple[set[str], list[str]]:
    """Return the groups that no fold sees."""
    stored = Splits.read(config.file) if config.file is not None else None
    given, notes = _given(table, stored, config)
    fixed = _by_group(given, {case.case_id: case.group for case in table}, "the given splits")
    held = {group for group, part in fixed.items() if part in ("test", HELD_OUT)}
    if not held and config.test_share > 0:
        shares = [1 - config.test_share, 0.0, config.test_share]
        assigned = _assign(table, config, shares, {}, np.random.default_rng([config.seed, config.folds or 0]))
        held = {group for group, part in assigned.items() if part == "test"}
    if "val" in fixed.values():
        notes.append("cases given as val take part in the folds like those given as train")
    if held:
        count = sum(case.group in held for case in table)
        notes.append(f"{count} cases are held out from all folds: evaluate them with --part {HELD_OUT}")
    return held, notes


def _fold(table: CaseTable, config: SplitConfig, test: set[str], number: int) -> Splits:
    fixed: dict[str, Part] = dict.fromkeys(test, "test")
    rest = len({case.group for case in table}) - len(test)
    if config.val > 0:
        _refuse_few(rest, 2, "train and val of a fold")
    share = rest / (rest + len(test))
    shares = [share * (1 - config.val), share * config.val, 1 - share]
    assigned = _assign(table, config, shares, fixed, np.random.default_rng([config.seed, number]))
    parts = {case.case_id: assigned[case.group] for case in table}
    groups = {case.case_id: case.group for case in table}
    return Splits(parts=parts, groups=groups, notes=_missing_classes(table, parts))


def check_contents(splits: Splits, contents: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse one image in two parts, under whatever names and groups.

    Args:
        splits: The division.
        contents: Case id to a hash of each of its images, as in ``CaseDataset.contents``; cases may be left out.

    Raises:
        DataError: That names the cases.
    """
    cases = defaultdict(list)
    for case_id, images in contents.items():
        for content in dict.fromkeys(images if case_id in splits.parts else ()):
            cases[content].append(case_id)
    torn = [ids for ids in cases.values() if len({splits.parts[i] for i in ids}) > 1]
    if torn:
        pairs = list(dict.fromkeys(" = ".join(ids) for ids in torn))
        what = f"the same image is in two parts: {listing('case', pairs, _SHOWN)}"
        raise DataError(what, where="splits", mend="Leave out the copies, or give them one group (data.group_by)")


def _given(table: CaseTable, stored: Splits | None, config: SplitConfig) -> tuple[dict[str, Part], list[str]]:
    column = {case.case_id: cast(Part, case.split) for case in table if case.split is not None}
    if stored is None:
        return column, []
    where = config.file.name if config.file else ""
    if HELD_OUT in stored.parts.values():
        # It is of a fold; when folds are made again, only what no fold saw is held out again.
        again: dict[Part, Part] = {HELD_OUT: "test"} if config.folds is None else {HELD_OUT: "test", "test": "train"}
        stored = dataclasses.replace(stored, parts={i: again.get(p, p) for i, p in stored.parts.items()})
    known = {case_id: stored.parts[case_id] for case_id in table.ids if case_id in stored.parts}
    if not known:
        what = "the stored splits know none of these cases"
        raise DataError(what, where=where, mend="Use the file, the table and the MEDTL_ID_KEY that belong together")
    # Where nobody gave val, an earlier run took it from the cases given as train.
    carved = "val" not in column.values()
    same = {("val", "train")} if carved else set()
    conflicts = [i for i, part in known.items() if column.get(i, part) != part and (part, column[i]) not in same]
    if conflicts:
        what = f"the stored splits contradict the table's split column: {listing('case', conflicts, _SHOWN)}"
        raise DataError(what, where=where, mend="Take out one of them")
    # Groups of cases that are gone still bind their newcomers.
    past = {group: stored.parts[i] for i, group in stored.groups.items()}
    followers = {case.case_id: past[case.group] for case in table if case.group in past}
    new = len(table) - len(known)
    notes = [f"{new} cases are new to the stored splits and were added"] if new else []
    return {**followers, **column, **known}, notes


def _by_group(given: Mapping[str, Part], groups: Mapping[str, str], where: str) -> dict[str, Part]:
    _refuse_torn_groups(given, groups, where)
    return {groups[case_id]: part for case_id, part in given.items()}


def _refuse_torn_groups(parts: Mapping[str, Part], groups: Mapping[str, str], where: str) -> None:
    found = defaultdict(set)
    for case_id, part in parts.items():
        found[groups[case_id]].add(part)
    torn = [group for group, own in found.items() if len(own) > 1]
    if torn:
        text = "; ".join(
            f"group {g} ({', '.join(i for i, own in groups.items() if own == g and i in parts)}) in "
            f"{' and '.join(sorted(found[g]))}"
            for g in torn[:_SHOWN]
        )
        what = f"a patient (group) is in two parts: {text}"
        raise DataError(what, where=where, mend="Put all cases of a group in one part")


def _assign(
    table: CaseTable,
    config: SplitConfig,
    shares: Sequence[float],
    fixed: Mapping[str, Part],
    random: np.random.Generator,
) -> dict[str, Part]:
    names, features = _features(table, config)
    if not fixed:
        _refuse_few(len(names), sum(share > 0 for share in shares), "parts")
    start = [PARTS.index(fixed[name]) if name in fixed else None for name in names]
    if all(part is not None for part in start):
        return dict(fixed)
    found = assign(features, start, shares, random)
    return {name: PARTS[part] for name, part in zip(names, found, strict=True)}


def _carve_val(table: CaseTable, config: SplitConfig, fixed: Mapping[str, Part]) -> dict[str, Part]:
    """Take val out of the given training groups; test stays as it is."""
    test: dict[str, Part] = {group: part for group, part in fixed.items() if part == "test"}
    rest = len(fixed) - len(test)
    _refuse_few(rest, 2, "train and val")
    val = min(config.val * len(fixed) / rest, 0.5)
    share = rest / len(fixed)
    shares = [share * (1 - val), share * val, 1 - share]
    return _assign(table, config, shares, test, np.random.default_rng(config.seed))


def _refuse_few(groups: int, needed: int, what: str) -> None:
    if groups < needed:
        text = f"{groups} patients (groups) cannot be divided into {needed} {what}"
        raise DataError(text, where="splits", mend="Add cases, or set splits.val or splits.test to 0")


def _features(table: CaseTable, config: SplitConfig) -> tuple[list[str], Features]:
    """Return the groups in table order, and what each has that parts should share evenly."""
    cases = defaultdict(list)
    for case in table:
        cases[case.group].append(case)
    names = list(cases)
    if not config.stratify:
        return names, np.zeros((len(names), 0), bool)
    if table.kind == "number":
        return names, _quantiles([list(cases[name]) for name in names])
    width = len(table.classes)
    features = np.zeros((len(names), width), bool)
    for n, name in enumerate(names):
        for case in cases[name]:
            features[n, _labels_of(case)] = True
    # What all groups have, or none, is shared evenly anyway.
    useful = features.any(axis=0) & ~features.all(axis=0)
    return names, features[:, useful]


def _labels_of(case: Case) -> list[int]:
    if isinstance(case.target, int):
        return [case.target]
    if isinstance(case.target, tuple):
        return [n for n, value in enumerate(case.target) if value == 1]
    return list(case.present or ())


def _quantiles(groups: Sequence[Sequence[Case]]) -> Features:
    """Return one feature per quantile of the first number's mean over a group."""
    means = np.array([np.nanmean([_first_number(case) for case in cases] or [0.0]) for cases in groups])
    bins = int(np.clip(len(groups) // 5, 1, _MOST_QUANTILES))
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return np.eye(bins, dtype=bool)[ranks * bins // len(groups)]


def _first_number(case: Case) -> float:
    values = case.target if isinstance(case.target, tuple) else ()
    return next((v for v in values if not math.isnan(v)), 0.0)


def _missing_classes(table: CaseTable, parts: Mapping[str, Part]) -> tuple[str, ...]:
    """Refuse a class without training cases; note classes that val or test do not have."""
    if table.kind != "class":
        return ()
    notes = []
    for part in PARTS:
        cases = [table[case_id] for case_id, own in parts.items() if own == part]
        have = {case.target for case in cases}
        missing = [name for n, name in enumerate(table.classes) if n not in have]
        if missing and part == "train":
            what = f"no training case has class {', '.join(map(repr, missing))}"
            raise DataError(what, where="splits", mend="Add cases, or change splits.seed, val or test")
        if missing and cases:
            notes.append(f"no {part} case has class {', '.join(map(repr, missing))}: its scores say nothing about it")
    return tuple(notes)

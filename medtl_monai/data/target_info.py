"""What a head needs to know of the labels, computed from training cases alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medtl_monai.data.table import listing
from medtl_monai.data.targets import Target
from medtl_monai.errors import DataError
from medtl_monai.specs import TargetInfo, TargetKind

_MEND = "Add cases, or change splits.seed"


def target_info(
    kind: TargetKind,
    columns: Sequence[str],
    classes: Sequence[str],
    targets: Sequence[Target | None],
    *,
    present: Sequence[tuple[int, ...] | None] = (),
    ignore: int | None = None,
) -> TargetInfo:
    """Describe targets of one kind.

    Args:
        kind: What they are.
        columns: The label columns.
        classes: Class, label or structure names.
        targets: One a training case.
        present: For masks, the labels each one holds; None where that is not known.
        ignore: Mask value that counts for nothing.

    Raises:
        DataError: If a class, label or structure is in no training case, or a number does not vary among them.
    """
    if kind == "mask":
        _refuse_absent_structures(classes, present, ignore)
        return TargetInfo(kind=kind, columns=tuple(columns), classes=tuple(classes), cases=len(targets), ignore=ignore)
    if kind == "class":
        counter = Counter(targets)
        counts = tuple(counter[i] for i in range(len(classes)))
        _refuse_absent([name for name, n in zip(classes, counts, strict=True) if not n], "class")
        return TargetInfo(kind=kind, columns=tuple(columns), classes=tuple(classes), counts=counts, cases=len(targets))
    values = np.array(targets, np.float64)
    if kind == "classes":
        positive = (values == 1).sum(axis=0)
        _refuse_absent([name for name, n in zip(classes, positive, strict=True) if not n], "label")
        return TargetInfo(
            kind=kind,
            columns=tuple(columns),
            classes=tuple(classes),
            counts=tuple(int(n) for n in positive),
            labelled=tuple(int(n) for n in (~np.isnan(values)).sum(axis=0)),
            cases=len(targets),
        )
    return _numbers(columns, values)


def _numbers(columns: Sequence[str], values: np.ndarray) -> TargetInfo:
    known = ~np.isnan(values)
    flat = [c for n, c in enumerate(columns) if len(np.unique(values[known[:, n], n])) < 2]
    if flat:
        raise DataError(f"the training cases have one value only in {listing('column', flat)}", mend=_MEND)
    return TargetInfo(
        kind="number",
        columns=tuple(columns),
        cases=len(values),
        mean=tuple(float(m) for m in np.nanmean(values, axis=0)),
        std=tuple(float(s) for s in np.nanstd(values, axis=0)),
    )


def _refuse_absent(names: Sequence[str], what: str) -> None:
    if names:
        raise DataError(f"no training case has {what} {', '.join(map(repr, names))}", mend=_MEND)


def _refuse_absent_structures(
    classes: Sequence[str], present: Sequence[tuple[int, ...] | None], ignore: int | None
) -> None:
    if not present or any(labels is None for labels in present):
        return
    seen = {label for labels in present if labels is not None for label in labels}
    _refuse_absent([name for n, name in enumerate(classes) if n not in seen | {0, ignore}], "structure")

"""Divide cases into train, val and test by group: seeded, stratified, stored, extended but never reshuffled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medtl_monai.config import SplitConfig
from medtl_monai.data.cases import CaseTable

Part = Literal["train", "val", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """Which part each case is in."""

    parts: Mapping[str, Part]
    groups: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def ids(self, part: Part) -> tuple[str, ...]:
        """Case ids of a part, in table order."""
        raise NotImplementedError

    def write(self, path: Path) -> None:
        """Write case_id, group, split as CSV, atomically."""
        raise NotImplementedError

    @classmethod
    def read(cls, path: Path) -> Splits:
        """Read what :meth:`write` wrote."""
        raise NotImplementedError


def make_splits(table: CaseTable, config: SplitConfig) -> Splits:
    """Divide the table's cases."""
    raise NotImplementedError


def folds(table: CaseTable, n: int, config: SplitConfig) -> list[Splits]:
    """Give n divisions whose test parts are disjoint and cover everything; val is carved out of the rest."""
    raise NotImplementedError


def check_contents(splits: Splits, contents: Mapping[str, str]) -> None:
    """Raise DataError when the same image content is in two parts."""
    raise NotImplementedError

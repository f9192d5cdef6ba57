"""The cases of a run: images joined to labels, known only by pseudonyms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtl_monai.config import DataConfig
from medtl_monai.dicom.geometry import Volume
from medtl_monai.specs import TargetInfo, TargetKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One image with its target; ``repr`` shows pseudonyms only."""

    case_id: str
    group: str
    row: int = 0
    split: str | None = None
    image: Any = dataclasses.field(repr=False)  # a dicom Series or the Path of a NIfTI file
    target: int | tuple[float, ...] | Path | None = dataclasses.field(default=None, repr=False)
    source: str = dataclasses.field(default="", repr=False)  # path relative to the data root: terminal only
    fingerprint: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseTable:
    """All cases, and how to read them."""

    cases: tuple[Case, ...]
    kind: TargetKind
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    ignore: int | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        raise NotImplementedError

    def info(self, case_ids: Sequence[str]) -> TargetInfo:
        """TargetInfo computed from the given (training) cases only."""
        raise NotImplementedError

    def read_volume(self, case: Case, *, on_gap: str = "error") -> Volume:
        """Read the image of a case."""
        raise NotImplementedError

    def read_target(self, case: Case, volume: Volume) -> Any:
        """Int, float32 ``[L]`` or int16 ``[i, j, k]`` on the volume's grid; None where the case has none."""
        raise NotImplementedError


def load_cases(config: DataConfig, kind: TargetKind, *, classes: Sequence[str] | None = None) -> CaseTable:
    """Join images to labels; with ``classes`` (of a run) unknown classes are refused and few cases are fine."""
    raise NotImplementedError


def unlabelled_cases(path: Path | Sequence[Path]) -> list[Case]:
    """Cases of a DICOM tree, a folder of NIfTI files, or a list of files, for prediction."""
    raise NotImplementedError

"""Preprocessed cases, kept in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from medtl_monai.data.cases import CaseTable
from medtl_monai.data.preprocessing import Preprocessing
from medtl_monai.modules import Batch


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """One item: which case, and the seed of all its randomness (None: none at all, the whole image)."""

    case: int
    seed: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One training item."""

    case_id: str
    image: Tensor
    target: Tensor | None


class CaseDataset(Dataset[Sample]):
    """``dataset[Draw(i, seed)]`` is a pure function of the draw; ``dataset[i]`` is ``dataset[Draw(i)]``."""

    def __init__(
        self,
        table: CaseTable,
        case_ids: Sequence[str],
        preprocessing: Preprocessing,
        *,
        augment: Any = None,
        cache: bool = True,
    ) -> None:
        raise NotImplementedError

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every case once (errors come early); ``progress(done, total)``."""
        raise NotImplementedError

    @property
    def contents(self) -> dict[str, str]:
        """Sha256 of each case's voxels, as read so far."""
        raise NotImplementedError


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; class → int64 ``[B]``, classes and number → float32 ``[B, L]``, mask → int64 ``[B, *S]``."""
    raise NotImplementedError

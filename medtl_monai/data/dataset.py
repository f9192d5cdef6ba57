"""Preprocessed cases, kept on disk or in memory; every item is a pure function of what is asked for."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.data.patches import choose_patch
from medtl_monai.data.pipeline import Preprocessing
from medtl_monai.data.prepared import Prepared, larger, prepare
from medtl_monai.dicom.geometry import Volume
from medtl_monai.errors import DataError
from medtl_monai.modules import Batch

if TYPE_CHECKING:
    from monai.transforms import Compose

MEMORY_SHARE = 0.5
"""Share of the memory free at the start that preprocessed cases may fill."""

MAPPED = 32
"""Cases that are mapped from disk at one time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """What is asked of a data set.

    Attributes:
        case: Index of the case.
        seed: Seed of all randomness of this item (patch, augmentation); None for the whole image as it is.
    """

    case: int
    seed: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One item.

    Attributes:
        case_id: Pseudonym.
        image: float32 ``[C, *S]``.
        target: int64 scalar, float32 ``[L]`` or int16 ``[*S]``; None in prediction.
        background: Value per channel that padding has.
    """

    case_id: str
    image: Tensor
    target: Tensor | None
    background: tuple[float, ...] = ()


class CaseDataset(Dataset[Sample]):
    """Cases of a table, preprocessed.

    ``dataset[Draw(i, seed)]`` is a training item: a random patch where images are larger than the patch size, then
    augmentation, both seeded by the draw alone. ``dataset[i]`` is the whole image without randomness. Each case is
    preprocessed once. With a disk cache it is then mapped from there, and a patch is read without the rest of the
    image; what is not there is kept in memory as long as half of the memory free at the start suffices, and read again
    each time beyond that. Items are equal bit by bit, wherever they come from.

    Args:
        table: Where cases come from.
        case_ids: Which of them, in order.
        preprocessing: What is done to them.
        augment: Random changes for draws with a seed, from :func:`medtl_monai.data.augmentation.augmentation`.
        cache: Whether to keep preprocessed cases in memory.
        disk: Where to keep them on disk; None for memory only.
    """

    def __init__(
        self,
        table: CaseTable,
        case_ids: Sequence[str],
        preprocessing: Preprocessing,
        *,
        augment: Compose | None = None,
        cache: bool = True,
        disk: CaseCache | None = None,
    ) -> None:
        self.table = table
        self.cases = tuple(table[case_id] for case_id in case_ids)
        self.preprocessing = preprocessing
        self.augment = augment
        self.notes: list[str] = []
        """What :meth:`prepare` found: how images and masks were read, and whether all fit in memory."""
        self.contents: dict[str, tuple[str, ...]] = {}
        """Sha256 of the voxels of each image of a case, for :func:`medtl_monai.data.splits.check_contents`."""
        self._budget = int(psutil.virtual_memory().available * MEMORY_SHARE) if cache else 0
        self._reading: Counter[str] = Counter()
        self._used = 0
        self._cache: dict[int, Prepared] = {}
        self._read: set[int] = set()
        self._disk = disk
        self._keys: dict[int, str] = {}
        self._mapped: OrderedDict[int, Prepared] = OrderedDict()

    def __len__(self) -> int:
        return len(self.cases)

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be pickled with all its voxels; another process maps it itself.
        return {**self.__dict__, "_mapped": OrderedDict()}

    def __getitem__(self, item: Draw | int) -> Sample:
        draw = item if isinstance(item, Draw) else Draw(item)
        if not 0 <= draw.case < len(self.cases):
            raise IndexError(draw.case)
        prepared = self._prepared(draw.case)
        image, mask = prepared.cut(None if draw.seed is None else self._window(prepared, draw.seed))
        case = self.cases[draw.case]
        target = mask if self.table.kind == "mask" else self._label(case)
        if draw.seed is not None and self.augment is not None:
            image, target = self._augmented(self.augment, image, target, draw.seed)
            # Noise would tell training from prediction, where a missing image is zeros.
            image[prepared.filled] = 0
        return Sample(case_id=case.case_id, image=image, target=target, background=prepared.background)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every case once, so that a case that cannot be used is found before training starts.

        Args:
            progress: Called with the number of cases done and their total.

        Raises:
            DataError: If an image or target cannot be used.
            DicomError: If a series or SEG cannot be read.
        """
        for n in range(len(self.cases)):
            if n not in self._read:
                self._prepared(n)
            if progress is not None:
                progress(n + 1, len(self.cases))
        self.notes = [f"{note} ({n} of {len(self.cases)} cases)" for note, n in sorted(self._reading.items())]
        left = len(self.cases) - len(self._cache) - len(self._keys)
        if left and self._budget:
            self.notes.append(f"{left} of {len(self.cases)} cases do not fit in memory and are read again every time")

    def volume(self, case: Case) -> Volume:
        """Read the image of a case as this data set's preprocessing needs it."""
        return self.table.read_volume(case, on_gap=self.preprocessing.on_gap, units=self.preprocessing.units)

    def item_sizes(self) -> set[tuple[int, ...]]:
        """Return the sizes that training items have: of patches, or of whole images where they are smaller."""
        found = set()
        for n in range(len(self.cases)):
            shape = tuple(self._prepared(n).image.shape[1:])
            patch = self.preprocessing.patch_size or shape
            found.add(tuple(min(have, wanted) for have, wanted in zip(shape, patch, strict=True)))
        return found

    @property
    def random(self) -> bool:
        """Whether an item depends on the seed of its draw."""
        if self.augment is not None:
            return True
        patch = self.preprocessing.patch_size
        return patch is not None and any(larger(size, patch) for size in self.sizes())

    def sizes(self) -> list[tuple[int, ...]]:
        """Return the size of each image."""
        fixed = self.preprocessing.size
        if fixed is not None:
            return [tuple(fixed)] * len(self)
        return [tuple(self._prepared(n).image.shape[1:]) for n in range(len(self))]

    def release(self) -> None:
        """Let go of what is kept in memory; what is asked for again is read again."""
        self._cache.clear()
        self._mapped.clear()
        self._used = 0

    @property
    def bytes_in_memory(self) -> int:
        """Memory that preprocessed cases take; those mapped from disk take none of their own."""
        return self._used

    def _prepared(self, n: int) -> Prepared:
        if n in self._cache:
            return self._cache[n]
        prepared = self._mapping(n)
        if prepared is None:
            prepared = self._fetch(n)
        case_id = self.cases[n].case_id
        if case_id not in self.contents:
            self._reading.update(prepared.notes)
        self.contents[case_id] = prepared.contents
        self._read.add(n)
        return prepared

    def _mapping(self, n: int) -> Prepared | None:
        """Return a case that was found on disk before; mapped again if that was long ago."""
        key = self._keys.get(n)
        if self._disk is None or key is None:
            return None
        prepared = self._mapped.get(n)
        if prepared is None:
            prepared = self._disk.reopen(key, self.preprocessing)
        if prepared is None:
            # Another run needed the room.
            del self._keys[n]
            return None
        self._disk.touch(key)
        self._remember(n, prepared)
        return prepared

    def _remember(self, n: int, prepared: Prepared) -> None:
        self._mapped[n] = prepared
        self._mapped.move_to_end(n)
        # Every mapping holds an open file, and a process may have some hundreds.
        while len(self._mapped) > MAPPED:
            self._mapped.popitem(last=False)

    def _fetch(self, n: int) -> Prepared:
        case = self.cases[n]
        if self._disk is None:
            prepared = self._make(case)
        else:
            prepared, key = self._disk.fetch(self.table, case, self.preprocessing, lambda: self._make(case))
            if key:
                self._keys[n] = key
                self._remember(n, prepared)
                return prepared
        if self._used + prepared.bytes <= self._budget:
            self._cache[n] = prepared
            self._used += prepared.bytes
        return prepared

    def _make(self, case: Case) -> Prepared:
        return prepare(self.volume(case), self.table, case, self.preprocessing)

    def _label(self, case: Case) -> Tensor | None:
        label = self.table.label(case)
        return label if label is None else torch.as_tensor(label)

    def _window(self, prepared: Prepared, seed: int) -> tuple[slice, ...] | None:
        patch, shape = self.preprocessing.patch_size, tuple(prepared.image.shape[1:])
        if patch is None or not larger(shape, patch):
            return None
        return choose_patch(shape, patch, prepared.foreground, np.random.RandomState(seed))

    def _augmented(
        self, augment: Compose, image: Tensor, target: Tensor | None, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        augment.set_random_state(seed)
        has_mask = target is not None and self.table.kind == "mask"
        out = augment({"image": image, **({"mask": target[None]} if has_mask and target is not None else {})})
        return out["image"], out["mask"][0] if has_mask else target


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples to a batch.

    Images of several sizes (segmentation on whole images) are padded with their background to the largest.

    Args:
        samples: At least one; all with a target or none.

    Returns:
        Targets are int64 ``[B]``, float32 ``[B, L]`` or int64 ``[B, *S]``.
    """
    size = tuple(int(n) for n in np.max([s.image.shape[1:] for s in samples], axis=0))
    image = torch.stack([_padded(s.image, size, s.background) for s in samples])
    targets = [s.target for s in samples if s.target is not None]
    if targets and len(targets) < len(samples):
        raise DataError("some cases of a batch have a target and some do not", mend="Keep them apart")
    target = None
    if targets:
        masks = targets[0].ndim > 1
        target = torch.stack([_padded(t[None], size, (0,))[0] for t in targets] if masks else targets)
        target = target.long() if not target.is_floating_point() else target
    return Batch(image=image, spatial_size=size, target=target, case_ids=tuple(s.case_id for s in samples))


def _padded(tensor: Tensor, size: Sequence[int], background: Sequence[float]) -> Tensor:
    missing = [wanted - have for have, wanted in zip(tensor.shape[1:], size, strict=True)]
    if not any(missing):
        return tensor
    amounts = [n for extra in reversed(missing) for n in (extra // 2, extra - extra // 2)]
    channels = zip(tensor, background or (0.0,) * len(tensor), strict=True)
    return torch.stack([pad(channel, amounts, value=value) for channel, value in channels])

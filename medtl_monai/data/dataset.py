"""Preprocessed cases, kept in memory; every item is a pure function of what is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.data.patches import Foreground, choose_patch, find_foreground
from medtl_monai.data.pipeline import Preprocessing
from medtl_monai.dicom.geometry import Volume
from medtl_monai.errors import DataError
from medtl_monai.modules import Batch

if TYPE_CHECKING:
    from monai.transforms import Compose

MEMORY_SHARE = 0.5
"""Share of the memory free at the start that preprocessed cases may fill."""


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
        filled: Channels that stand in for a missing image: 0 everywhere, in training too.
    """

    case_id: str
    image: Tensor
    target: Tensor | None
    background: tuple[float, ...] = ()
    filled: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    sample: Sample
    foreground: Foreground

    @property
    def bytes(self) -> int:
        tensors = [self.sample.image, self.sample.target]
        return sum(t.nbytes for t in tensors if t is not None) + sum(v.nbytes for v in self.foreground.values())


class CaseDataset(Dataset[Sample]):
    """Cases of a table, preprocessed.

    ``dataset[Draw(i, seed)]`` is a training item: a random patch where images are larger than the patch size, then
    augmentation, both seeded by the draw alone. ``dataset[i]`` is the whole image without randomness. Each case is
    preprocessed once and kept in memory as long as half of the memory free at the start suffices; the rest is read
    again each time.

    Args:
        table: Where cases come from.
        case_ids: Which of them, in order.
        preprocessing: What is done to them.
        augment: Random changes for draws with a seed, from :func:`medtl_monai.data.augmentation.augmentation`.
        cache: Whether to keep preprocessed cases.
    """

    def __init__(
        self,
        table: CaseTable,
        case_ids: Sequence[str],
        preprocessing: Preprocessing,
        *,
        augment: Compose | None = None,
        cache: bool = True,
    ) -> None:
        self.table = table
        self.cases = tuple(table[case_id] for case_id in case_ids)
        self.preprocessing = preprocessing
        self.augment = augment
        self.notes: list[str] = []
        """What :meth:`prepare` found: how images were read, and whether all fit in memory."""
        self.contents: dict[str, tuple[str, ...]] = {}
        """Sha256 of the voxels of each image of a case, for :func:`medtl_monai.data.splits.check_contents`."""
        self._budget = int(psutil.virtual_memory().available * MEMORY_SHARE) if cache else 0
        self._reading: Counter[str] = Counter()
        self._used = 0
        self._cache: dict[int, _Entry] = {}
        self._read: set[int] = set()

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: Draw | int) -> Sample:
        draw = item if isinstance(item, Draw) else Draw(item)
        if not 0 <= draw.case < len(self.cases):
            raise IndexError(draw.case)
        entry = self._entry(draw.case)
        return entry.sample if draw.seed is None else self._vary(entry, draw.seed)

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
                self._entry(n)
            if progress is not None:
                progress(n + 1, len(self.cases))
        self.notes = [f"{note} ({n} of {len(self.cases)} cases)" for note, n in sorted(self._reading.items())]
        left = len(self.cases) - len(self._cache)
        if left and self._budget:
            self.notes.append(f"{left} of {len(self.cases)} cases do not fit in memory and are read again every time")

    def volume(self, case: Case) -> Volume:
        """Read the image of a case as this data set's preprocessing needs it."""
        return self.table.read_volume(case, on_gap=self.preprocessing.on_gap, units=self.preprocessing.units)

    def _entry(self, n: int) -> _Entry:
        if n in self._cache:
            return self._cache[n]
        entry = self._make(self.cases[n])
        self._read.add(n)
        if self._used + entry.bytes <= self._budget:
            self._cache[n] = entry
            self._used += entry.bytes
        return entry

    def _make(self, case: Case) -> _Entry:
        where = f"case {case.case_id}"
        volume = self.volume(case)
        if case.case_id not in self.contents:
            self._reading.update(volume.notes)
        self.contents[case.case_id] = _contents(volume)
        image, background = self.preprocessing.image_and_background(volume, where=where)
        target = self._target(case, volume)
        foreground: Foreground = {}
        patch = self.preprocessing.patch_size
        if target is not None and target.ndim > 1 and patch and _larger(target, patch):
            foreground = find_foreground(target.numpy(), self.table.ignore)
        filled = tuple(n for n, info in enumerate(volume.channel_info) if info.filled)
        sample = Sample(case_id=case.case_id, image=image, target=target, background=background, filled=filled)
        return _Entry(sample=sample, foreground=foreground)

    def _target(self, case: Case, volume: Volume) -> Tensor | None:
        target = self.table.read_target(case, volume)
        if target is None:
            return None
        if isinstance(target, int):
            return torch.tensor(target)
        if self.table.kind == "mask":
            return self.preprocessing.mask(volume, target.astype(np.int16, copy=False))
        return torch.from_numpy(target)

    def _vary(self, entry: _Entry, seed: int) -> Sample:
        sample = entry.sample
        image, target = sample.image, sample.target
        patch = self.preprocessing.patch_size
        if patch is not None and _larger(image, patch):
            window = choose_patch(tuple(image.shape[1:]), patch, entry.foreground, np.random.RandomState(seed))
            image = image[(slice(None), *window)]
            target = target[window] if target is not None else None
        if self.augment is not None:
            image, target = self._augmented(image, target, seed)
            # Noise would tell training from prediction, where a missing image is zeros.
            image[list(sample.filled)] = 0
        return dataclasses.replace(sample, image=image, target=target)

    def _augmented(self, image: Tensor, target: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        if self.augment is None:
            return image, target
        self.augment.set_random_state(seed)
        has_mask = target is not None and self.table.kind == "mask"
        # A copy: nothing that happens in augmentation may reach the cache.
        data = {"image": image.clone(), **({"mask": target[None].clone()} if has_mask and target is not None else {})}
        out = self.augment(data)
        return out["image"], out["mask"][0] if has_mask else target


def _contents(volume: Volume) -> tuple[str, ...]:
    """Return a hash of each named image that is there, or of the whole."""
    info = volume.channel_info
    images = [volume.array]
    if len(info) > 1:
        images = [volume.array[n] for n, channel in enumerate(info) if not channel.filled]
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)


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


def _larger(tensor: Tensor, patch: Sequence[int]) -> bool:
    return any(have > wanted for have, wanted in zip(tensor.shape[-len(patch) :], patch, strict=True))

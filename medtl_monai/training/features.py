"""Features of frozen stages for every item of a data set: made in batches of the run's size, given out as batches.

Sizes matter: a layer may compute the last bits of a sample otherwise in another batch size. A batch that is not full is
filled up with its own first samples before it is computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from medtl_monai.data.cache.features import FeatureCache
from medtl_monai.data.dataset import CaseDataset, Draw, Sample, collate
from medtl_monai.errors import RunError
from medtl_monai.modules import Batch
from medtl_monai.training.tuning import format_batch
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.packing import Layout, Packing

TARGET = "target"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """Computes features.

    Attributes:
        model: The model, with the rules in force under which its first stages are frozen.
        packing: What is kept of them.
        device: Where the model is.
        channels_last: Whether images are brought to that memory format.
        layouts: How batches of features lie in memory; filled as they are seen.
    """

    model: TransferModel
    packing: Packing
    device: torch.device
    channels_last: bool
    layouts: dict[str, Layout] = dataclasses.field(default_factory=dict)

    def __call__(self, samples: Sequence[Sample], batch_size: int) -> list[dict[str, Tensor]]:
        """Return the features of samples of one size, computed as one batch of ``batch_size``."""
        filled = list(itertools.islice(itertools.cycle(samples), max(batch_size, len(samples))))
        batch = format_batch(collate(filled).to(self.device), self.channels_last)
        prefix = self.model.prefix(batch, self.packing.start, self.packing.taps)
        return self.packing.split(prefix, self.layouts)[: len(samples)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disk:
    """Where features are on disk.

    Attributes:
        cache: The cache.
        made: What decides features beside the voxels.
        mapped: Whether features are read from there each time; otherwise they are in memory as well.
    """

    cache: FeatureCache
    made: str
    mapped: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Item:
    case_id: str
    shape: tuple[int, ...]
    target: Tensor | None
    features: dict[str, Tensor] | None
    key: str


class Features:
    """The features of a data set's items.

    Args:
        dataset: The images.
        make: Computes features.
        batch_size: How many are computed at a time.
        fixed: Whether items do not depend on the seeds of their draws.
        disk: Where they are kept, if not in memory alone.
    """

    def __init__(
        self, dataset: CaseDataset, make: Maker, *, batch_size: int, fixed: bool, disk: Disk | None = None
    ) -> None:
        self._dataset = dataset
        self._make = make
        self._size = batch_size
        self._fixed = fixed
        self._disk = disk
        self._items: dict[Draw, _Item] = {}
        self.found = 0
        """Items that another run, or this one before an interruption, had stored."""

    def __len__(self) -> int:
        return len(self._items)

    def prepare(self, draws: Iterable[Draw], progress: Callable[[int], None] = lambda done: None) -> None:
        """Compute the features of all draws, or find them on disk.

        Args:
            draws: What training will ask for.
            progress: Called with the number of items that are there.

        Raises:
            MedtlError: What reading an image raises.
        """
        waiting: list[tuple[Draw, Sample, str]] = []
        for draw in dict.fromkeys(map(self._plain, draws)):
            sample = self._dataset[draw]
            key, stored = self._stored(sample)
            if stored is not None:
                self._keep(draw, sample, stored, key)
                self.found += 1
            else:
                waiting.append((draw, sample, key))
            if len(waiting) == self._size:
                self._compute(waiting)
                waiting = []
            progress(len(self._items) + len(waiting))
        self._compute(waiting)

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """Return the batch that online training would see, its images without voxels."""
        items = [self._items[self._plain(draw)] for draw in draws]
        features = [self._read(draw, item) for draw, item in zip(draws, items, strict=True)]
        target = _stack([part.get(TARGET, item.target) for item, part in zip(items, features, strict=True)])
        shape = items[0].shape
        return Batch(
            image=torch.empty((len(items), *shape), device="meta"),
            spatial_size=shape[1:],
            target=target,
            case_ids=tuple(item.case_id for item in items),
            prefix=self._make.packing.join(features, self._make.layouts),
        )

    def _plain(self, draw: Draw) -> Draw:
        return Draw(draw.case) if self._fixed else draw

    def _stored(self, sample: Sample) -> tuple[str, dict[str, Tensor] | None]:
        if self._disk is None:
            return "", None
        made = self._disk.made
        if _has_mask(sample) and sample.target is not None:
            made += hashlib.sha256(sample.target.contiguous().numpy().tobytes()).hexdigest()
        key = self._disk.cache.key(sample.image, made)
        # Without a batch that was computed here, nobody knows how features lie in memory.
        return key, self._disk.cache.find(key) if self._make.layouts else None

    def _compute(self, waiting: Sequence[tuple[Draw, Sample, str]]) -> None:
        if not waiting:
            return
        made = self._make([sample for _, sample, _ in waiting], self._size)
        for (draw, sample, key), features in zip(waiting, made, strict=True):
            if _has_mask(sample) and sample.target is not None:
                features[TARGET] = sample.target
            stored = self._disk is not None and self._disk.cache.put(key, features)
            self._keep(draw, sample, features, key if stored else "")

    def _keep(self, draw: Draw, sample: Sample, features: dict[str, Tensor], key: str) -> None:
        mapped = bool(key) and self._disk is not None and self._disk.mapped
        target = None if _has_mask(sample) else sample.target
        kept = None if mapped else features
        self._items[draw] = _Item(sample.case_id, tuple(sample.image.shape), target, kept, key)

    def _read(self, draw: Draw, item: _Item) -> dict[str, Tensor]:
        if item.features is not None:
            return item.features
        found = None if self._disk is None else self._disk.cache.find(item.key)
        if found is None:
            # Another run needed the room.
            self._compute([(self._plain(draw), self._dataset[self._plain(draw)], item.key)])
            found = self._items[self._plain(draw)].features
        if found is None and self._disk is not None:
            found = self._disk.cache.find(item.key)
        if found is None:
            mend = "Give the cache more room (cache.max_gib), or train with --no-prefix-cache"
            raise RunError("features vanish from the cache as soon as they are stored", mend=mend)
        return found


class PhaseLoader:
    """Batches of the phase: online, or from features where there are some.

    Args:
        online: Loads images.
    """

    def __init__(self, online: DataLoader[Sample]) -> None:
        self._online = online
        self.features: Features | None = None

    def __len__(self) -> int:
        return len(self._online)

    def __iter__(self) -> Iterator[Batch]:
        if self.features is None:
            yield from self._online
            return
        for draws in self._online.batch_sampler or ():
            yield self.features.batch(draws)


def _has_mask(sample: Sample) -> bool:
    return sample.target is not None and sample.target.shape == sample.image.shape[1:]


def _stack(targets: Sequence[Tensor | None]) -> Tensor | None:
    """Stack targets as :func:`medtl_monai.data.dataset.collate` does; their sizes are equal here."""
    given = [target for target in targets if target is not None]
    if not given:
        return None
    stacked = torch.stack(given)
    return stacked if stacked.is_floating_point() else stacked.long()

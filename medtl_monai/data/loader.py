"""Batches whose content depends on (seed, epoch, position) only."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader, Sampler

from medtl_monai.data.dataset import CaseDataset, Draw, Sample


class EpochSampler(Sampler[list[Draw]]):
    """A batch sampler; ``set_epoch(e)`` before each epoch; ``len()`` = steps of an epoch."""

    def __init__(self, n: int, batch_size: int, min_steps: int = 1, seed: int = 0) -> None:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[Draw]]:
        raise NotImplementedError


def training_loader(
    dataset: CaseDataset,
    *,
    batch_size: int,
    min_steps: int = 1,
    seed: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """A loader whose ``batch_sampler`` is an EpochSampler; yields Batch."""
    raise NotImplementedError


def evaluation_loader(
    dataset: CaseDataset, *, batch_size: int = 1, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Sample]:
    """Cases in order, no randomness; one case a batch for segmentation; yields Batch."""
    raise NotImplementedError

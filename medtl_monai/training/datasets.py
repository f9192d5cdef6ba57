"""The images a run trains and validates on, read once and checked."""

from __future__ import annotations

import dataclasses
from functools import partial

from medtl_monai.data.augmentation import augmentation
from medtl_monai.data.balance import Strata, strata_of
from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.data.dataset import CaseDataset, Draw, collate
from medtl_monai.data.splits import check_contents
from medtl_monai.modules import Batch
from medtl_monai.training.assemble import Assembly
from medtl_monai.training.reporter import Reporter

_SHOWN = 8
"""Notes on how images were read that are told for each part; a note with a figure of its own is one a case."""


@dataclasses.dataclass(frozen=True)
class Datasets:
    """Preprocessed training and validation cases.

    Attributes:
        train: Training cases, augmented as the configuration says.
        val: Validation cases as they are; None without a validation part.
        strata: The training cases of each class, where draws are to be balanced.
        disk: The cache that they come from, if any.
    """

    train: CaseDataset
    val: CaseDataset | None
    strata: Strata | None = None
    disk: CaseCache | None = None

    @property
    def one_size(self) -> bool:
        """Whether all training batches have one size."""
        return self.train.preprocessing.size is not None or len(self.train.item_sizes()) == 1

    def probe(self, batch_size: int) -> Batch:
        """Return a training batch of the size and shape that training will use."""
        size = min(batch_size, len(self.train))
        return collate([self.train[Draw(case, seed=case)] for case in range(size)])


def load_datasets(assembly: Assembly, reporter: Reporter) -> Datasets:
    """Read and preprocess every training and validation case, so that a bad one stops the run before its first step.

    Raises:
        MedtlError: If a case cannot be read or does not fit, or the same image is in both parts.
    """
    data, preprocessing = assembly.data, assembly.data.preprocessing
    augment = augmentation(
        assembly.config.augmentation,
        data.table.kind,
        preprocessing.spatial_dims,
        spacing_mm=preprocessing.spacing_mm,
    )
    balanced = assembly.config.training.sampling == "balanced"
    strata = strata_of([data.table[i] for i in data.splits.ids("train")], data.table) if balanced else None
    disk, trouble = CaseCache.open(assembly.config.cache)
    train = CaseDataset(data.table, data.splits.ids("train"), preprocessing, augment=augment, disk=disk)
    ids = data.splits.ids("val")
    val = CaseDataset(data.table, ids, preprocessing, disk=disk) if ids else None
    contents: dict[str, tuple[str, ...]] = {}
    for dataset, name in ((train, "training"), (val, "validation")):
        if dataset is not None:
            dataset.prepare(partial(reporter.count, f"reading {name} images"))
            contents |= dataset.contents
            for note in dataset.notes[:_SHOWN]:
                reporter.note(f"{name}: {note}")
            if len(dataset.notes) > _SHOWN:
                reporter.note(f"{name}: {len(dataset.notes) - _SHOWN} more notes on how images were read")
    check_contents(data.splits, contents)
    for note in (*([trouble] if trouble else []), *(disk.notes() if disk else [])):
        reporter.warn(note)
    if disk is not None and disk.hits:
        reporter.note(f"{disk.hits} of {disk.hits + disk.made} images came from the cache, already preprocessed")
    return Datasets(train, val, strata, disk)

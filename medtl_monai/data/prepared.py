"""A case as the network sees it, and what must be known of its image beside the voxels."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.data.grid import Grid
from medtl_monai.data.patches import Foreground, find_foreground
from medtl_monai.data.pipeline import Preprocessing
from medtl_monai.dicom.description import Description
from medtl_monai.dicom.geometry import Volume

Voxels = NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A preprocessed case.

    Attributes:
        image: float32 ``[C, *S]``, in memory or mapped from a file; never to be written to.
        mask: int16 ``[*S]``, likewise; None without a mask.
        background: Value per channel that padding has.
        foreground: Voxels of the mask's structures, where training draws patches.
        grid: Where the voxels of ``image`` are.
        original: The image as read, without its voxels.
        contents: Sha256 of the voxels of each of its images as read.
        notes: How it was read.
        kept: Whether the arrays are mapped from the cache.
    """

    image: Voxels
    mask: Voxels | None
    background: tuple[float, ...]
    foreground: Foreground
    grid: Grid
    original: Description
    contents: tuple[str, ...]
    notes: tuple[str, ...]
    kept: bool = False

    @property
    def filled(self) -> list[int]:
        """Channels whose image is missing; they hold zeros."""
        return [n for n, info in enumerate(self.original.channel_info) if info.filled]

    @property
    def bytes(self) -> int:
        """Memory that the arrays take, or would take if read."""
        arrays = [self.image, *([self.mask] if self.mask is not None else []), *self.foreground.values()]
        return sum(array.nbytes for array in arrays)

    def cut(self, window: tuple[slice, ...] | None = None) -> tuple[Tensor, Tensor | None]:
        """Return image and mask, or a part of them, as tensors that the caller may write to.

        Args:
            window: One slice per spatial axis; None for all.
        """
        window = window if window is not None else (slice(None),) * (self.image.ndim - 1)
        image = torch.from_numpy(np.array(self.image[(slice(None), *window)], order="C"))
        return image, None if self.mask is None else torch.from_numpy(np.array(self.mask[window], order="C"))


def prepare(volume: Volume, table: CaseTable, case: Case, preprocessing: Preprocessing) -> Prepared:
    """Preprocess the image of a case, and its mask if it has one.

    Raises:
        DataError: If the image does not fit the run or the mask does not fit the image.
        DicomError: If a DICOM SEG cannot be placed on the image.
    """
    image, background = preprocessing.image_and_background(volume, where=f"case {case.case_id}")
    mask, notes = None, list(volume.notes)
    if table.kind == "mask" and case.target is not None:
        labels = np.asarray(table.read_target(case, volume, notes))
        mask = preprocessing.mask(volume, labels.astype(np.int16, copy=False)).numpy()
    foreground: Foreground = {}
    if mask is not None and larger(mask.shape, preprocessing.patch_size):
        foreground = find_foreground(mask, table.ignore)
    return Prepared(
        image=image.numpy(),
        mask=mask,
        background=background,
        foreground=foreground,
        grid=preprocessing.grid(volume),
        original=Description.of(volume),
        contents=_contents(volume),
        notes=tuple(dict.fromkeys(notes)),
    )


def _contents(volume: Volume) -> tuple[str, ...]:
    """Return a hash of each named image that is there, or of the whole."""
    info = volume.channel_info
    images = [volume.array]
    if len(info) > 1:
        images = [volume.array[n] for n, channel in enumerate(info) if not channel.filled]
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)


def larger(shape: tuple[int, ...], patch: tuple[int, ...] | None) -> bool:
    """Whether an image of this size is trained on in patches."""
    return patch is not None and any(have > wanted for have, wanted in zip(shape[-len(patch) :], patch, strict=True))

"""Where training patches are taken from large images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Foreground = dict[int, NDArray[np.int32]]
"""Label to voxels ``[N, D]`` that have it: all, or a random subset of many."""

FOREGROUND_SHARE = 0.5
"""How often a patch is centred on a voxel of a structure; the other half lies anywhere."""

_KEPT = 5000


def find_foreground(mask: NDArray[np.int16], ignore: int | None = None) -> Foreground:
    """Return voxels of every structure in a mask.

    Args:
        mask: Label indices; 0 is background.
        ignore: Label that counts for nothing.
    """
    where = np.flatnonzero((mask != 0) & (mask != (ignore if ignore is not None else 0)))
    labels = mask.reshape(-1)[where]
    found = {}
    for label in np.unique(labels):
        mine = where[labels == label]
        if len(mine) > _KEPT:
            # At random, as a regular step may resonate with the size of the image; seeded, as draws must repeat.
            mine = np.sort(np.random.default_rng(0).choice(mine, _KEPT, replace=False))
        found[int(label)] = np.stack(np.unravel_index(mine, mask.shape), axis=1).astype(np.int32)
    return found


def choose_patch(
    shape: Sequence[int], patch: Sequence[int], foreground: Foreground, random: np.random.RandomState
) -> tuple[slice, ...]:
    """Choose a patch: every second one centred on a structure (each structure as often), the others anywhere.

    Args:
        shape: Size of the image.
        patch: Size of the patch; an axis on which the image is smaller is taken whole.
        foreground: From :func:`find_foreground`.
        random: The source of randomness.

    Returns:
        One slice per axis.
    """
    room = np.maximum(np.array(shape) - np.array(patch), 0)
    # Drawn in any case, so that the number of draws does not depend on the mask.
    starts = np.floor(random.uniform(size=len(room)) * (room + 1)).astype(int)
    biased, label, voxel = random.uniform(size=3)
    if foreground and biased < FOREGROUND_SHARE:
        voxels = foreground[sorted(foreground)[int(label * len(foreground))]]
        centre = voxels[int(voxel * len(voxels))]
        starts = np.clip(centre - np.array(patch) // 2, 0, room)
    return tuple(slice(int(s), int(s + min(p, n))) for s, p, n in zip(starts, patch, shape, strict=True))

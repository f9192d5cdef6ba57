"""Polygons to pixels by the even-odd rule.

A pixel is inside where its centre is: a ray from the centre along its row crosses the polygons' edges an odd number of
times. Edges are half open. A centre that lies exactly on an edge belongs to the side of higher index, so that two
polygons with a common edge neither overlap nor leave a gap, and a rectangle from 1 to 4 covers the centres 1, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Window = tuple[slice, slice]

_CROSSINGS = 1 << 21
"""Crossings handled at once, which bounds memory for contours that run to and fro."""


def even_odd(polygons: Sequence[Points], shape: tuple[int, int]) -> tuple[Window, NDArray[np.bool_]]:
    """Fill polygons in a raster whose pixel centres have whole coordinates.

    Args:
        polygons: Each ``[n, 2]``, n at least 1: (x, y), closed by an edge from its last point to its first. Their areas
            are combined by exclusive disjunction; parts outside the raster are cut off.
        shape: Columns (along x) and rows (along y) of the raster.

    Returns:
        The window (x, y) that holds all inside pixels, and bool ``[x, y]`` of it; a view whose x runs fastest.
    """
    low, high = _edges(polygons)
    (first_x, last_x), (first_y, last_y) = (_range(low, high, axis, shape[axis]) for axis in (0, 1))
    width, height = last_x - first_x, last_y - first_y
    window = (slice(first_x, last_x), slice(first_y, last_y))
    # The additional column takes the crossings to the right of the window, which toggle nothing.
    toggles = np.zeros(height * (width + 1), np.uint8)
    if width and height:
        for y, x in _crossings(low, high, first_y, last_y):
            column = np.clip(np.ceil(x), first_x, last_x).astype(np.intp) - first_x
            places = (y - first_y) * (width + 1) + column
            toggles += np.bincount(places, minlength=len(toggles)).astype(np.uint8)
    # Sums of bytes wrap at 256, which is even.
    parity = np.cumsum(toggles.reshape(height, width + 1), axis=1, dtype=np.uint8) & 1
    return window, parity[:, :width].T.astype(bool)


def _edges(polygons: Sequence[Points]) -> tuple[Points, Points]:
    """Return both ends of all edges, the end of lower y first, so that an edge is one number from both its sides."""
    start = np.concatenate(polygons)
    end = np.concatenate([np.roll(p, -1, axis=0) for p in polygons])
    swap = ((end[:, 1] < start[:, 1]) | ((end[:, 1] == start[:, 1]) & (end[:, 0] < start[:, 0])))[:, None]
    return np.where(swap, end, start), np.where(swap, start, end)


def _range(low: Points, high: Points, axis: int, size: int) -> tuple[int, int]:
    first = min(low[:, axis].min(), high[:, axis].min())
    last = max(low[:, axis].max(), high[:, axis].max())
    begin = int(np.clip(np.ceil(first), 0, size))
    return begin, max(begin, int(np.clip(np.ceil(last), 0, size)))


def _crossings(low: Points, high: Points, first: int, last: int) -> Iterator[tuple[NDArray[np.intp], Points]]:
    """Yield the rows that edges cross, and where: an edge crosses the rows from its lower end up to its higher one."""
    begin = np.clip(np.ceil(low[:, 1]), first, last).astype(np.intp)
    end = np.clip(np.ceil(high[:, 1]), first, last).astype(np.intp)
    steep = end > begin
    low, high, begin, count = low[steep], high[steep], begin[steep], (end - begin)[steep]
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _CROSSINGS, side="right")))
        some = slice(start, stop)
        edge = np.repeat(np.arange(start, stop), count[some])
        y = begin[edge] + np.arange(len(edge)) - np.repeat(total[some] - count[some] - done, count[some])
        yield y, low[edge, 0] + (y - low[edge, 1]) * slope[edge]
        start = stop

"""Dividing groups so that every part has its size and, as nearly as can be, its share of every class.

The greedy order (rarest class first, to the part that lacks it most) follows iterative stratification: Sechidis,
Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011, applied to groups of cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SWAPPED = 500
_ROUNDS = 10
_ABSENT = 100.0

Features = NDArray[np.bool_]
"""``[G, F]``: whether a group has a class (or label, quantile, structure)."""


def sizes(total: int, shares: Sequence[float]) -> list[int]:
    """Return how many groups each part gets: as near to its share as whole numbers allow, at least one if any.

    Args:
        total: Number of groups, at least as many as there are parts with a share.
        shares: One per part, adding up to 1.
    """
    exact = np.array(shares) * total
    counts = np.floor(exact + 1e-9).astype(int)
    counts = np.maximum(counts, np.array(shares) > 0)
    while counts.sum() < total:
        counts[int(np.argmax(exact - counts))] += 1
    while counts.sum() > total:
        spare = np.where(counts > (np.array(shares) > 0), counts - exact, -np.inf)
        counts[int(np.argmax(spare))] -= 1
    return [int(c) for c in counts]


def assign(
    features: Features, fixed: Sequence[int | None], shares: Sequence[float], random: np.random.Generator
) -> list[int]:
    """Assign every group to a part.

    Args:
        features: What each group has.
        fixed: The part of groups that have one already; None for the others.
        shares: Share of each part, adding up to 1. Parts are in order of importance: the first has every class first.
        random: Decides between equals.

    Returns:
        The part of each group; fixed ones unchanged.
    """
    order = random.permutation(len(features))
    state = _State(features, fixed, shares)
    while state.open:
        feature = state.rarest()
        for group in order.tolist():
            if group in state.open and (feature is None or features[group, feature]):
                state.place(group, state.neediest(group, feature, random))
    free = [group for group in order.tolist() if fixed[group] is None]
    if len(free) <= _SWAPPED and features.shape[1]:
        _improve(features, state.parts, free, shares)
    return state.parts


def _improve(features: Features, parts: list[int], free: Sequence[int], shares: Sequence[float]) -> None:
    """Exchange groups between parts as long as that brings classes nearer to their shares."""
    values = features.astype(float)
    counts = np.stack([values[np.array(parts) == p].sum(axis=0) for p in range(len(shares))])
    for _ in range(_ROUNDS):
        changed = False
        for group in free:
            others = np.array([h for h in free if parts[h] != parts[group]])
            if not len(others):
                continue
            gains = _gains(values, counts, parts, group, others, shares)
            if gains.max() > 1e-9:
                other = int(others[int(np.argmax(gains))])
                step = values[other] - values[group]
                counts[parts[group]] += step
                counts[parts[other]] -= step
                parts[group], parts[other] = parts[other], parts[group]
                changed = True
        if not changed:
            return


def _gains(
    values: NDArray[np.float64],
    counts: NDArray[np.float64],
    parts: Sequence[int],
    group: int,
    others: NDArray[np.int_],
    shares: Sequence[float],
) -> NDArray[np.float64]:
    """Return by how much each exchange of ``group`` with one of ``others`` would lower the costs."""
    totals = counts.sum(axis=0)
    mine = parts[group]
    theirs = np.array(parts)[others]
    step = values[others] - values[group]
    share = np.array(shares)

    def cost(part: NDArray[np.int_], count: NDArray[np.float64]) -> NDArray[np.float64]:
        wanted = share[part][:, None] * totals
        # A class that a part lacks altogether weighs more than any unevenness, most of all in the first part.
        enough = np.where(part == 0, 1, (share > 0).sum())[:, None]
        absent = (count < 0.5) & (totals >= enough) & (wanted > 0)
        weight = np.where(part == 0, _ABSENT**2, _ABSENT)[:, None]
        return ((count - wanted) ** 2 / np.maximum(totals, 1) + absent * weight).sum(axis=1)

    own = np.full(len(others), mine)
    before = cost(own, np.broadcast_to(counts[mine], step.shape)) + cost(theirs, counts[theirs])
    after = cost(own, counts[mine] + step) + cost(theirs, counts[theirs] - step)
    return before - after


class _State:
    """Who is where so far, and what each part still lacks."""

    def __init__(self, features: Features, fixed: Sequence[int | None], shares: Sequence[float]) -> None:
        self.features = features
        self.open = {g for g, part in enumerate(fixed) if part is None}
        self.parts = [-1 if part is None else part for part in fixed]
        self.room = np.array(sizes(len(features), shares), float)
        self.lack = _wanted(features, shares)
        for group, part in enumerate(fixed):
            if part is not None:
                self._count(group, part)
        self._fit_room()

    def _fit_room(self) -> None:
        """Where fixed groups fill parts beyond their size, the new ones share what room is left."""
        self.room = np.maximum(self.room, 0)
        while self.room.sum() > len(self.open):
            self.room[int(np.argmax(self.room))] -= 1

    def rarest(self) -> int | None:
        """Return the feature that fewest of the open groups have, or None."""
        if not self.features.shape[1]:
            return None
        counts = self.features[sorted(self.open)].sum(axis=0)
        return int(np.argmin(np.where(counts > 0, counts, np.inf))) if counts.any() else None

    def neediest(self, group: int, feature: int | None, random: np.random.Generator) -> int:
        """Return the part with room that lacks the feature most, then all the group's features, then groups."""
        free = np.flatnonzero(self.room > 0)
        lacks = self.lack[free]
        first = np.zeros(len(free)) if feature is None else lacks[:, feature]
        second = lacks[:, self.features[group]].sum(axis=1)
        keys = np.lexsort((random.permutation(len(free)), -self.room[free], -second.round(9), -first.round(9)))
        return int(free[keys[0]])

    def place(self, group: int, part: int) -> None:
        """Put an open group into a part."""
        self.open.discard(group)
        self.parts[group] = part
        self._count(group, part)

    def _count(self, group: int, part: int) -> None:
        self.room[part] -= 1
        self.lack[part, self.features[group]] -= 1


def _wanted(features: Features, shares: Sequence[float]) -> NDArray[np.float64]:
    """Return how many groups with each feature each part should get: its share, but one at least where possible."""
    totals = features.sum(axis=0)
    wanted = np.outer(shares, totals).astype(float)
    parts = [p for p, share in enumerate(shares) if share > 0]
    for f, total in enumerate(totals):
        if total >= len(parts):
            wanted[parts, f] = np.maximum(wanted[parts, f], 1.0)
        if total:
            # The first part comes first, however few there are.
            wanted[0, f] = max(wanted[0, f], wanted[:, f].max() + 1e-3)
    return wanted

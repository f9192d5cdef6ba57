"""Class-balanced draws: every class as often as any other, its cases in turn, as a function of seed and position.

Class-aware sampling (Shen, Lin and Huang, "Relay backpropagation", ECCV 2016): the classes take turns, and within each
class its cases do. Nothing is drawn with replacement: a case comes again when all of its class have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.errors import ConfigError

Strata = tuple[tuple[int, ...], ...]
"""For each class that has any, the indices of its cases."""


def strata_of(cases: Sequence[Case], table: CaseTable) -> Strata:
    """Return which of the training cases are of which class.

    With several labels, a case is in the stratum of each label that is set; cases without any are a stratum of their
    own. Classes that no training case has are left out.

    Raises:
        ConfigError: If the targets are numbers or masks.
    """
    if table.kind not in ("class", "classes"):
        why = {
            "mask": "for masks the patches already are: about half are centred on a structure",
            "number": "numbers have no classes",
        }
        what = f"sampling cannot be balanced: {why.get(table.kind, 'the cases have no classes')}"
        raise ConfigError(what, where="training.sampling", mend="Use training.sampling=natural")
    found: list[list[int]] = [[] for _ in range(len(table.classes) + 1)]
    for n, case in enumerate(cases):
        for label in _labels_of(case):
            found[label].append(n)
    return tuple(tuple(stratum) for stratum in found if stratum)


def _labels_of(case: Case) -> list[int]:
    if isinstance(case.target, int):
        return [case.target]
    values = case.target if isinstance(case.target, tuple) else ()
    # The last stratum is of cases without a label.
    return [n for n, value in enumerate(values) if value == 1] or [-1]


class BalancedOrder:
    """An endless sequence of cases; any stretch of it can be looked at without the ones before.

    It comes in blocks of one case of each class, in an order of its own; the case of block *b* is the next of its
    class's current permutation. Over the whole run, two cases of a class differ by one draw at most.

    Args:
        strata: The cases of each class.
        seed: Seed of the run.
    """

    def __init__(self, strata: Strata, seed: int) -> None:
        if not strata or not all(strata):
            raise ValueError("every stratum needs a case")
        self.strata = strata
        self.seed = seed % 2**64

    def __getitem__(self, where: slice) -> list[int]:
        """Return the cases of the positions ``where.start`` to ``where.stop`` (exclusive)."""
        return [self._at(position) for position in range(where.start, where.stop)]

    def _at(self, position: int) -> int:
        block, place = divmod(position, len(self.strata))
        stratum = int(self._shuffled(len(self.strata), 0, block)[place])
        cases = self.strata[stratum]
        turn, index = divmod(block, len(cases))
        return cases[int(self._shuffled(len(cases), 1 + stratum, turn)[index])]

    def _shuffled(self, n: int, what: int, number: int) -> Sequence[int]:
        key = (n, what, number)
        if key not in self._recent:
            if len(self._recent) > 4 * len(self.strata) + 4:
                self._recent.clear()
            order = np.random.default_rng([self.seed, what, number]).permutation(n)
            self._recent[key] = tuple(int(i) for i in order)
        return self._recent[key]

    @cached_property
    def _recent(self) -> dict[tuple[int, int, int], tuple[int, ...]]:
        """Permutations in use; they are functions of their key."""
        return {}

"""A sequence that is fetched when it is looked at, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

ItemT = TypeVar("ItemT")


class Deferred(Sequence[ItemT]):
    """A sequence of known length whose items are elsewhere.

    It equals, and hashes and pickles as, the tuple of its items.

    Args:
        count: Its length.
        fetch: Returns all items; called again each time they are needed.
        first: The first item, where it is known: asking for it fetches nothing.
    """

    def __init__(self, count: int, fetch: Callable[[], Sequence[ItemT]], first: ItemT | None = None) -> None:
        self._count = count
        self._fetch = fetch
        self._first = first

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> ItemT: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[ItemT, ...]: ...

    def __getitem__(self, at: int | slice) -> ItemT | tuple[ItemT, ...]:
        if isinstance(at, slice):
            return tuple(self._fetch()[at])
        return self._first if at == 0 and self._first is not None else self._fetch()[at]

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self._fetch())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != self._count:
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{self._count} item(s)>"

    def __reduce__(self) -> tuple[type[tuple[ItemT, ...]], tuple[tuple[ItemT, ...]]]:
        return tuple, (tuple(self),)

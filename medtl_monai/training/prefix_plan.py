"""Whether frozen stages are computed once in a phase, which of them, and where their results are kept.

What is weighed: the time that the stages take, how often each image would go through them, how large their results are
(the pyramid levels that a decoder needs included), the memory and the disk that are free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, Self

Where = Literal["memory", "disk", "nowhere"]

GAIN = 0.05
"""Share of the frozen stages' time that must be saved for it to be worth the while."""

WORTH_KEEPING_S = 0.02
"""Features that took longer than this to compute are also kept on disk for later runs; writing takes milliseconds."""

_MEMORY_RATE, _DISK_RATE = 4e9, 5e8
_DISK_LATENCY_S = 5e-4
_MAX_KEPT = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What a backbone's stages cost, per image.

    Attributes:
        seconds: Time of each frozen stage.
        states: Bytes of the state behind each.
        taps: Bytes of the tap of each.
        shared: Whether its tap is its state.
        needed: Taps that the head looks at.
        stages: How many stages the backbone has.
        extra: Bytes beside the features: those of a mask.
    """

    seconds: tuple[float, ...]
    states: tuple[int, ...]
    taps: tuple[int, ...]
    shared: tuple[bool, ...]
    needed: frozenset[int]
    stages: int
    extra: int = 0

    def time(self, start: int) -> float:
        """Return the seconds of the first ``start`` stages."""
        return sum(self.seconds[:start])

    def size(self, start: int, *, half: bool = False) -> int:
        """Return the bytes of what is kept of an image to go on at stage ``start``."""
        kept = [tap for tap in self.needed if tap < start]
        total = sum(self.taps[tap] for tap in kept)
        if start < self.stages and not (self.shared[start - 1] and start - 1 in kept):
            total += self.states[start - 1]
        return (total // 2 if half else total) + self.extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uses:
    """How often features would be used.

    Attributes:
        epochs: Epochs of the phase that are left.
        train: Training items to compute (cases × views); 0 if they cannot be computed once.
        train_uses: Training items that go through the network in an epoch.
        val: Validation images; 0 if they cannot be computed once.
    """

    epochs: int
    train: int
    train_uses: int
    val: int

    @property
    def computed(self) -> int:
        """Items to compute."""
        return self.train + self.val

    @property
    def used(self) -> int:
        """How often an item would be computed online, altogether."""
        return self.epochs * ((self.train_uses if self.train else 0) + self.val)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes that features may take.

    Attributes:
        memory: In memory.
        disk: On disk; 0 without a cache.
    """

    memory: int
    disk: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What is done about the frozen stages of a phase; stored in the run.

    Attributes:
        boundary: How many leading stages are frozen.
        epoch: First epoch (from 0) for which it was decided.
        start: How many of them are computed once; 0 for none.
        where: Where their results are while training runs.
        kept: Whether they are on disk for later runs, too.
        train: Whether training items are computed once.
        val: Whether validation images are.
        bytes: Size of all results.
        saved_seconds: Estimate of the time that it saves.
        why: One sentence for the user.
    """

    boundary: int
    epoch: int
    start: int = 0
    where: Where = "nowhere"
    kept: bool = False
    train: bool = False
    val: bool = False
    bytes: int = 0
    saved_seconds: float = 0.0
    why: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read back what ``dataclasses.asdict`` gave."""
        return cls(**value)


def choose(
    measured: Measured, uses: Uses, room: Room, *, boundary: int, epoch: int, mode: str, half: bool = False
) -> Choice:
    """Decide what is done about the frozen stages of a phase.

    Args:
        measured: What the stages cost.
        uses: How often they would run.
        room: Where features may be kept.
        boundary: How many leading stages are frozen.
        epoch: The epoch that starts.
        mode: ``"auto"`` decides by the time saved; ``"memory"`` and ``"disk"`` take what fits there.
        half: Whether float32 is stored as bfloat16.
    """
    plain = Choice(boundary=boundary, epoch=epoch)
    options = list(_options(measured, uses, room, boundary=boundary, mode=mode, half=half))
    total = measured.time(boundary) * uses.used
    if not options:
        size = mebibytes(measured.size(boundary, half=half) * uses.computed)
        places = {"memory": ("memory",), "disk": ("disk",)}.get(mode, ("memory", "disk"))
        free = " and ".join(f"{mebibytes(getattr(room, place))} on {place}".replace("on m", "in m") for place in places)
        return dataclasses.replace(plain, why=f"their results take {size}, {free} are there for them")
    # Where it was asked for, as much as fits is computed once; otherwise what saves most.
    saved, start, where, size_bytes = max(options, key=lambda option: option[0] if mode == "auto" else option[1])
    if mode == "auto" and saved <= GAIN * total:
        return dataclasses.replace(plain, why="it would save no time")
    kept = where == "disk" or (
        mode == "auto" and measured.time(start) >= WORTH_KEEPING_S and size_bytes <= _MAX_KEPT * room.disk
    )
    return dataclasses.replace(
        plain,
        start=start,
        where=where,
        kept=kept,
        train=uses.train > 0,
        val=uses.val > 0,
        bytes=size_bytes,
        saved_seconds=round(saved, 3),
    )


def _options(
    measured: Measured, uses: Uses, room: Room, *, boundary: int, mode: str, half: bool
) -> Iterator[tuple[float, int, Where, int]]:
    """Yield (seconds saved, stages computed once, where, bytes) of all that fits."""
    places: tuple[tuple[Where, int], ...] = (("memory", room.memory), ("disk", room.disk))
    for where, free in places:
        if mode in ("memory", "disk") and where != mode:
            continue
        for start in range(1, boundary + 1):
            each = measured.size(start, half=half)
            total = each * uses.computed
            if total > free:
                continue
            read = each / _MEMORY_RATE if where == "memory" else each / _DISK_RATE + _DISK_LATENCY_S
            yield measured.time(start) * (uses.used - uses.computed) - read * uses.used, start, where, total


def mebibytes(size: float) -> str:
    """Return a size as text."""
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"

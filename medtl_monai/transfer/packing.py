"""Features sample by sample: taken apart as they lie in memory, and put together again in the very same layout.

The layout is part of exactness: sums over a channels-last tensor are added up in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medtl_monai.modules import Prefix

STATE = "state"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a batch of features lies in memory.

    Attributes:
        order: The axes from the outermost to the innermost; the batch is always the first.
        dtype: Its type, whatever type it is stored in.
    """

    order: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """Return the layout of a batch ``[B, …]``."""
        strides = tensor.stride()
        order = (0, *sorted(range(1, tensor.ndim), key=lambda axis: (-strides[axis], axis)))
        if not tensor.permute(order).is_contiguous():
            order = tuple(range(tensor.ndim))
        return cls(order=order, dtype=tensor.dtype)

    def split(self, tensor: Tensor, stored: torch.dtype | None = None) -> list[Tensor]:
        """Return each sample's copy, its axes in memory order."""
        samples = tensor.detach().permute(self.order).to(stored or self.dtype)
        return [sample.cpu().clone(memory_format=torch.contiguous_format) for sample in samples]

    def join(self, samples: Sequence[Tensor]) -> Tensor:
        """Return the batch of such samples."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return torch.stack(list(samples)).to(self.dtype).permute(back)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
    """What of the frozen stages' results is kept for each sample.

    Attributes:
        start: How many stages are computed once.
        taps: Which of their taps are kept.
        state: Whether the state behind them is kept beside the taps.
        shared: Whether that state is the last of the taps.
        bf16: Whether float32 is stored as bfloat16.
    """

    start: int
    taps: tuple[int, ...]
    state: bool
    shared: bool = False
    bf16: bool = False

    @classmethod
    def plan(cls, start: int, *, stages: int, needed: frozenset[int], shared: bool, bf16: bool = False) -> Packing:
        """Return what to keep so that a backbone of so many stages can go on at ``start``.

        Args:
            start: How many stages are computed once.
            stages: How many there are.
            needed: Taps that the head looks at.
            shared: Whether the tap of stage ``start - 1`` is its state.
            bf16: Whether to store float32 as bfloat16.
        """
        taps = tuple(sorted(tap for tap in needed if tap < start))
        goes_on = start < stages
        same = goes_on and shared and start - 1 in taps
        return cls(start=start, taps=taps, state=goes_on and not same, shared=same, bf16=bf16)

    @property
    def names(self) -> tuple[str, ...]:
        """What is kept of each sample."""
        return (*(f"tap{n}" for n in self.taps), *((STATE,) if self.state else ()))

    def stored(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type in which features of a type are stored."""
        return torch.bfloat16 if self.bf16 and dtype == torch.float32 else dtype

    def parts(self, prefix: Prefix) -> dict[str, Tensor]:
        """Return the tensors ``[B, …]`` to keep."""
        parts = {f"tap{n}": tap for n in self.taps if (tap := prefix.taps[n]) is not None}
        return parts | ({STATE: prefix.state} if self.state and prefix.state is not None else {})

    def split(self, prefix: Prefix, layouts: dict[str, Layout]) -> list[dict[str, Tensor]]:
        """Take a batch apart.

        Args:
            prefix: Results of ``start`` stages.
            layouts: Filled with the layout of each part that has none yet.

        Returns:
            Each sample's parts.
        """
        parts = self.parts(prefix)
        for name, tensor in parts.items():
            layouts.setdefault(name, Layout.of(tensor))
        split = {name: layouts[name].split(part, self.stored(part.dtype)) for name, part in parts.items()}
        count = len(next(iter(split.values())))
        return [{name: split[name][n] for name in self.names} for n in range(count)]

    def join(self, samples: Sequence[Mapping[str, Tensor]], layouts: Mapping[str, Layout]) -> Prefix:
        """Put samples together to a batch."""
        parts = {name: layouts[name].join([sample[name] for sample in samples]) for name in self.names}
        taps = tuple(parts.get(f"tap{n}") for n in range(self.start))
        state = taps[self.start - 1] if self.shared else parts.get(STATE)
        return Prefix(start=self.start, state=state, taps=taps)

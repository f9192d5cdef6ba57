"""Which of a backbone's taps a head looks at, found out by watching it; what stands for those it does not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, SupportsIndex, cast

import torch
from torch import Tensor

from medtl_monai.errors import RunError
from medtl_monai.modules import Batch, Head


class NotKept:
    """Stands for the tap of a frozen stage that was not kept. Whatever is done with it raises.

    Args:
        index: Which tap.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RunError(
            f"the head looks at tap {self._index}, which it did not before training",
            where="training.prefix_cache",
            mend="Train with --no-prefix-cache",
        )

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> NoReturn:
        found = [item for item in _flat((args, kwargs or {})) if isinstance(item, NotKept)]
        found[0]._refuse()

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __getitem__ = __iter__ = __len__ = _refuse
    __matmul__ = __rmatmul__ = __truediv__ = __neg__ = __bool__ = __float__ = _refuse


def not_kept(index: int) -> Tensor:
    """Return what stands for a tap; a tensor as far as types go."""
    return cast(Tensor, NotKept(index))


class _Watched(list[Tensor]):
    """Taps that note which of them are asked for."""

    def __init__(self, taps: Sequence[Tensor], seen: set[int]) -> None:
        super().__init__(taps)
        self._seen = seen

    def __getitem__(self, index: Any) -> Any:
        chosen = range(len(self))[index]
        self._seen.update(chosen if isinstance(index, slice) else [chosen])
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Tensor]:
        self._seen.update(range(len(self)))
        return super().__iter__()

    def __reversed__(self) -> Iterator[Tensor]:
        self._seen.update(range(len(self)))
        return super().__reversed__()

    def pop(self, index: SupportsIndex = -1) -> Tensor:
        self._seen.update(range(len(self)))
        return super().pop(index)

    def copy(self) -> list[Tensor]:
        self._seen.update(range(len(self)))
        return super().copy()


def needed_taps(head: Head, taps: Sequence[Tensor], batch: Batch) -> frozenset[int]:
    """Return the taps that a head looks at, in training or otherwise.

    The head is a copy: its statistics and the random state stay as they are. What slips past (a function in C that goes
    through the list by itself) shows when the head is run with :class:`NotKept` in the place of the others.

    Args:
        head: The head.
        taps: All taps of a batch.
        batch: The batch, with its images.
    """
    seen: set[int] = set()
    for training in (True, False):
        run_copy(head, lambda copied: copied(_Watched(taps, seen), batch), training=training)
    return frozenset(seen)


def run_copy(head: Head, function: Callable[[Head], Any], *, training: bool, seed: int = 0) -> Any:
    """Call a function on a copy of a head, in train or eval mode, from a fixed random state that is put back."""
    devices = sorted({p.device.index for p in head.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        return function(copy.deepcopy(head).train(training))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value

"""When checkpoints are written: after every epoch, unless little trains and epochs take less time than writing them.

An epoch that is made again is the same again, so nothing depends on which of them were written before a kill.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Collection
from typing import Any

from torch import Tensor

from medtl_monai.training.checkpoint import CheckpointStore, Progress

PATIENCE = 20.0
"""A checkpoint is put off until training has taken this many times as long as writing one."""

SMALL = 0.25
"""Only where at most this share of the model trains: the copy in memory stays small."""


@dataclasses.dataclass(kw_only=True)
class State:
    """What a checkpoint holds.

    Attributes:
        tensors: The model's tensors.
        optimizer: The optimizer's state.
        progress: The counters.
        metadata: Facts beside the tensors.
        extra: What else a resume needs.
    """

    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: Progress
    metadata: dict[str, str]
    extra: dict[str, Any]

    def frozen_copy(self, still: Collection[str]) -> State:
        """Return a copy that training does not change; tensors in ``still`` do not change anyway."""
        return dataclasses.replace(
            self,
            tensors={n: t.detach() if n in still else t.detach().clone() for n, t in self.tensors.items()},
            optimizer=copy.deepcopy(self.optimizer),
            progress=dataclasses.replace(self.progress),
            extra=copy.deepcopy(self.extra),
        )

    def share(self, still: Collection[str]) -> float:
        """Return the share of the tensors' values that are not in ``still``."""
        total = sum(tensor.numel() for tensor in self.tensors.values())
        return sum(t.numel() for n, t in self.tensors.items() if n not in still) / max(total, 1)


class Saver:
    """Writes checkpoints, and puts off those that follow each other too fast.

    While most of a model is frozen, what changes is a small copy in memory, and an epoch of a linear probe on stored
    features takes a fraction of the time that it takes to write the model.

    Args:
        store: Where they go.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._last: State | None = None
        self._best: State | None = None
        self._cost = 0.0
        self._written = float("-inf")

    def save(self, state: State) -> None:
        """Write a checkpoint now.

        Raises:
            StorageError: If the disk is full; the checkpoint before is intact.
        """
        self._last = self._best = None
        started = time.monotonic()
        self._store.save(
            state.tensors,
            optimizer=state.optimizer,
            progress=state.progress,
            metadata=state.metadata,
            extra=state.extra,
        )
        self._written = time.monotonic()
        self._cost = self._written - started

    def offer(self, state: State, *, still: Collection[str] = ()) -> None:
        """Write a checkpoint, or keep it in memory until :meth:`flush` if the last one was written just now.

        Args:
            state: The state at the end of an epoch.
            still: Tensors that no later step before :meth:`flush` or the next offer changes.

        Raises:
            StorageError: If the disk is full; the checkpoint before is intact.
        """
        best = state.progress.best_epoch == state.progress.epoch - 1
        if state.share(still) > SMALL or time.monotonic() - self._written >= PATIENCE * self._cost:
            if not best:
                self._flush_best()
            self.save(state)
            return
        self._last = state.frozen_copy(still)
        if best:
            # A later epoch may wake what is still now.
            self._best = self._last

    def thaw(self) -> None:
        """Say that what was still may change from now on."""
        one = self._best is self._last
        self._last = None if self._last is None else self._last.frozen_copy(())
        if one or self._best is None:
            self._best = self._last if one else None
        else:
            self._best = self._best.frozen_copy(())

    def flush(self) -> None:
        """Write what was put off.

        Raises:
            StorageError: If the disk is full; the checkpoint before is intact.
        """
        last = self._last
        if last is None:
            return
        if self._best is not last:
            self._flush_best()
        self.save(last)

    def _flush_best(self) -> None:
        if self._best is not None:
            self.save(self._best)

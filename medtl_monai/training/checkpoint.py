"""Checkpoints: a folder an epoch, complete or absent, and an index that says which is last and which is best.

``epoch-0007/model.safetensors`` holds the model's tensors and, in its header, what they are; ``trainer.pt`` holds the
optimizer and counters and is read with ``weights_only=True``. Random state is not stored: every draw is a function of
(seed, epoch, position), so an epoch that starts again starts the same.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from medtl_monai.errors import RunError
from medtl_monai.files import translate_os_errors, write_json

MODEL = "model.safetensors"
TRAINER = "trainer.pt"
INDEX = "index.json"


@dataclasses.dataclass
class Progress:
    """How far a run is: everything a resume needs beside the tensors.

    Attributes:
        epoch: Epochs finished.
        best_epoch: The epoch (from 0) of the best value, or None.
        best_value: Best value of the key metric so far, or None.
        best_loss: Validation loss of that epoch, which decides between equal values.
        stale: Validations since the last improvement, counted anew after each change of phase.
        plateaus: Plateau count that the freeze policy sees.
        flat: Validations since the last improvement, plateau or change of phase.
    """

    epoch: int = 0
    best_epoch: int | None = None
    best_value: float | None = None
    best_loss: float | None = None
    stale: int = 0
    plateaus: int = 0
    flat: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint folder holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    optimizer: dict[str, Any]
    extra: dict[str, Any]
    progress: Progress


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: ``RUN/checkpoints``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self,
        tensors: dict[str, Tensor],
        *,
        optimizer: dict[str, Any],
        progress: Progress,
        metadata: dict[str, str],
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint, make it the last one (and the best one if it is), and drop those no longer needed.

        Raises:
            StorageError: If the disk is full; the previous checkpoints stay as they were.
        """
        name = f"epoch-{progress.epoch:04d}"
        final, temporary = self.folder / name, self.folder / f".{name}.tmp"
        with translate_os_errors(final):
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir()
                contiguous = _separate(tensors)
                state = {"optimizer": optimizer, "progress": dataclasses.asdict(progress), "extra": extra or {}}
                buffer = io.BytesIO()
                torch.save(state, buffer)
                # Python writes the bytes, so that a full disk is an OSError and not each library's own story.
                _write(temporary / MODEL, serialize(contiguous, metadata))
                _write(temporary / TRAINER, buffer.getvalue())
                # The same epoch can be there from before a kill that came between rename and index.
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            index = self._index()
            index["last"] = name
            if progress.best_epoch == progress.epoch - 1:
                index["best"] = name
            write_json(self.folder / INDEX, index)
        self._drop_others(index)

    def load(self, which: str = "best") -> Checkpoint:
        """Read the ``"last"`` or ``"best"`` checkpoint (the last one where no best was chosen).

        Raises:
            RunError: If there is none or its files are damaged.
        """
        folder = self._choose(which)
        try:
            with safe_open(folder / MODEL, framework="pt") as file:
                metadata = dict(file.metadata() or {})
            tensors = load_file(folder / MODEL)
            state = torch.load(folder / TRAINER, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, pickle.UnpicklingError) as error:
            mend = "Restore the folder from a copy, or train again"
            raise RunError(f"checkpoint {folder.name} is damaged", where=self.folder.parent.name, mend=mend) from error
        return Checkpoint(tensors, metadata, state["optimizer"], state["extra"], Progress(**state["progress"]))

    def model_file(self, which: str = "best") -> Path:
        """Return the path of a checkpoint's tensors."""
        return self._choose(which) / MODEL

    def _choose(self, which: str) -> Path:
        index = self._index()
        name = index.get(which) or index.get("last")
        if name is None:
            raise RunError("there is no checkpoint yet", where=self.folder.parent.name, mend="Train for an epoch first")
        return self.folder / name

    def _index(self) -> dict[str, str]:
        try:
            value: dict[str, str] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return value

    def _drop_others(self, index: dict[str, str]) -> None:
        keep = set(index.values())
        for folder in self.folder.glob("epoch-*"):
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, each with memory of its own: safetensors refuses tied weights.

    What is so already is not copied: a large model needs no second place for its checkpoint.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu()
        storage = plain.untyped_storage()
        if not plain.is_contiguous() or storage.nbytes() != plain.nbytes or storage.data_ptr() in seen:
            plain = plain.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
        found[name] = plain
    return found


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

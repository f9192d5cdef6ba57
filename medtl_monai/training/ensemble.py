"""Several trained runs as one: each prepares an image for itself, and their predictions are averaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor

from medtl_monai.data.inputs import Inputs
from medtl_monai.dicom.geometry import Volume
from medtl_monai.errors import ConfigError, RunError
from medtl_monai.host import Host
from medtl_monai.modules import Prediction
from medtl_monai.specs import TargetInfo
from medtl_monai.training.averaging import PredictionMean
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.trained import TrainedRun

_MEMORY_SHARE = 0.5
"""Share of the free memory that the models of an ensemble may take; otherwise one is loaded at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint:
    """What an ensemble says of one case.

    Attributes:
        mean: The ensemble's prediction: a batch of one.
        members: Each member's own, in order; of masks without their probabilities.
    """

    mean: Prediction
    members: tuple[Prediction, ...]


class Ensemble:
    """Trained runs whose predictions are averaged; a single one predicts as it does by itself.

    Args:
        runs: At least one; it may load them when asked for, as :class:`LoadedRuns` does.

    Raises:
        RunError: If they do not predict the same: other targets, classes or images.
    """

    def __init__(self, runs: Sequence[TrainedRun]) -> None:
        if not runs:
            raise ValueError("an ensemble needs a member")
        self.runs = runs
        first = runs[0]
        self.inputs: Inputs = first.inputs
        self.target: TargetInfo = first.record.context.target
        self.names: tuple[str, ...] = tuple(run.folder.name for run in runs)
        self.epochs: tuple[int, ...] = tuple(run.epoch for run in runs)
        for run in runs if len(runs) > 1 else ():
            _check_alike(first, run)

    @property
    def head(self) -> str:
        """Name of the first member's head, for messages."""
        return self.runs[0].record.head

    def __len__(self) -> int:
        return len(self.runs)

    def predict(self, read: Callable[[TrainedRun], Volume], *, case_id: str) -> tuple[Volume, Joint]:
        """Predict one case with every member.

        Args:
            read: Reads the case's image as a member's training did; called once for members that read alike.
            case_id: Its pseudonym, for messages.

        Returns:
            The image as the first member reads it, and the predictions.

        Raises:
            DataError: If the image does not fit one of the runs.
            RunError: If a head gives nothing that can be averaged.
        """
        volumes: dict[str, Volume] = {}
        total = PredictionMean(self.target.kind, head=self.head)
        own: list[Prediction] = []
        for run in self.runs:
            how = repr((run.preprocessing.on_gap, run.preprocessing.units))
            if how not in volumes:
                volumes[how] = read(run)
            prediction = run.predict(volumes[how], case_id=case_id)
            if len(self.runs) == 1:
                return volumes[how], Joint(mean=prediction, members=(prediction,))
            total.add(prediction)
            own.append(_light(prediction))
        return next(iter(volumes.values())), Joint(mean=total.mean(), members=tuple(own))


class LoadedRuns(Sequence[TrainedRun]):
    """Runs that are loaded when they are first asked for, and stay where all fit in memory; otherwise one at a time.

    Args:
        paths: The run folders.
        host: Where backbones and heads come from.
        device: Where to compute.
        flips: Axes of test-time augmentation.
        share: Share of the free memory that all models may take.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        host: Host,
        *,
        device: str = "auto",
        flips: Sequence[int] = (),
        share: float = _MEMORY_SHARE,
    ) -> None:
        self.paths = tuple(paths)
        self._open: Callable[[Path], TrainedRun] = lambda path: TrainedRun(path, host, device=device, flips=flips)
        self._share = share
        self._kept: dict[int, TrainedRun] = {}
        self._most = 0
        """How many models are kept; 0 until the first one was measured."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> TrainedRun:  # type: ignore[override]
        """Return a run, loading it if it is not there."""
        if not 0 <= index < len(self.paths):
            raise IndexError(index)
        if index not in self._kept:
            if self._most and len(self._kept) >= self._most:
                self._kept.clear()
            run = self._open(self.paths[index])
            if not self._most:
                room = self._share * _free_bytes(run.device)
                self._most = len(self.paths) if _bytes_of(run) * len(self.paths) <= room else 1
            self._kept[index] = run
        return self._kept[index]

    def __iter__(self) -> Iterator[TrainedRun]:
        return (self[index] for index in range(len(self.paths)))


def allowed_flips(paths: Sequence[Path]) -> tuple[int, ...]:
    """Return the axes along which all runs were trained to be flipped.

    Raises:
        ConfigError: If there are none.
    """
    found: set[int] | None = None
    for path in paths:
        config = RunFolder.open(path).read_config().augmentation
        own = set(config.flip_axes) if config.enabled else set()
        found = own if found is None else found & own
    if not found:
        what = "the run was trained without flips (augmentation.flip_axes): to it, left and right may differ"
        raise ConfigError(what, where="--tta", mend="If mirror images mean the same here, name axes: --tta-axes 0,1")
    return tuple(sorted(found))


def _check_alike(first: TrainedRun, run: TrainedRun) -> None:
    for what, one, other in (
        ("target", _meaning(first), _meaning(run)),
        ("images of a case", first.inputs, run.inputs),
        ("treatment of gaps", first.preprocessing.on_gap, run.preprocessing.on_gap),
    ):
        if one != other:
            raise RunError(
                f"runs {first.folder.name} and {run.folder.name} cannot be averaged: they differ in their {what}",
                mend="Give runs that were trained on the same labels",
            )


def _meaning(run: TrainedRun) -> tuple[object, ...]:
    target = run.record.context.target
    return target.kind, target.columns, target.classes


def _light(prediction: Prediction) -> Prediction:
    """Return a mask's prediction without its probabilities, which are as large as the image for each structure."""
    return prediction if prediction.mask is None else Prediction(mask=prediction.mask)


def _bytes_of(run: TrainedRun) -> int:
    tensors: list[Tensor] = [*run.model.parameters(), *run.model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)

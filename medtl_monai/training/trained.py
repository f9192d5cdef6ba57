"""A trained model, opened from its run folder and applied to single images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtl_monai.data.inputs import Inputs
from medtl_monai.data.prepared import Prepared
from medtl_monai.data.preprocessing import Preprocessing
from medtl_monai.dicom.description import Description
from medtl_monai.dicom.geometry import Volume
from medtl_monai.errors import DataError, RunError
from medtl_monai.host import Host
from medtl_monai.modules import Batch, Prediction
from medtl_monai.training.assemble import build_model, choose_device
from medtl_monai.training.averaging import check_flips, over_flips
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.inference import BatchInferer
from medtl_monai.training.record import ModelRecord
from medtl_monai.transfer.model import TransferModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What the training images were, so that other images can be refused.

    Attributes:
        modalities: Their DICOM modalities.
        units: Their units.
        channels: Their number of channels.
    """

    modalities: tuple[str, ...]
    units: tuple[str, ...]
    channels: int

    def check(self, volume: Volume | Description, *, case_id: str) -> None:
        """Refuse an image that the model was not made for.

        An image whose modality is not known (NIfTI) can only be checked for what it does say.

        Raises:
            DataError: If modality, unit or channels differ from those of training.
        """
        mend = "Give images like those the run was trained on"
        if volume.channels != self.channels:
            raise DataError(
                f"it has {volume.channels} channels, the run {self.channels}", where=f"case {case_id}", mend=mend
            )
        for what, value, known in (
            ("Modality", volume.modality, self.modalities),
            ("unit", volume.unit if volume.unit != "any" else "", tuple(u for u in self.units if u != "any")),
        ):
            if value and known and all(known) and value not in known:
                text = f"its {what} is {value}, the run was trained on {' and '.join(known)}"
                raise DataError(text, where=f"case {case_id}", mend=mend)


class TrainedRun:
    """A run's model, ready to predict.

    Args:
        path: The run folder.
        host: Where backbone and head come from.
        device: Where to compute.
        which: ``"best"`` or ``"last"``.
        flips: Spatial axes for test-time augmentation: the mean over all combinations of flips along them is predicted.

    Raises:
        ConfigError: If a flip axis is none of the image's.
        RunError: If the run has no checkpoint or is damaged.
        PluginError: If a plugin it needs is not installed.
    """

    def __init__(
        self, path: Path, host: Host, *, device: str = "auto", which: str = "best", flips: Sequence[int] = ()
    ) -> None:
        self.folder = RunFolder.open(path)
        stored = self.folder.record
        if "model" not in stored:
            raise RunError("the run never started training", where=self.folder.name, mend="Train again")
        self.record = ModelRecord.from_json(stored["model"])
        images = stored["images"]
        self.seen = Seen(
            modalities=tuple(images["modalities"]), units=tuple(images["units"]), channels=images["channels"]
        )
        self.inputs = Inputs.of(self.folder.read_config().data)
        self.preprocessing = Preprocessing.from_json(self.record.preprocessing)
        check_flips(flips, self.preprocessing.spatial_dims)
        self.flips = tuple(flips)
        self.device = choose_device(device)
        checkpoint = CheckpointStore(self.folder.checkpoints).load(which)
        self.epoch = checkpoint.progress.epoch
        self.model = self._build(host, checkpoint.tensors)
        self._inferer = BatchInferer(self.preprocessing.patch_size)

    def _build(self, host: Host, tensors: dict[str, Tensor]) -> TransferModel:
        model = build_model(self.record, *self.record.choices(host), seed=0)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                "the checkpoint does not fit the network that its plugin builds today",
                where=self.folder.name,
                mend="Install the plugin version named in the run's plugins.json",
            ) from error
        return model.to(self.device).eval()

    @torch.inference_mode()
    def predict(self, volume: Volume, *, case_id: str) -> Prediction:
        """Predict one image.

        Args:
            volume: The image, as read.
            case_id: Its pseudonym, for messages.

        Returns:
            A batch of one on the CPU; masks and their probabilities on the image's own grid.

        Raises:
            DataError: If the image does not fit the run.
        """
        self.seen.check(volume, case_id=case_id)
        prediction = self._head_prediction(self.preprocessing.image(volume, where=f"case {case_id}"), case_id)
        if self.record.context.target.kind != "mask":
            return _map(prediction)
        return self._on_image_grid(prediction, volume)

    @torch.inference_mode()
    def predict_prepared(self, prepared: Prepared, *, case_id: str) -> Prediction:
        """Predict one image that was preprocessed before; for heads that give no mask.

        Args:
            prepared: The image, preprocessed as this run does it.
            case_id: Its pseudonym, for messages.

        Returns:
            A batch of one on the CPU: what :meth:`predict` gives for the image as read.

        Raises:
            DataError: If the image does not fit the run.
        """
        self.seen.check(prepared.original, case_id=case_id)
        return _map(self._head_prediction(prepared.cut()[0], case_id))

    def _head_prediction(self, image: Tensor, case_id: str) -> Prediction:
        if not self.flips:
            return self._one_prediction(image, case_id)
        kind = self.record.context.target.kind
        return over_flips(lambda i: self._one_prediction(i, case_id), image, self.flips, kind, head=self.record.head)

    def _one_prediction(self, image: Tensor, case_id: str) -> Prediction:
        batch = Batch(image=image[None].to(self.device), spatial_size=tuple(image.shape[1:]), case_ids=(case_id,))
        return self.model.head.predict(self._inferer(batch, self.model), batch)

    def _on_image_grid(self, prediction: Prediction, volume: Volume) -> Prediction:
        if prediction.probabilities is None:
            raise RunError("the head gives no probabilities", where=self.record.head, mend="Let it return them")
        restored = self.preprocessing.restore(prediction.probabilities[0].float().cpu(), volume)
        mask = np.argmax(restored, axis=0).astype(np.int16)
        return Prediction(probabilities=torch.from_numpy(restored)[None], mask=torch.from_numpy(mask)[None])


def _map(prediction: Prediction) -> Prediction:
    tensors: dict[str, Any] = {
        f.name: value.detach().float().cpu()
        for f in dataclasses.fields(prediction)
        if (value := getattr(prediction, f.name)) is not None
    }
    return Prediction(**tensors)


def concatenate(predictions: Iterable[Prediction]) -> Prediction:
    """Join the predictions of several cases along the batch axis."""
    items = list(predictions)
    joined: dict[str, Any] = {
        f.name: torch.cat([getattr(p, f.name) for p in items])
        for f in dataclasses.fields(Prediction)
        if items and getattr(items[0], f.name) is not None
    }
    return Prediction(**joined)

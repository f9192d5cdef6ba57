"""Trying out on one batch what frozen stages cost, and whether the head can do with their results alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medtl_monai.data.cache.key import versions
from medtl_monai.errors import MedtlError
from medtl_monai.modules import Batch, Head
from medtl_monai.training.prefix_plan import Measured
from medtl_monai.training.tuning import Tuning
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.packing import Layout, Packing
from medtl_monai.transfer.taps import needed_taps, not_kept, run_copy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """What one batch told.

    Attributes:
        measured: What the stages cost.
        layouts: How the state and the tap of each frozen stage lie in memory.
        objection: Why features alone will not do for the head; empty if they will.
    """

    measured: Measured
    layouts: tuple[tuple[Layout, Layout], ...]
    objection: str

    def layouts_of(self, packing: Packing) -> dict[str, Layout]:
        """Return the layout of each part that is kept."""
        found = {f"tap{n}": self.layouts[n][1] for n in packing.taps}
        return found | ({"state": self.layouts[packing.start - 1][0]} if packing.state else {})


def probe_prefix(model: TransferModel, batch: Batch) -> Probe:
    """Run a training batch stage by stage; the model, its statistics and the random state stay as they are.

    Args:
        model: The model, with the rules of the phase in force.
        batch: On the model's device, in its memory format, with targets.
    """
    boundary, count = model.frozen_prefix, len(batch.image)
    training = model.training
    model.eval()
    try:
        seconds, states, taps = _stages(model, batch)
        with torch.inference_mode(), model.autocast(batch.device):
            needed = needed_taps(model.head, taps, batch)
            objection = _objection(model.head, taps, batch, needed, boundary)
    finally:
        model.train(training)
    masks = batch.target is not None and batch.target.shape[1:] == batch.image.shape[2:]
    measured = Measured(
        seconds=tuple(s / count for s in seconds[:boundary]),
        states=tuple(_bytes(t) // count for t in states[:boundary]),
        taps=tuple(_bytes(t) // count for t in taps[:boundary]),
        shared=tuple(tap is state for tap, state in zip(taps, states, strict=True))[:boundary],
        needed=needed,
        stages=len(states),
        extra=2 * batch.image[0, 0].numel() if masks else 0,
    )
    pairs = list(zip(states, taps, strict=True))[:boundary]
    return Probe(
        measured=measured,
        layouts=tuple((Layout.of(state), Layout.of(tap)) for state, tap in pairs),
        objection=objection,
    )


def made_from(
    model: TransferModel, packing: Packing, layouts: Mapping[str, Layout], tuning: Tuning, sample: Batch
) -> str:
    """Return a text that is equal only where equal voxels give equal features.

    Beside weights and settings it holds what the stages answer to a fixed noise image, so that changed code of a
    network is noticed wherever it is.

    Args:
        model: The model.
        packing: What is kept.
        layouts: How it lies in memory.
        tuning: Arithmetic and memory format.
        sample: A batch as the model sees it.
    """
    device = sample.device
    everything: dict[str, Any] = {
        "weights": _weights(model, packing.start),
        "answer": _answer(model, packing, sample),
        "packing": dataclasses.asdict(packing),
        "layouts": {name: [each.order, str(each.dtype)] for name, each in layouts.items()},
        "arithmetic": [tuning.precision, tuning.channels_last, list(tuning.fp32_layers), torch.get_num_threads()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "versions": versions(),
    }
    return json.dumps(everything, sort_keys=True)


def _stages(model: TransferModel, batch: Batch) -> tuple[list[float], list[Tensor], list[Tensor]]:
    seconds, states, taps = [], [], []
    state = batch.image
    with torch.inference_mode(), model.autocast(batch.device):
        for number in range(len(model.backbone.stages)):
            started = time.perf_counter()
            state, (tap,) = model.backbone.run(state, number, number + 1)
            if state.is_cuda:
                torch.cuda.synchronize(state.device)
            seconds.append(time.perf_counter() - started)
            states.append(state)
            taps.append(tap)
    return seconds, states, taps


def _objection(head: Head, taps: Sequence[Tensor], batch: Batch, needed: frozenset[int], boundary: int) -> str:
    """Say why a head cannot do without images and the other taps of frozen stages."""
    light = dataclasses.replace(batch, image=torch.empty_like(batch.image, device="meta"))
    given = [tap if n in needed or n >= boundary else not_kept(n) for n, tap in enumerate(taps)]

    for training in (True, False):
        expected = run_copy(head, lambda copied: _outcome(copied, taps, batch), training=training)
        try:
            found = run_copy(head, lambda copied: _outcome(copied, given, light), training=training)
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, MedtlError) as error:
            return f"the head needs the image itself ({type(error).__name__})"
        if not all(map(_same, expected, found)):
            return "the head gives another result without the image"
    return ""


def _outcome(head: Head, taps: Sequence[Tensor], batch: Batch) -> list[Tensor | None]:
    output = head(list(taps), batch)
    prediction = head.predict(output, batch)
    return [output, head.loss(output, batch), *(getattr(prediction, f.name) for f in dataclasses.fields(prediction))]


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.device == b.device and torch.equal(a.nan_to_num(), b.nan_to_num())


def _weights(model: TransferModel, stop: int) -> str:
    digest = hashlib.sha256()
    for stage, module in list(model.backbone.stages.items())[:stop]:
        for name, tensor in module.state_dict().items():
            digest.update(f"\0{stage}.{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            digest.update(_raw(tensor))
    return digest.hexdigest()


def _answer(model: TransferModel, packing: Packing, sample: Batch) -> str:
    shape = sample.image[:1].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    image = torch.empty_like(sample.image[:1]).copy_(noise)
    prefix = model.prefix(Batch(image=image, spatial_size=tuple(shape[2:])), packing.start, packing.taps)
    digest = hashlib.sha256()
    for name, part in packing.parts(prefix).items():
        digest.update(f"\0{name} {part.dtype} {tuple(part.shape)}\0".encode())
        digest.update(_raw(part))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().flatten()
    return plain.view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

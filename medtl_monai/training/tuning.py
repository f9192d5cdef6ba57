"""Choosing memory format and precision by measuring a few steps, before training and without touching the model.

bfloat16 on a CPU is only ever chosen after each convolution's and linear layer's weight gradient was compared with
float32 at the run's own shapes: torch 2.13 with oneDNN returns garbage for some 3D shapes on processors with native
bf16. Layers that fail are kept in float32, and the run says which.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medtl_monai.config import TrainingConfig
from medtl_monai.modules import Batch
from medtl_monai.transfer.model import TransferModel

TOLERANCE = 0.05
"""Largest relative error of a weight gradient in bf16; rounding alone gives about 0.003."""

_GAIN = 0.95
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the forward pass is computed. Stored in the run and reused on resume.

    Attributes:
        precision: fp32 or bf16.
        channels_last: Whether images and kernels are stored channels-last.
        fp32_layers: Layers kept in float32 under bf16 because their gradient was wrong.
        threads: CPU threads.
        milliseconds: Median step time of each variant that was measured.
    """

    precision: str = "fp32"
    channels_last: bool = False
    fp32_layers: tuple[str, ...] = ()
    threads: int = 1
    milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Tuning:
        """Read back what :meth:`to_json` returned."""
        return cls(**{**value, "fp32_layers": tuple(value["fp32_layers"])})


def tune(model: TransferModel, batch: Batch, config: TrainingConfig) -> Tuning:
    """Choose memory format and precision for this model at this batch's shapes.

    What the configuration fixes is not probed. The model, its statistics and the random state stay untouched.

    Args:
        model: The assembled model, on ``device``.
        batch: A training batch, on ``device``.
        config: The training section.
    """
    threads = torch.get_num_threads()
    formats = [False, True] if config.channels_last == "auto" else [config.channels_last]
    fixed = Tuning(
        precision="bf16" if config.precision == "bf16" else "fp32",
        channels_last=formats[0] if len(formats) == 1 else False,
        threads=threads,
    )
    if fixed.precision == "bf16":
        fixed = dataclasses.replace(fixed, fp32_layers=unsafe_layers(model, batch, fixed.channels_last))
    if not config.tune or (len(formats) == 1 and config.precision != "auto"):
        return fixed
    times: dict[str, float] = {}
    best = dataclasses.replace(fixed, channels_last=formats[0])
    for channels_last in formats:
        for candidate in _candidates(model, batch, config, channels_last=channels_last, threads=threads):
            name = f"{candidate.precision}{' channels-last' if channels_last else ''}"
            times[name] = 1000 * step_seconds(model, batch, candidate)
            current = f"{best.precision}{' channels-last' if best.channels_last else ''}"
            # A change must pay: noise alone should not move the run away from plain float32.
            if name != current and times[name] < _GAIN * times[current]:
                best = candidate
    return dataclasses.replace(best, milliseconds={k: round(v, 2) for k, v in times.items()})


def apply_format(module: nn.Module, channels_last: bool, spatial_dims: int) -> None:
    """Store the convolution kernels in the chosen memory format, in place."""
    if channels_last:
        memory_format = torch.channels_last_3d if spatial_dims == 3 else torch.channels_last
        for parameter in module.parameters():
            if parameter.dim() == spatial_dims + 2:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)


def format_batch(batch: Batch, channels_last: bool) -> Batch:
    """Return the batch with its image in the chosen memory format."""
    if not channels_last:
        return batch
    memory_format = torch.channels_last_3d if batch.image.dim() == 5 else torch.channels_last
    return dataclasses.replace(batch, image=batch.image.contiguous(memory_format=memory_format))


def step_seconds(model: TransferModel, batch: Batch, tuning: Tuning, *, repeats: int = 3) -> float:
    """Measure the median time of a forward and backward pass on a copy of the model."""
    with _scratch(model, tuning, batch) as (probe, formatted):
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            loss = probe.head.loss(probe(formatted), formatted)
            if loss.requires_grad:
                loss.backward()
            if batch.image.is_cuda:
                torch.cuda.synchronize(batch.image.device)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:])


def activation_bytes(model: TransferModel, batch: Batch) -> int:
    """Measure the bytes that autograd keeps for one training step."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with (
        _scratch(model, Tuning(), batch) as (probe, formatted),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        probe.head.loss(probe(formatted), formatted)
    weights = {p.data_ptr() for p in model.parameters()}
    return sum(size for pointer, size in held.items() if pointer not in weights)


def unsafe_layers(model: TransferModel, batch: Batch, channels_last: bool) -> tuple[str, ...]:
    """Name the layers whose bf16 weight gradient differs from float32 by more than :data:`TOLERANCE`.

    Each layer is run alone on the input that it saw in a float32 step, so that rounding in other layers does not count,
    and on a random output gradient: in a real one, cancellation can make rounding look like a fault.
    """
    seen: dict[str, Tensor] = {}
    with _scratch(model, Tuning(channels_last=channels_last), batch) as (probe, formatted):
        layers = {name: m for name, m in probe.named_modules() if isinstance(m, _LAYERS)}
        for name, layer in layers.items():
            # Frozen layers as well: they may train in a later phase.
            layer.requires_grad_(True)
            layer.register_forward_pre_hook(_recorder(name, seen))
        with torch.no_grad():
            probe.head(probe.backbone(formatted.image), formatted)
        return tuple(name for name, x in seen.items() if _gradient_error(layers[name], x) > TOLERANCE)


def keep_fp32(model: nn.Module, names: tuple[str, ...]) -> None:
    """Make the named layers compute in float32 inside an autocast region."""
    for name in names:
        layer = model.get_submodule(name)
        # A bound method, not a closure: a deep copy of the model then gets its own.
        layer.forward = types.MethodType(_float32_forward, layer)


def _float32_forward(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        output: Tensor = type(layer).forward(layer, x.float())
    return output


def _candidates(
    model: TransferModel, batch: Batch, config: TrainingConfig, *, channels_last: bool, threads: int
) -> Iterator[Tuning]:
    precisions = ("fp32", "bf16") if config.precision == "auto" else (config.precision,)
    for precision in precisions:
        if precision == "fp32":
            yield Tuning(channels_last=channels_last, threads=threads)
        elif config.precision == "bf16" or has_bf16(batch.image.device):
            layers = unsafe_layers(model, batch, channels_last)
            yield Tuning(precision="bf16", channels_last=channels_last, fp32_layers=layers, threads=threads)


def has_bf16(device: torch.device) -> bool:
    """Say whether the device computes bf16 natively; emulation is never faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def _scratch(model: TransferModel, tuning: Tuning, batch: Batch) -> Iterator[tuple[TransferModel, Batch]]:
    """Yield a copy of the model set up as ``tuning`` says; random state and trial statistics are thrown away."""
    devices = [batch.image.device.index] if batch.image.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        probe = copy.deepcopy(model)
        apply_format(probe, tuning.channels_last, batch.image.dim() - 2)
        probe.precision = tuning.precision
        keep_fp32(probe, tuning.fp32_layers)
        probe.train()
        yield probe, format_batch(batch, tuning.channels_last)


def _recorder(name: str, seen: dict[str, Tensor]) -> Callable[..., None]:
    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name] = args[0].detach()

    return before


def _gradient_error(layer: nn.Module, x: Tensor) -> float:
    weight = layer.get_parameter("weight")
    gradients: list[Tensor] = []
    grad: Tensor | None = None
    for enabled in (False, True):
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=enabled):
            output = layer(x)
        grad = torch.randn_like(output) if grad is None else grad
        gradients.append(torch.autograd.grad(output, weight, grad.to(output.dtype))[0].float())
    reference = gradients[0].norm()
    if reference == 0:
        return 0.0
    error = float((gradients[1] - gradients[0]).norm() / reference)
    return error if math.isfinite(error) else math.inf

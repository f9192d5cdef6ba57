"""Choosing threads, memory format, precision and loading processes by measuring a few steps before training.

The batch is never changed, and neither is the model: the probe works on copies. bfloat16 on a CPU is only ever chosen
after each convolution's and linear layer's weight gradient was compared with float32 at the run's own shapes: torch
2.13 with oneDNN returns garbage for some 3D shapes on processors with native bf16. Layers that fail are kept in
float32, and the run says which.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medtl_monai.config import TrainingConfig
from medtl_monai.modules import Batch
from medtl_monai.training import capacity
from medtl_monai.transfer.model import TransferModel

TOLERANCE = 0.05
"""Largest relative error of a weight gradient in bf16; rounding alone gives about 0.003."""

PROBE_SECONDS = 30.0
"""Longest time of the probe. A variant that has begun is finished."""

PROBE_SHARE = 0.05
"""Largest share of the run's expected time that the probe may take: a short run is not worth one."""

_SLOW_STEP = 0.5
_REPEATS = 3
_LEAST_STEPS = 2 * (_REPEATS + 1)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """How steps are computed and batches loaded. Stored in the run and reused on resume.

    Attributes:
        precision: fp32 or bf16.
        channels_last: Whether images and kernels are stored channels-last.
        fp32_layers: Layers kept in float32 under bf16 because their gradient was wrong.
        threads: CPU threads.
        workers: Data-loading processes.
        milliseconds: Median step time of each variant that was measured, and that of loading a batch (``data``).
        skipped: Why nothing, or not everything, was measured; empty where all was.
    """

    precision: str = "fp32"
    channels_last: bool = False
    fp32_layers: tuple[str, ...] = ()
    threads: int = 1
    workers: int = 0
    milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: str = ""

    @property
    def name(self) -> str:
        """What a variant of memory format and precision is called in :attr:`milliseconds`."""
        return f"{self.precision}{' channels-last' if self.channels_last else ''}"

    @property
    def summary(self) -> str:
        """What was chosen, in words."""
        threads = _threads_name(self.threads)
        workers = "1 worker" if self.workers == 1 else f"{self.workers or 'no'} workers"
        return f"{self.name}, {threads}, {workers}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Tuning:
        """Read back what :meth:`to_json` returned."""
        return cls(**{**value, "fp32_layers": tuple(value["fp32_layers"])})


def tune(
    model: TransferModel,
    batch: Batch,
    config: TrainingConfig,
    *,
    steps: int | None = None,
    load: Callable[[], object] | None = None,
    one_size: bool = True,
) -> Tuning:
    """Choose threads, memory format, precision and loading processes for this model at this batch's shapes.

    What the configuration fixes is not probed. The model, its statistics, the random state and torch's thread count
    stay untouched.

    Args:
        model: The assembled model, on ``device``.
        batch: A training batch, on ``device``.
        config: The training section.
        steps: Optimizer steps of the run, by which the probe is kept short; None for a run that is long enough.
        load: Loads one batch as training will; None where there is nothing to load.
        one_size: Whether all batches have this batch's size. Where they do not, bf16 is not chosen on a CPU: its
            gradients are wrong at some sizes, and only this one can be checked.
    """
    fixed = _fixed(model, batch, config)
    open_threads = config.threads is None and batch.image.device.type == "cpu" and torch.get_num_threads() > 1
    open_formats = config.channels_last == "auto" or config.precision == "auto"
    open_workers = config.workers == "auto" and load is not None and capacity.cores() > 1
    if not config.tune or not (open_threads or open_formats or open_workers):
        return fixed
    probe = _Probe(model, batch, config, steps, one_size)
    if probe.too_short:
        return dataclasses.replace(fixed, skipped=f"the run is too short to measure variants ({steps} steps)")
    seconds = {fixed.threads: probe.baseline}
    if open_threads:
        seconds = probe.threads(fixed)
    chosen = dataclasses.replace(fixed, threads=capacity.fewest(seconds, fixed.threads))
    if open_formats:
        with capacity.threads(chosen.threads):
            chosen = probe.formats(chosen, seconds[chosen.threads])
    if open_workers and load is not None:
        chosen = probe.workers(chosen, seconds, load)
    times = {name: round(1000 * value, 2) for name, value in probe.seconds.items()}
    return dataclasses.replace(chosen, milliseconds=times, skipped=probe.skipped)


def _fixed(model: TransferModel, batch: Batch, config: TrainingConfig) -> Tuning:
    """Return what holds without measuring: what the configuration says, and the defaults."""
    fixed = Tuning(
        precision="bf16" if config.precision == "bf16" else "fp32",
        channels_last=config.channels_last is True,
        threads=torch.get_num_threads(),
        workers=config.workers if config.workers != "auto" else 0,
    )
    if fixed.precision == "bf16":
        return dataclasses.replace(fixed, fp32_layers=unsafe_layers(model, batch, fixed.channels_last))
    return fixed


class _Probe:
    """Measures variants of a step, within a bounded time.

    Attributes:
        baseline: Seconds of one float32 step as things are.
        seconds: What was measured, by name.
        skipped: What there was no time for.
    """

    def __init__(
        self, model: TransferModel, batch: Batch, config: TrainingConfig, steps: int | None, one_size: bool
    ) -> None:
        self.model, self.batch, self.config = model, batch, config
        device = batch.image.device
        self._bf16 = has_bf16(device) and (one_size or device.type != "cpu")
        started = time.perf_counter()
        self.baseline = step_seconds(model, batch, Tuning(channels_last=config.channels_last is True), repeats=1)
        self.seconds: dict[str, float] = {}
        self.skipped = ""
        share = math.inf if steps is None else PROBE_SHARE * steps * self.baseline
        # Seconds average out what disturbs milliseconds.
        self._slow = self.baseline > _SLOW_STEP
        self._repeats = 1 if self._slow else _REPEATS
        self.too_short = share < _LEAST_STEPS * self.baseline
        self._end = started + min(PROBE_SECONDS, share)

    def threads(self, start: Tuning) -> dict[int, float]:
        """Return the time of a step for each thread count."""
        candidates = capacity.thread_candidates(start.threads)
        # Half of the time, so that the formats get their turn.
        budget = (self._end - time.perf_counter()) / 2
        with _scratch(self.model, Tuning(channels_last=start.channels_last), self.batch) as (probe, formatted):
            found = capacity.thread_seconds(
                lambda: _step(probe, formatted), candidates, repeats=self._repeats, seconds=budget
            )
        self.seconds |= {_threads_name(n): seconds for n, seconds in found.items()}
        return found

    def formats(self, start: Tuning, known: float) -> Tuning:
        """Return ``start`` with the memory format and precision that are clearly fastest.

        Args:
            start: What the others are compared with.
            known: Seconds of its step in float32, as far as they are known; measured again where that is quick.
        """
        best = start
        if self._slow and start.precision == "fp32":
            self.seconds[start.name] = known
        for variant in _variants(self.config, start, bf16=self._bf16):
            if best.name in self.seconds and variant.name not in self.seconds and time.perf_counter() > self._end:
                self.skipped = f"no time was left to measure {variant.name}"
                break
            candidate = self._checked(variant)
            if candidate.name not in self.seconds:
                self.seconds[candidate.name] = step_seconds(self.model, self.batch, candidate, repeats=self._repeats)
            # A change must pay: noise alone should not move the run away from plain float32.
            if candidate.name == best.name or self.seconds[candidate.name] < capacity.GAIN * self.seconds[best.name]:
                best = candidate
        return best

    def _checked(self, variant: Tuning) -> Tuning:
        if variant.precision != "bf16":
            return variant
        return dataclasses.replace(variant, fp32_layers=unsafe_layers(self.model, self.batch, variant.channels_last))

    def workers(self, chosen: Tuning, by_threads: Mapping[int, float], load: Callable[[], object]) -> Tuning:
        """Return ``chosen`` with as many loading processes as pay."""
        with capacity.threads(1):  # as a loading process has it
            load()
            data = statistics.median(_timed(load) for _ in range(_REPEATS))
        self.seconds["data"] = data
        # Thread counts were measured in float32: the format's gain is taken to be the same for all of them.
        gain = self.seconds.get(chosen.name, by_threads[chosen.threads]) / by_threads[chosen.threads]
        threads, workers = capacity.plan_workers(
            {n: gain * seconds for n, seconds in by_threads.items()},
            data,
            threads=chosen.threads,
            limit=capacity.cores(),
            apart=self.batch.image.device.type != "cpu",
        )
        return dataclasses.replace(chosen, threads=threads, workers=workers)


def _threads_name(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


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


def step_seconds(model: TransferModel, batch: Batch, tuning: Tuning, *, repeats: int = _REPEATS) -> float:
    """Measure the median time of a forward and backward pass on a copy of the model."""
    with _scratch(model, tuning, batch) as (probe, formatted):
        return statistics.median([_timed(lambda: _step(probe, formatted)) for _ in range(repeats + 1)][1:])


def _step(model: TransferModel, batch: Batch) -> None:
    loss = model.head.loss(model(batch), batch)
    if loss.requires_grad:
        loss.backward()
    if batch.image.is_cuda:
        torch.cuda.synchronize(batch.image.device)


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


def _variants(config: TrainingConfig, start: Tuning, *, bf16: bool) -> Iterator[Tuning]:
    """Yield the variants that the configuration leaves open, ``start`` first."""
    formats = (False, True) if config.channels_last == "auto" else (config.channels_last,)
    precisions = (("fp32", "bf16") if bf16 else ("fp32",)) if config.precision == "auto" else (config.precision,)
    for channels_last in formats:
        for precision in precisions:
            yield dataclasses.replace(start, precision=precision, channels_last=channels_last, fp32_layers=())


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

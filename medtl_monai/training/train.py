"""Training a run from its configuration, and taking up one that was interrupted."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from medtl_monai import __version__
from medtl_monai.config import RunConfig
from medtl_monai.data.cases import HELD_OUT, PARTS
from medtl_monai.data.identity import fingerprint, load_key
from medtl_monai.data.loader import EpochSampler
from medtl_monai.errors import ConfigError, MedtlError
from medtl_monai.files import write_json, write_text
from medtl_monai.host import Host
from medtl_monai.training.assemble import Assembly, assemble, reassemble
from medtl_monai.training.datasets import Datasets, load_datasets
from medtl_monai.training.fit import Fit, Outcome
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.places import locate, remember, used
from medtl_monai.training.prefix import PrefixPlanner, plan_phases
from medtl_monai.training.prefix_plan import Choice
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.tuning import Tuning, activation_bytes, step_seconds, tune

_PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "pydicom", "nibabel", "highdicom", "safetensors", "pluggy")


def train(config: RunConfig, host: Host, reporter: Reporter) -> tuple[RunFolder, Outcome]:
    """Train a new run.

    Args:
        config: The configuration; ``out`` names the run folder.
        host: The plugins.
        reporter: Who is told.

    Returns:
        The run folder and how it ended.

    Raises:
        MedtlError: If anything does not fit; nothing is written before everything was found to fit.
    """
    if config.out is None:
        raise ConfigError("no run folder is named", where="out", mend="Say where: --out runs/my-run")
    if config.training.seeds:
        what = "a single run has a single seed"
        raise ConfigError(what, where="training.seeds", mend="Use training.seed, or 'medtl train --seeds'")
    with _torch_settings(config):
        RunFolder.check_free(config.out)
        assembly = assemble(config, host, reporter)
        datasets = load_datasets(assembly, reporter)
        folder = RunFolder.create(config.out)
        write_start(folder, assembly)
        tuning = choose_tuning(assembly, datasets, reporter)
        torch.set_num_threads(tuning.threads)
        write_json(folder.path / "tuning.json", tuning.to_json())
        fit = Fit(assembly, datasets, folder, tuning, reporter)
        fit.save()
        return folder, _run(fit, folder)


def resume(path: Path, host: Host, reporter: Reporter, *, config: RunConfig | None = None) -> tuple[RunFolder, Outcome]:
    """Go on with an interrupted run; it ends as it would have ended without the interruption.

    Args:
        path: The run folder.
        host: The plugins.
        reporter: Who is told.
        config: The stored configuration with other places for the data, where it has moved.

    Raises:
        RunError: If the run is damaged, or its data or plugins are no longer the same.
    """
    folder = RunFolder.open(path)
    config = config or locate(folder)
    tuning = Tuning.from_json(folder.read_json("tuning.json"))
    with _torch_settings(config, threads=tuning.threads):
        assembly = reassemble(folder, config, host)
        fit = Fit(assembly, load_datasets(assembly, reporter), folder, tuning, reporter)
        fit.resume()
        return folder, _run(fit, folder)


def _run(fit: Fit, folder: RunFolder) -> Outcome:
    started = time.perf_counter()
    before = folder.record.get("seconds", 0.0)
    folder.update(status="running", key_metric=fit.key, mode=fit.metrics[fit.key].mode)
    try:
        outcome = fit.run()
    except KeyboardInterrupt:
        folder.update(status="interrupted", seconds=before + time.perf_counter() - started)
        raise
    except MedtlError:
        _try_update(folder, status="failed")
        raise
    folder.update(
        status="finished",
        seconds=round(before + time.perf_counter() - started, 1),
        epochs=outcome.epochs,
        best_epoch=outcome.best_epoch,
        best_value=outcome.best_value,
        stopped_early=outcome.stopped_early,
    )
    return outcome


def _try_update(folder: RunFolder, **values: Any) -> None:
    # On a full disk the status cannot be written either; the first error is the one to report.
    try:
        folder.update(**values)
    except MedtlError:
        return


def write_start(folder: RunFolder, assembly: Assembly) -> None:
    """Store everything that is known before the first step."""
    data = assembly.data
    folder.write_config(assembly.config)
    data.splits.write(folder.splits_file)
    assembly.schedule.write(folder.path / "policy.csv")
    chosen = [assembly.parts.backbone, assembly.parts.head, *(assembly.policy.choices if assembly.policy else ())]
    write_json(folder.path / "plugins.json", [choice.provenance() for choice in chosen])
    for plugin in assembly.config.plugins:
        # For the record and for other machines, where the user hands it back with --plugin.
        write_text(folder.path / "plugins" / plugin.name, plugin.read_text(encoding="utf-8"))
    write_json(folder.path / "environment.json", environment(assembly.device))
    write_json(folder.path / "coverage.json", assembly.coverage.to_json() if assembly.coverage else None)
    run_id = secrets.token_hex(8)
    remember(run_id, assembly.config)
    folder.update(
        id=run_id,
        inputs=used(assembly.config),
        medtl=__version__,
        id_key=fingerprint(load_key()),
        status="started",
        task=assembly.parts.head_spec.task,
        policy=assembly.schedule.policy,
        source=assembly.parts.source.folder.name if assembly.parts.source else None,
        cases={part: len(ids) for part in (*PARTS, HELD_OUT) if (ids := data.splits.ids(part)) or part in PARTS},
        random_frozen=list(assembly.schedule.random_frozen),
        images={
            "modalities": sorted({modality for i in data.images for modality in i.modalities}),
            "units": sorted({unit for i in data.images for unit in i.units}),
            "channels": data.preprocessing.channels,
            "inputs": [plan.name for plan in data.preprocessing.channel_plans],
            "filled": {name: list(ids) for name, ids in data.table.filled.items()},
        },
        model=assembly.record.to_json(),
    )


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions and hardware; nothing that names a person, a machine or a path."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": psutil.cpu_count(logical=True),
    }


def choose_tuning(assembly: Assembly, datasets: Datasets, reporter: Reporter) -> Tuning:
    """Probe the hardware on one training batch and say what was chosen."""
    config = assembly.config.training
    if config.tune and PrefixPlanner(assembly, datasets, Tuning()).everything():
        # Trying things out would take longer than the backbone's one pass over the images.
        config = config.model_copy(update={"tune": False})
    batch = datasets.probe(config.batch_size).to(assembly.device)
    steps = config.epochs * len(EpochSampler(len(datasets.train), config.batch_size, config.min_steps))
    model = assembly.model.to(assembly.device)
    tuning = tune(
        model, batch, config, steps=steps, load=lambda: datasets.probe(config.batch_size), one_size=datasets.one_size
    )
    if tuning.milliseconds:
        times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in tuning.milliseconds.items())
        reporter.note(f"measured: {times}; using {tuning.summary}")
    if tuning.skipped:
        reporter.note(tuning.skipped)
    if tuning.fp32_layers:
        reporter.warn(f"kept in fp32, their bf16 gradients are wrong here: {', '.join(tuning.fp32_layers)}")
    return tuning


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run would cost.

    Attributes:
        steps: Optimizer steps.
        step_seconds: Measured time of a training step.
        seconds: Time of all steps, validation not counted.
        memory_bytes: Parameters, gradients, optimizer state, activations and cached images.
        image_size: Size of a training image or patch, channels first.
        frozen: What would be done about the frozen stages of each phase; not in ``seconds``.
    """

    steps: int
    step_seconds: float
    seconds: float
    memory_bytes: int
    image_size: tuple[int, ...]
    frozen: tuple[Choice, ...] = ()


def estimate(assembly: Assembly, datasets: Datasets) -> Estimate:
    """Measure one step and say what the whole run would take, without training."""
    batch = datasets.probe(assembly.config.training.batch_size).to(assembly.device)
    model = assembly.model.to(assembly.device)
    config = assembly.config.training
    steps = config.epochs * len(EpochSampler(len(datasets.train), config.batch_size, config.min_steps))
    seconds = step_seconds(model, batch, Tuning())
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    # Parameters, gradients and two moments; images that are not mapped from the disk are kept in memory.
    images = sum(part.bytes_in_memory for part in (datasets.train, datasets.val) if part is not None)
    return Estimate(
        steps=steps,
        step_seconds=seconds,
        seconds=steps * seconds,
        memory_bytes=4 * parameters + activation_bytes(model, batch) + images,
        image_size=tuple(batch.image.shape[1:]),
        frozen=tuple(plan_phases(assembly, datasets, Tuning(threads=torch.get_num_threads()))),
    )


@contextmanager
def _torch_settings(config: RunConfig, *, threads: int | None = None) -> Iterator[None]:
    """Set threads and determinism for a run and put them back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.training.threads or threads or before[0])
    torch.use_deterministic_algorithms(config.training.deterministic, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])

"""What the benchmarks of frozen layers share: volumes, weights, runs of medtl, and the plain loop beside them."""

from __future__ import annotations

import copy
import csv
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medtl_monai.config import RunConfig, load_config
from medtl_monai.data.dataset import collate
from medtl_monai.data.loader import EpochSampler
from medtl_monai.host import Host
from medtl_monai.training.assemble import Assembly, assemble
from medtl_monai.training.datasets import Datasets, load_datasets
from medtl_monai.training.fit import Fit
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.reporter import Silent
from medtl_monai.training.train import choose_tuning, write_start
from medtl_monai.training.tuning import Tuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained.

    Attributes:
        folder: Where files are written.
        backbone: The backbone.
        size: Edge of the volumes in voxels.
        volumes: How many there are.
        batch: Volumes a step.
    """

    folder: Path
    backbone: str = "resnet18-3d"
    size: int = 64
    volumes: int = 40
    batch: int = 4

    @property
    def labels(self) -> Path:
        """The table of labels."""
        return self.folder / "labels.csv"

    @property
    def weights(self) -> Path:
        """The weights that count as pretrained."""
        return self.folder / "weights.safetensors"


def write_data(setting: Setting) -> None:
    """Write volumes of two kinds, and weights whose normalisation statistics were measured on noise."""
    rng = np.random.default_rng(0)
    (setting.folder / "images").mkdir(parents=True)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, setting.size)] * 3, indexing="ij"))
    rows = []
    for n in range(setting.volumes):
        centre = rng.uniform(-0.3, 0.3, 3)[:, None, None, None]
        ball = ((grid - centre) ** 2).sum(0) < rng.uniform(0.1, 0.4)
        image = rng.normal(0, 1, ball.shape) + ball * (2.0 if n % 2 else 1.0)
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), setting.folder / f"images/{n:03d}.nii")
        rows.append([f"P{n:03d}", f"images/{n:03d}.nii", "ab"[n % 2]])
    with setting.labels.open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "image", "kind"], *rows])
    torch.manual_seed(0)
    backbone = Host.load().resolve("backbone", setting.backbone).build(in_channels=1)
    with torch.no_grad():
        for _ in range(3):
            backbone(torch.randn(2, 1, *[min(setting.size, 32)] * 3))
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, setting.weights)


def configure(setting: Setting, policy: str, epochs: int, **training: Any) -> RunConfig:
    """Return a run's configuration: constant rate, no augmentation, no dropout, all volumes for training."""
    return load_config(
        None,
        {
            "data.labels": str(setting.labels),
            "data.target": ["kind"],
            "splits.val": 0,
            "splits.test": 0,
            "preprocessing.size": [setting.size] * 3,
            "augmentation.enabled": False,
            "model.backbone": setting.backbone,
            "model.weights": str(setting.weights),
            "model.head": "classification:dropout=0",
            "model.policy": policy,
            "training.device": "cpu",
            "training.epochs": epochs,
            "training.batch_size": setting.batch,
            "training.min_steps": 1,
            "training.schedule": "constant",
            "training.warmup": 0,
            "training.clip_grad_norm": None,
            "cache.folder": str(setting.folder / "cache"),
            **{f"training.{name}": value for name, value in training.items()},
        },
    )


class Clock(Silent):
    """Notes when epochs end, checkpoints included."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def start(self, **_: Any) -> None:
        """The first epoch starts."""
        self.times = [time.perf_counter()]

    def epoch(self, line: Mapping[str, Any]) -> None:
        """An epoch has ended."""
        self.times.append(time.perf_counter())

    @property
    def epochs(self) -> list[float]:
        """Seconds of each epoch."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run took and gave.

    Attributes:
        seconds: From the images in memory to the last checkpoint.
        tuning_seconds: The probe of the hardware before it.
        epochs: Seconds of each epoch.
        head: The head's tensors.
        tuning: Arithmetic and memory format.
        notes: What the run said.
        first: Where its head started.
    """

    seconds: float
    tuning_seconds: float
    epochs: list[float]
    head: dict[str, Tensor]
    first: dict[str, Tensor]
    tuning: Tuning
    notes: list[str]


def prepare(config: RunConfig) -> tuple[Assembly, Datasets]:
    """Return model and images, read and in memory."""
    assembly = assemble(config, Host.load(), Silent())
    return assembly, load_datasets(assembly, Silent())


def run_medtl(setting: Setting, config: RunConfig, name: str, *, tuning: Tuning | None = None) -> Trained:
    """Train as ``medtl train`` does; ``tuning`` is chosen by the run's own probe where it is None."""
    # Features that another run has stored would make this one look faster than it is.
    cold = config.cache.model_copy(update={"folder": setting.folder / f"cache-{name}"})
    assembly, datasets = prepare(config.model_copy(update={"cache": cold}))
    first = copy.deepcopy(assembly.model.head.state_dict())
    folder = RunFolder.create(setting.folder / name)
    write_start(folder, assembly)
    clock = Clock()
    started = time.perf_counter()
    chosen = tuning or choose_tuning(assembly, datasets, clock)
    tuned = time.perf_counter()
    fit = Fit(assembly, datasets, folder, chosen, clock)
    fit.save()
    fit.run()
    ended = time.perf_counter()
    return Trained(
        seconds=ended - tuned,
        tuning_seconds=tuned - started,
        epochs=clock.epochs,
        head=fit.model.head.state_dict(),
        first=first,
        tuning=chosen,
        notes=clock.notes,
    )


def run_plain(config: RunConfig, epochs: Sequence[int]) -> tuple[dict[int, float], dict[str, Tensor]]:
    """Train as a plain script does: volumes in memory, what is frozen under ``no_grad`` and in eval mode.

    Network, loss, batches, steps and optimizer are those of the run; nothing is validated or written. The stages are
    the very modules of MONAI's network, called one after the other.

    Args:
        config: The run beside it.
        epochs: Which epochs to time; frozen is what the run's policy freezes in them.

    Returns:
        Seconds of each epoch, and the head's tensors at the end.
    """
    assembly, datasets = prepare(config)
    images = collate([datasets.train[n] for n in range(len(datasets.train))])
    stages, head = list(assembly.model.backbone.stages.values()), assembly.model.head
    sampler = EpochSampler(len(datasets.train), config.training.batch_size, 1, config.training.seed)
    seconds, optimizer, before = {}, None, -1
    for epoch in epochs:
        frozen = assembly.schedule.frozen_prefix(epoch)
        if frozen != before:
            optimizer = _optimizer(stages[frozen:], head, config)
            before = frozen
        started = time.perf_counter()
        sampler.set_epoch(epoch)
        for draws in sampler:
            index = torch.tensor([draw.case for draw in draws])
            batch = dataclasses.replace(images, image=images.image[index], target=images.labels()[index])
            _step(stages, frozen, head, batch, optimizer)
        seconds[epoch] = time.perf_counter() - started
    return seconds, head.state_dict()


def _optimizer(stages: Sequence[nn.Module], head: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    parameters = [p for module in (*stages, head) for p in module.parameters()]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.training.lr)


def _step(stages: Sequence[nn.Module], frozen: int, head: Any, batch: Any, optimizer: Any) -> None:
    taps, x = [], batch.image
    with torch.no_grad():
        for stage in stages[:frozen]:
            x = stage.eval()(x)
            taps.append(x)
    for stage in stages[frozen:]:
        x = stage.train()(x)
        taps.append(x)
    optimizer.zero_grad(set_to_none=True)
    head.loss(head.train()(taps, batch), batch).backward()
    optimizer.step()

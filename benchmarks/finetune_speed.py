"""Full fine-tuning beside a plain MONAI script: time an epoch, and what the difference costs in accuracy.

    .venv/bin/python benchmarks/finetune_speed.py [--size 64] [--cases 32] [--epochs 5] [--seeds 8] [--threads 2]

The plain script is a fair one: ``SupervisedTrainer`` over a ``CacheDataset`` that holds preprocessed volumes in memory,
the same network from the same first weights, random changes of the same kinds and ranges, and the same threads, batch
size, number of steps, optimizer and learning rate. It computes in float32, contiguous, as MONAI does when it is not
told otherwise; medtl chooses memory format and precision by its probe (never the batch).

The two take turns, epoch by epoch, in one process; the median of ``--epochs`` counts, the first epoch of each does not.
The time for a longer run is extrapolated from it and labelled so. Both sides write no checkpoints and do not validate.

Accuracy: on small volumes with a task that cannot be solved perfectly, ``--seeds`` pairs of whole trainings (a seed is
the data, first weights and order of both sides), the AUC on cases that neither has seen, the mean of the paired
differences and its 95 % interval (Student's t). The exit code is 1 where the limit is missed.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.networks.nets import resnet as monai_resnet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandAffined,
    RandGaussianNoised,
    RandScaleIntensityFixedMeand,
    RandStdShiftIntensityd,
)
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

LIMIT = 1.8
LR = 1e-3
LONG = 50


def write_cases(folder: Path, size: int, cases: int, seed: int, contrast: float) -> Path:
    """Write noisy volumes with a ball, brighter in one class; return the table."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    rows = ["patient,image,kind"]
    for n in range(cases):
        centre = rng.uniform(0.4 * size, 0.6 * size, 3)[:, None, None, None]
        ball = ((grid - centre) ** 2).sum(0) < (rng.uniform(0.15, 0.3) * size) ** 2
        level = 1 + contrast * (n % 2) + rng.normal(0, 0.5)
        image = (rng.normal(0, 1, ball.shape) + level * ball).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{n}.nii")
        rows.append(f"P{n},{n}.nii,{'ab'[n % 2]}")
    table = folder / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


class Ours:
    """A run of medtl, trained with the loop that ``medtl train`` uses."""

    def __init__(self, table: Path, options: argparse.Namespace, *, val: float, seed: int, epochs: int) -> None:
        from medtl_monai.config import validate
        from medtl_monai.host import Host
        from medtl_monai.training.assemble import assemble
        from medtl_monai.training.datasets import load_datasets
        from medtl_monai.training.fit import Fit
        from medtl_monai.training.folder import RunFolder
        from medtl_monai.training.reporter import Silent
        from medtl_monai.training.tuning import tune

        config = validate(
            {
                "data": {"labels": str(table), "target": ["kind"], "group_by": "patient"},
                "splits": {"val": val, "test": 0, "seed": seed},
                "preprocessing": {"normalise": "zscore"},
                "model": {"backbone": options.backbone, "head": "classification:dropout=0.0", "policy": "full"},
                "training": {
                    "epochs": epochs,
                    "min_steps": 1,
                    "batch_size": options.batch,
                    "lr": LR,
                    "schedule": "constant",
                    "warmup": 0,
                    "clip_grad_norm": None,
                    "seed": seed,
                    "threads": options.threads,
                    "workers": 0,
                    "device": "cpu",
                    "deterministic": False,
                    "precision": options.precision,
                },
                "cache": {"enabled": False},
            }
        )
        reporter = Silent()
        self.assembly = assemble(config, Host.load(), reporter)
        self.datasets = load_datasets(self.assembly, reporter)
        self.first = {k: v.clone() for k, v in self.assembly.model.state_dict().items()}
        # As for a long run: a short one, as it is measured here, would not be worth a probe.
        batch = self.datasets.probe(options.batch)
        self.tuning = tune(self.assembly.model, batch, config.training, one_size=self.datasets.one_size)
        folder = RunFolder.create(table.parent / f"run-{seed}-{time.monotonic_ns()}")
        self.fit = Fit(self.assembly, self.datasets, folder, self.tuning, reporter)
        # The other side keeps no checkpoints and does not validate while it trains.
        self.fit.evaluator = None
        self.fit.save = lambda: None  # type: ignore[method-assign]

    def scores(self, predict: Callable[[Tensor], Tensor]) -> tuple[list[int], list[float]]:
        """Return truth and the second class's score of the cases held out."""
        if self.datasets.val is None:
            raise SystemExit("no cases are held out")
        items = [self.datasets.val[n] for n in range(len(self.datasets.val))]
        truth = [int(item.target) for item in items if item.target is not None]
        with torch.no_grad():
            return truth, [float(predict(item.image[None])[0, 1]) for item in items]

    def predict(self, image: Tensor) -> Tensor:
        """Return class probabilities."""
        from medtl_monai.modules import Batch

        found = self.fit.model.predict(Batch(image=image, spatial_size=tuple(image.shape[2:]))).probabilities
        if found is None:
            raise SystemExit("the head gives no probabilities")
        return found


class Plain:
    """The same training as a MONAI user writes it."""

    def __init__(self, ours: Ours, options: argparse.Namespace, *, seed: int, epochs: int) -> None:
        train = ours.datasets.train.cases
        data = [{"image": str(case.image), "label": int(case.target)} for case in train]
        turn = math.radians(10)
        transforms = Compose(
            [
                LoadImaged("image"),
                EnsureChannelFirstd("image"),
                NormalizeIntensityd("image"),
                RandAffined(
                    "image",
                    prob=0.8,
                    rotate_range=(turn,) * 3,
                    scale_range=(0.1,) * 3,
                    translate_range=(0.05 * options.side,) * 3,
                    padding_mode="border",
                ),
                RandScaleIntensityFixedMeand("image", factors=0.1, prob=0.5),
                RandStdShiftIntensityd("image", factors=0.1, prob=0.5),
                RandGaussianNoised("image", std=0.05, prob=0.5),
            ]
        )
        transforms.set_random_state(seed)
        loader = DataLoader(
            CacheDataset(data, transforms, progress=False), batch_size=options.batch, shuffle=True, num_workers=0
        )
        torch.manual_seed(seed)
        self.net = self._network(ours, options.backbone)
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=loader,
            network=self.net,
            optimizer=torch.optim.AdamW(self.net.parameters(), lr=LR, weight_decay=1e-2),
            loss_function=nn.CrossEntropyLoss(),
            decollate=False,
        )

    @staticmethod
    def _network(ours: Ours, name: str) -> nn.Module:
        """Return MONAI's own network with the first weights of ours."""
        factory: Any = getattr(monai_resnet, name.partition("-")[0])
        net: nn.Module = factory(
            spatial_dims=3, n_input_channels=1, num_classes=2, conv1_t_stride=2, bias_downsample=False
        )
        pairs = dict(ours.assembly.model.backbone.monai_key_map)
        state = net.state_dict()
        for key in state:
            for prefix, new in pairs.items():
                if key.startswith(prefix):
                    state[key] = ours.first[f"backbone.{new}{key.removeprefix(prefix)}"].clone()
        net.load_state_dict(state)
        return net

    def epoch(self, n: int) -> float:
        """Train epoch ``n`` (from 1) and return its seconds."""
        self.trainer.state.max_epochs = n
        started = time.perf_counter()
        self.trainer.run()
        return time.perf_counter() - started

    def predict(self, image: Tensor) -> Tensor:
        """Return class probabilities."""
        return self.net.eval()(image).softmax(1)


def speed(options: argparse.Namespace, folder: Path) -> bool:
    """Print the time of an epoch of both; return whether the limit is kept."""
    options.side = options.size
    table = write_cases(folder / "speed", options.size, options.cases, 0, contrast=1)
    epochs = options.epochs + 1
    ours = Ours(table, options, val=0, seed=0, epochs=epochs)
    plain = Plain(ours, options, seed=0, epochs=epochs)
    taken: dict[str, list[float]] = {"medtl": [], "plain": []}
    started = [0.0]

    def begin() -> None:
        taken["plain"].append(plain.epoch(len(taken["plain"]) + 1))
        started[0] = time.perf_counter()

    ours.fit.trainer.add_event_handler(Events.EPOCH_STARTED, begin)
    ours.fit.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: taken["medtl"].append(time.perf_counter() - started[0])
    )
    ours.fit.run()
    steps = len(ours.fit.trainer.state.dataloader)
    mine, theirs = (statistics.median(taken[side][1:]) for side in ("medtl", "plain"))
    print(
        f"{options.backbone}, {options.size}³, batch {options.batch}, {steps} steps an epoch, "
        f"{options.threads} thread(s), {options.cases} cases; median of {options.epochs} epochs that took turns"
    )
    times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in ours.tuning.milliseconds.items())
    print(f"medtl chose {ours.tuning.summary} ({times or ours.tuning.skipped or 'nothing to choose'})")
    if ours.tuning.fp32_layers:
        print(f"kept in fp32, their bf16 gradients are wrong here: {', '.join(ours.tuning.fp32_layers)}")
    print(f"{'':<14}{'an epoch':>12}{'a step':>12}{f'{LONG} epochs, extrapolated':>28}")
    for name, value in (("plain MONAI", theirs), ("medtl", mine)):
        print(f"{name:<14}{value:>10.2f} s{1000 * value / steps:>9.0f} ms{LONG * value:>26.0f} s")
    print(f"{'times as fast':<14}{theirs / mine:>11.2f}×   limit: {LIMIT:g}×")
    return theirs / mine >= LIMIT


def accuracy(options: argparse.Namespace, folder: Path) -> None:
    """Print the paired difference of the AUC and its interval."""
    options.side = options.metric_size
    differences, values = [], []
    for seed in range(options.seeds):
        table = write_cases(folder / f"seed-{seed}", options.metric_size, options.metric_cases, seed, contrast=0.7)
        ours = Ours(table, options, val=0.5, seed=seed, epochs=options.metric_epochs)
        plain = Plain(ours, options, seed=seed, epochs=options.metric_epochs)
        ours.fit.run()
        plain.epoch(options.metric_epochs)
        mine, theirs = (float(roc_auc_score(*ours.scores(side.predict))) for side in (ours, plain))
        values.append((mine, theirs))
        differences.append(mine - theirs)
        print(f"  seed {seed}: AUC medtl {mine:.3f} ({ours.tuning.name}), plain MONAI {theirs:.3f}", flush=True)
    mean, n = statistics.mean(differences), len(differences)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    both = [statistics.mean(side) for side in zip(*values, strict=True)]
    print(
        f"AUC over {n} paired seeds, {options.metric_size}³: medtl {both[0]:.3f}, plain MONAI {both[1]:.3f}; "
        f"difference {mean:+.3f}, 95 % interval {mean - half:+.3f} to {mean + half:+.3f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18-3d", help="a MONAI ResNet's name: resnet10-3d … resnet50-3d")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5, help="epochs measured, after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of medtl")
    parser.add_argument("--seeds", type=int, default=8, help="pairs of trainings, at least 6; 0 leaves them out")
    parser.add_argument("--metric-size", type=int, default=32)
    parser.add_argument("--metric-cases", type=int, default=64)
    parser.add_argument("--metric-epochs", type=int, default=8)
    options = parser.parse_args(argv)
    if 0 < options.seeds < 6:
        parser.error("an interval needs at least 6 seeds")
    os.environ.setdefault("MEDTL_ID_KEY", "the key of this benchmark only")
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        kept = speed(options, Path(folder))
        if options.seeds:
            accuracy(options, Path(folder))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

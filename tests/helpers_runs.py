"""A small NIfTI data set that can be learnt, and short runs on it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from medtl_monai.cli import main

BACKBONE = "unet-3d:features=8,levels=3,num_res_units=0"
QUICK = ["--set", "training.min_steps=1", "--set", "training.warmup=0", "--no-tune"]
SIZE = 16


def make_data(folder: Path, *, cases: int = 16, seed: int = 0) -> Path:
    """Write ``labels.csv`` and images with a bright (b) or a dark (a) ball; return the table's path."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"))
    rows = []
    for n in range(cases):
        kind, radius = "ab"[n % 2], rng.uniform(3, 6)
        centre = rng.uniform(6, 10, 3)[:, None, None, None]
        ball = ((grid - centre) ** 2).sum(0) < radius**2
        image = rng.normal(0, 0.3, ball.shape) + ball * (2 if kind == "b" else -2)
        mask = np.where(ball, 1 + (grid[0] > centre[0]), 0)
        for name, array, dtype in (("image", image, np.float32), ("mask", mask, np.uint8)):
            nib.save(nib.Nifti1Image(array.astype(dtype), np.eye(4)), folder / "images" / f"{name}_{n:02d}.nii")
        rows.append(
            {
                "patient": f"P{n:02d}",
                "image": f"images/image_{n:02d}.nii",
                "mask": f"images/mask_{n:02d}.nii",
                "kind": kind,
                "radius": f"{radius:.3f}",
                "bright": int(kind == "b"),
                "large": int(radius > 4.5),
                "site": "NS"[n // (cases // 2)],
            }
        )
    table = folder / "labels.csv"
    write_rows(table, rows)
    return table


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read CSV rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def medtl(*arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    return main([str(argument) for argument in arguments])


def train(labels: Path, out: Path, *arguments: object, target: str = "kind", epochs: int = 2) -> int:
    """Run a short training."""
    flags = ["--labels", labels, "--target", target, "--out", out, "--epochs", epochs, *QUICK]
    if "--backbone" not in arguments:
        flags += ["--backbone", BACKBONE]
    return medtl("train", *flags, *arguments)


def record(run: Path) -> dict[str, object]:
    """Return a run's ``run.json``."""
    value: dict[str, object] = json.loads((run / "run.json").read_text())
    return value

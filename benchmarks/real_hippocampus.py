"""Real MR studies end to end through the command line: classification, regression, segmentation.

Usage: ``.venv/bin/python benchmarks/real_hippocampus.py [--out DIR] [--only segmentation] [--fold 0] [--threads 1]``
Runs that are there already are not trained again, so folds may be run side by side and then summed up.

Data: 40 hippocampus crops of the Medical Segmentation Decathlon (Task04) as DICOM with SEG masks, in
``../shared/data/hippocampus_dicom`` or ``$MEDTL_TEST_DATA/hippocampus_dicom``. The crops are probably about two a
person and no list of persons is published, so a crop's twin may be in training: the figures are optimistic by an
unknown amount.

Segmentation runs five folds over all 40 studies (each study is tested once) and prints the mean Dice of both structures
for every fold and overall; classification and regression run once, on a held-out fifth, beside the trivial answer.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
THREADS: list[object] = []
BACKBONE = "unet-3d:features=16,levels=4,num_res_units=0,first_stride=2"


def data_folder() -> Path:
    """Return the folder of the hippocampus studies."""
    return Path(os.environ.get("MEDTL_TEST_DATA", ROOT.parent / "shared" / "data")) / "hippocampus_dicom"


def medtl(*arguments: object) -> None:
    """Run a medtl command as a user would; stop if it fails."""
    command = [str(Path(sys.executable).with_name("medtl")), *map(str, arguments)]
    subprocess.run(command, check=True)


def fold_table(labels: Path, fold: int, folds: int, out: Path) -> Path:
    """Write the labels with a ``split`` column: every ``folds``-th study is tested, the one after it validates."""
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(0).permutation(len(rows))
    for place, index in enumerate(order):
        part = (place - fold) % folds
        rows[index]["split"] = "test" if part == 0 else "val" if part == 1 and (place // folds) % 2 == 0 else "train"
        rows[index]["mask"] = str((labels.parent / rows[index]["mask"]).resolve())
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out


def run(out: Path, target: str, labels: Path, *extra: object) -> tuple[dict[str, float], float]:
    """Train and evaluate one run, unless it is there already; return its test metrics and its training seconds."""
    stored = out / "evaluation" / "test" / "metrics.json"
    if not stored.exists():
        data = ("--studies", data_folder() / "studies", "--labels", labels, "--target", target)
        medtl("train", *data, "--out", out, *THREADS, *extra)
        medtl("evaluate", out)
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    return json.loads(stored.read_text())["metrics"], seconds


def segmentation(out: Path, folds: int, chosen: Sequence[int], epochs: int) -> None:
    """Folds of segmentation from scratch."""
    means, seconds, per_case = [], [], []
    for fold in chosen:
        table = fold_table(data_folder() / "labels.csv", fold, folds, out / f"fold-{fold}.csv")
        folder = out / f"segmentation-{fold}"
        metrics, took = run(
            folder, "mask", table, "--split", "split", "--backbone", BACKBONE, "--epochs", epochs, "--lr", 3e-3
        )
        means.append(metrics["dice"])
        seconds.append(took)
        with (folder / "evaluation/test/predictions.csv").open(newline="") as file:
            per_case += [float(row["dice"]) for row in csv.DictReader(file)]
        print(f"fold {fold}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()) + f"; {took:.0f} s", flush=True)
    print(
        f"segmentation: mean Dice {statistics.mean(means):.4f} over {len(means)} folds "
        f"(lowest {min(means):.4f}), {len(per_case)} studies (lowest {min(per_case):.4f}), "
        f"median training time {statistics.median(seconds):.0f} s a fold"
    )


def classification(out: Path, epochs: int) -> None:
    """Whether the hippocampus is larger than the median."""
    backbone = "resnet10-3d:features=16,norm=instance,levels=4"
    labels = data_folder() / "labels.csv"
    metrics, took = run(out / "classification", "large", labels, "--backbone", backbone, "--epochs", epochs)
    print(f"classification: {metrics}; chance is 0.5; {took:.0f} s")


def regression(out: Path, epochs: int) -> None:
    """Volume of the anterior part, in ml, beside the mean of all studies that are not tested."""
    backbone = "resnet10-3d:features=16,norm=instance,levels=4"
    labels = data_folder() / "labels.csv"
    metrics, took = run(out / "regression", "anterior_ml", labels, "--backbone", backbone, "--epochs", epochs)
    with (out / "regression/evaluation/test/predictions.csv").open(newline="") as file:
        tested = {int(row["row"]) for row in csv.DictReader(file)}
    with labels.open(newline="") as file:
        values = {number: float(row["anterior_ml"]) for number, row in enumerate(csv.DictReader(file), 2)}
    mean = statistics.mean(v for number, v in values.items() if number not in tested)
    trivial = statistics.mean(abs(values[number] - mean) for number in tested)
    print(f"regression: {metrics}; the mean of the other studies has mae {trivial:.4f}; {took:.0f} s")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold", type=int, action="append", help="only this one; repeatable")
    parser.add_argument("--epochs", type=int, default=8, help="of each run")
    parser.add_argument("--threads", type=int, help="CPU threads of each run")
    parser.add_argument("--only", choices=("classification", "regression", "segmentation"))
    options = parser.parse_args()
    if options.threads:
        THREADS.extend(["--set", f"training.threads={options.threads}"])
    if not data_folder().is_dir():
        sys.exit("the hippocampus studies are not here; set MEDTL_TEST_DATA to the folder that holds hippocampus_dicom")
    if options.only in (None, "classification"):
        classification(options.out, options.epochs)
    if options.only in (None, "regression"):
        regression(options.out, options.epochs)
    if options.only in (None, "segmentation"):
        segmentation(options.out, options.folds, options.fold or range(options.folds), options.epochs)


if __name__ == "__main__":
    main()

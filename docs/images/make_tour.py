"""Draw the README's picture from the runs of ``make demo``: three test studies, and the Dice of the three runs.

Usage: ``.venv/bin/python docs/images/make_tour.py runs/demo docs/images/tour.png`` after ``make demo``.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np

from medtl_monai.data.cases import CaseTable
from medtl_monai.data.splits import Splits
from medtl_monai.host import Host
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.places import locate
from medtl_monai.training.trained import TrainedRun

RUNS = (("target-transfer", "layers reused", "#d1495b"), ("target-scratch", "from scratch", "#2e86ab"))


def cases_of(run: Path) -> tuple[CaseTable, list[str]]:
    """Return the table of a run and three of its test cases: the first, the middle and the last by Dice."""
    from medtl_monai.data.cases import load_cases

    with (run / "evaluation" / "test" / "predictions.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["dice"]))
    config = locate(RunFolder.open(run))
    table = load_cases(config.data, "mask")
    chosen = [rows[-1]["case_id"], rows[len(rows) // 2]["case_id"], rows[0]["case_id"]]
    assert set(chosen) <= set(Splits.read(run / "splits.csv").ids("test"))
    return table, chosen


def main(demo: Path, out: Path) -> None:
    """Draw the picture."""
    host = Host.load()
    models = {name: TrainedRun(demo / name, host, device="cpu") for name, _, _ in RUNS}
    table, chosen = cases_of(demo / "target-transfer")
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), width_ratios=(1, 1, 1, 1.25), layout="constrained")
    for axis, case_id, title in zip(axes, chosen, ("best study", "median study", "worst study"), strict=False):
        case = table[case_id]
        volume = table.read_volume(case)
        truth = np.asarray(table.read_target(case, volume))
        k = int(truth.sum(axis=(0, 1)).argmax())
        shown = volume.array[:, :, k]
        axis.imshow(shown.T, cmap="gray", vmin=np.percentile(shown, 1), vmax=np.percentile(shown, 99.5))
        axis.contour(truth[:, :, k].T, levels=[0.5], colors="#7fd34e", linewidths=2)
        for name, _, colour in RUNS:
            mask = models[name].predict(volume, case_id=case_id).mask[0].numpy()
            if mask[:, :, k].any():
                axis.contour(mask[:, :, k].T, levels=[0.5], colors=colour, linewidths=1.5)
        axis.set_title(f"{title} (with reused layers)", fontsize=9)
        axis.set_axis_off()
    draw_results(axes[3], demo)
    handles = [plt.Line2D([], [], color="#7fd34e", lw=2, label="truth")]
    handles += [plt.Line2D([], [], color=colour, lw=1.5, label=label) for _, label, colour in RUNS]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    figure.savefig(out, dpi=110)


def draw_results(axis: plt.Axes, demo: Path) -> None:
    """Draw the test Dice of the target runs with intervals and cases."""
    for place, (name, label, colour) in enumerate(RUNS):
        folder = demo / name / "evaluation" / "test"
        result = json.loads((folder / "metrics.json").read_text())
        with (folder / "predictions.csv").open(newline="") as file:
            dice = [float(row["dice"]) for row in csv.DictReader(file)]
        value, bounds = result["metrics"]["dice"], result["intervals"]["dice"]
        jitter = np.linspace(-0.12, 0.12, len(dice))
        axis.plot(place + jitter, dice, "o", color=colour, alpha=0.35, ms=4)
        error = None if bounds is None else [[value - bounds[0]], [bounds[1] - value]]
        axis.errorbar(place + 0.28, value, yerr=error, fmt="o", color=colour, capsize=4)
        axis.annotate(f"{value:.2f}", (place + 0.34, value), va="center", fontsize=9)
    axis.set_xticks(range(len(RUNS)), [label for _, label, _ in RUNS])
    axis.set_xlim(-0.4, len(RUNS) - 0.3)
    axis.set_ylim(0, 1)
    axis.set_ylabel("Dice of the lesion")
    axis.set_title("14 test studies, mean with 95 % interval", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

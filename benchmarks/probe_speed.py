"""How much faster training is where frozen layers are computed once, beside a plain loop over MONAI's network.

    .venv/bin/python benchmarks/probe_speed.py [--size 64] [--volumes 40] [--epochs 50] [--threads 1]

The plain loop has its volumes in memory, runs what is frozen under no_grad, and has the same threads, batches, steps,
loss and optimizer; it neither validates nor writes. On our side everything counts from the images in memory on:
computing the features, checkpoints, the loop. What was not run in full is extrapolated from per-epoch medians of each
phase, and the table says so. First, both sides train a linear probe for ``--timed`` epochs, and their heads are
compared.

"fp32" is plain float32 on both sides. "tuned" uses the memory format and arithmetic that the run's own probe of the
hardware chooses, against the same plain loop; the seconds of that probe are counted and also given apart.

The exit code is 1 where a limit is missed. ``--policies`` and ``--timed`` shorten the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

LIMITS = {"linear-probe": 30.0, "lp-ft": 2.0, "gradual": 1.5}
TOLERANCE = 1e-5


def phases(boundaries: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first epoch, epochs) of each run of equal boundaries."""
    found: list[tuple[int, int]] = []
    for epoch, boundary in enumerate(boundaries):
        if found and boundaries[found[-1][0]] == boundary:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((epoch, 1))
    return found


def extrapolate(seconds: Sequence[float], measured: Sequence[tuple[int, int]], wanted: Sequence[int]) -> float:
    """Return the seconds of phases that are ``wanted`` epochs long.

    Args:
        seconds: Of the epochs that were run.
        measured: (first epoch, epochs) of their phases.
        wanted: How long these phases really are.
    """
    total = 0.0
    for (first, count), length in zip(measured, wanted, strict=True):
        took = seconds[first : first + count]
        # The first epoch of a phase also makes its features.
        total += took[0] + (length - 1) * statistics.median(took[1:] or took)
    return total


def policy_of(name: str, epochs: int, stages: int) -> str:
    """Return a policy whose phases are spread over so many epochs."""
    if name == "lp-ft":
        return "lp-ft:probe=0.5"
    return f"gradual:every={max(1, epochs // (stages + 1))}" if name == "gradual" else name


def measure(setting: Any, name: str, epochs: int, timed: int, *, tuned: bool) -> dict[str, Any]:
    """Return what one policy takes on both sides."""
    import probing

    from medtl_monai.training.tuning import Tuning

    threads = torch.get_num_threads()
    tuning = None if tuned else Tuning(threads=threads)
    stages = len(probing.prepare(probing.configure(setting, "linear-probe", 1))[0].model.backbone.stages)
    real = probing.configure(setting, policy_of(name, epochs, stages), epochs)
    table = probing.prepare(real)[0].schedule
    lengths = [count for _, count in phases([table.frozen_prefix(e) for e in range(epochs)])]
    short = timed * len(lengths)
    # Short runs stand for long ones: what the long one would decide is asked for.
    config = probing.configure(setting, policy_of(name, short, len(lengths) - 1), short, prefix_cache="memory")
    spans = phases([probing.prepare(config)[0].schedule.frozen_prefix(e) for e in range(short)])
    plain, _ = probing.run_plain(config, range(short))
    other = extrapolate([plain[e] for e in range(short)], spans, lengths)
    label = f"{name}-{'tuned' if tuned else 'fp32'}"
    if len(lengths) == 1:
        run = probing.run_medtl(setting, real, label, tuning=tuning)
        own, how = run.seconds, "run in full"
    else:
        run = probing.run_medtl(setting, config, label, tuning=tuning)
        beside = run.seconds - sum(run.epochs)
        own, how = beside + extrapolate(run.epochs, spans, lengths), "extrapolated"
    return {
        "policy": name,
        "arithmetic": f"{run.tuning.precision}{' channels-last' if run.tuning.channels_last else ''}",
        "mode": "tuned" if tuned else "fp32",
        "plain": other,
        "medtl": own + run.tuning_seconds,
        "tuning": run.tuning_seconds,
        "how": how,
        "ratio": other / (own + run.tuning_seconds),
        "without": other / own,
        "notes": [note for note in run.notes if "computed once" in note or "every step" in note],
    }


def same_head(setting: Any, epochs: int) -> float:
    """Return the largest difference of the two sides' heads after some epochs; raise SystemExit if none has learnt."""
    import probing

    from medtl_monai.training.tuning import Tuning

    config = probing.configure(setting, "linear-probe", epochs, prefix_cache="memory")
    tuning = Tuning(threads=torch.get_num_threads())
    run = probing.run_medtl(setting, config, "equal", tuning=tuning)
    _, head = probing.run_plain(config, range(epochs))
    moved = max(float((run.head[n] - run.first[n]).abs().max()) for n in head)
    if moved < 10 * TOLERANCE:
        raise SystemExit("the heads did not move: nothing was compared")
    return max(float((run.head[name] - head[name]).abs().max()) for name in head)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18-3d")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--volumes", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--timed", type=int, default=3, help="epochs of each phase that are run where it is long")
    parser.add_argument("--threads", type=int, default=None, help="default: what torch chooses")
    parser.add_argument("--policies", nargs="+", choices=sorted(LIMITS), default=list(LIMITS))
    parser.add_argument("--modes", nargs="+", choices=["fp32", "tuned"], default=["fp32", "tuned"])
    parser.add_argument("--folder", type=Path, help="where the files are written; default a temporary folder")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    os.environ.setdefault("MEDTL_ID_KEY", "the key of this benchmark only")
    os.environ.pop("MEDTL_CACHE", None)
    import probing

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(probing.Setting) if f.name != "folder"}
        setting = probing.Setting(folder=Path(folder), **fields)
        probing.write_data(setting)
        difference = same_head(setting, min(options.timed, options.epochs))
        print(f"{options.backbone}, {options.volumes} volumes of {options.size}³, batches of {options.batch},")
        print(f"{options.epochs} epochs, {torch.get_num_threads()} threads; heads differ by {difference:.1e} at most")
        print(f"{'':<22}{'plain':>10}{'medtl':>10}{'ratio':>9}{'limit':>8}")
        kept = difference <= TOLERANCE
        for name in options.policies:
            for mode in options.modes:
                found = measure(setting, name, options.epochs, options.timed, tuned=mode == "tuned")
                kept &= found["ratio"] >= LIMITS[name]
                print(
                    f"{name + ' ' + mode:<22}{found['plain']:>8.1f} s{found['medtl']:>8.1f} s{found['ratio']:>8.1f}×"
                    f"{LIMITS[name]:>7g}×  {found['arithmetic']}, plain extrapolated, medtl {found['how']}"
                    + (f", probe {found['tuning']:.1f} s ({found['without']:.1f}× without)" if mode == "tuned" else ""),
                    flush=True,
                )
                for note in found["notes"]:
                    print(f"    {note}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""How much memory a linear probe on stored features takes, beside full fine-tuning of the same network.

    .venv/bin/python benchmarks/memory.py [--size 64] [--volumes 40] [--batch 4] [--epochs 3]

Each run is a process of its own, and what is compared is its peak resident memory above what it had after all imports:
the network, its gradients, the optimizer's state, activations, features, images and what checkpoints need. The exit
code is 1 where the probe takes more than the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT = 0.45
_POLICIES = {"probe": "linear-probe", "full": "full"}


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def child(which: str, fields: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Train in this process; return its peaks."""
    import probing
    import torch

    from medtl_monai.host import Host
    from medtl_monai.training.tuning import Tuning

    torch.set_num_threads(1)
    setting = probing.Setting(**{**fields, "folder": Path(fields["folder"])})
    # What a run imports on the way belongs to the base.
    Host.load().resolve("backbone", "resnet10-2d").build(in_channels=1)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    base = peak_bytes()
    config = probing.configure(setting, _POLICIES[which], epochs)
    run = probing.run_medtl(setting, config, which, tuning=Tuning(threads=1))
    moved = max(float((run.head[n] - run.first[n]).abs().max()) for n in run.first)
    return {"base": base, "peak": peak_bytes(), "moved": moved, "notes": run.notes}


def measure(which: str, fields: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    arguments = [sys.executable, __file__, "--child", which, "--fields", json.dumps(fields), "--epochs", str(epochs)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18-3d")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--volumes", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are written; default a temporary folder")
    parser.add_argument("--child", choices=sorted(_POLICIES), help=argparse.SUPPRESS)
    parser.add_argument("--fields", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.environ.setdefault("MEDTL_ID_KEY", "the key of this benchmark only")
    os.environ.pop("MEDTL_CACHE", None)
    if options.child:
        print(json.dumps(child(options.child, options.fields, options.epochs)))
        return 0
    import probing

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        names = ("backbone", "size", "volumes", "batch")
        fields = {"folder": folder, **{name: getattr(options, name) for name in names}}
        probing.write_data(probing.Setting(**{**fields, "folder": Path(folder)}))
        found = {which: measure(which, fields, options.epochs) for which in _POLICIES}
    if not any("computed once" in note for note in found["probe"]["notes"]):
        raise SystemExit("the probe did not use stored features: nothing was compared")
    above = {which: values["peak"] - values["base"] for which, values in found.items()}
    print(f"{options.backbone}, {options.volumes} volumes of {options.size}³, batches of {options.batch}")
    for which, values in found.items():
        print(f"{which:<8}{values['base'] / 2**20:>8.0f} MiB after imports,{above[which] / 2**20:>8.0f} MiB above them")
    ratio = above["probe"] / above["full"]
    print(f"the probe takes {ratio:.2f} of full fine-tuning; limit {LIMIT}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

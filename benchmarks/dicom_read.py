"""How fast one CT series is read: ours beside MONAI's readers, SimpleITK, highdicom and dicom2nifti.

    pip install -c constraints.txt -e '.[codecs,bench]'     # in an environment of its own, see below
    python benchmarks/dicom_read.py [--size 256] [--syntax jpegls --slices 32] [--rounds 7]

The script writes the series (synthetic, 128 slices of 512×512, 16 bits, headers of 168 elements) and asks every reader
for the same: float32 ``[i, j, k]`` in memory and a 4×4 affine; what a reader does not convert itself is converted
inside of the timing. What it returns is compared with what was written, value by value and place by place.

Every measurement is a process of its own: it imports the reader and reads once (``first``), then reads three times
more, of which the median counts (``read``; ``cpu``: processor seconds of that read). Rounds take the readers in turn,
each starting with another one, so that a slow moment of the machine hits all of them; a first round only warms the
file caches. Shown are medians over the rounds. The exit code is 1 if a reader that gives the right volume is faster
than ours, or if there is none to compare with.

MONAI's ``LoadImage()`` chooses another reader where ``itk`` is installed, so ``bench`` belongs into no environment that
is used for anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ct_series import SYNTAXES, CtSeries
from numpy.typing import NDArray
from peers import DICOM2NIFTI, HIGHDICOM, ITK_READER, OURS, PYDICOM_READER, SIMPLEITK_FLOAT, Peer

PEERS = (OURS, PYDICOM_READER, ITK_READER, SIMPLEITK_FLOAT, HIGHDICOM, DICOM2NIFTI)
LIMIT = 1.0
READS = 3
TIME_LIMIT = 600
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def compare(array: NDArray[Any], affine: NDArray[np.float64], truth: NDArray[Any], wanted: NDArray[np.float64]) -> str:
    """Say what is wrong with a volume; nothing if every voxel has its value at its place.

    Axes may be turned or exchanged as long as the affine says so.
    """
    if array.dtype != np.float32:
        return f"{array.dtype} instead of float32"
    index = np.linalg.inv(wanted) @ affine
    turn = np.rint(index[:3, :3])
    if array.ndim != 3 or not (np.abs(turn).sum(0) == 1).all() or not (np.abs(turn).sum(1) == 1).all():
        return "the axes are not those of the series"
    if not np.allclose(index[:3, :3], turn, atol=1e-4) or not np.allclose(
        index[:3, 3], np.rint(index[:3, 3]), atol=1e-3
    ):
        return "the affine is off"
    order = np.abs(turn).argmax(1)
    turned = array.transpose(order)
    signs = turn[np.arange(3), order].astype(int)
    starts = np.where(signs > 0, 0, np.array(turned.shape) - 1)
    if turned.shape != truth.shape or not np.array_equal(np.rint(index[:3, 3]), starts):
        return f"{turned.shape} voxels, or the affine's origin is off"
    turned = turned[tuple(slice(None, None, sign) for sign in signs)]
    return "" if np.array_equal(turned, truth) else "values differ"


def measure(peer: Peer, folder: Path, truth: Path, wanted: NDArray[np.float64]) -> dict[str, Any]:
    """Read in this process; return seconds and what is wrong with the volume."""
    series = folder
    start = time.perf_counter()
    peer.setup()
    peer.read(series)
    first = time.perf_counter() - start
    wall, cpu = [], []
    for _ in range(READS):
        used, start = _cpu(), time.perf_counter()
        array, affine = peer.read(series)
        wall.append(time.perf_counter() - start)
        cpu.append(_cpu() - used)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wrong = compare(array, affine, np.load(truth, mmap_mode="r"), wanted)
    return {"first": first, "read": statistics.median(wall), "cpu": statistics.median(cpu), "mib": peak, "wrong": wrong}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(peer: Peer, place: Path, arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """Measure in a process of its own; a reader that fails or takes too long is a result."""
    command = [sys.executable, __file__, *arguments, "--reader", peer.name, "--folder", str(place)]
    environment = os.environ | dict.fromkeys(_THREADS, str(threads))
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"takes longer than {TIME_LIMIT} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:100]}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def medians(peers: Sequence[Peer], place: Path, arguments: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """Run all rounds; return the medians of every reader, or how it failed."""
    results: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for round_ in range(rounds + 1):
        for peer in [*peers[round_ % len(peers) :], *peers[: round_ % len(peers)]]:
            measured = run(peer, place, arguments, threads)
            if round_ or "failed" in measured:
                results[peer.name].append(measured)
        print(f"round {round_} of {rounds}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    for name, rows in results.items():
        bad = [row for row in rows if row.get("failed") or row.get("wrong")]
        found[name] = bad[0] if bad and "failed" in bad[0] else {
            key: statistics.median(row[key] for row in rows) for key in ("first", "read", "cpu", "mib")
        } | {"wrong": bad[0]["wrong"] if bad else ""}  # fmt: skip
    return found


def show(found: dict[str, Any]) -> bool:
    """Print the table; return whether no right reader is faster than ours."""
    ours = found[OURS.name]
    if ours.get("failed") or ours.get("wrong"):
        print(f"{OURS.name}: {ours.get('failed') or ours['wrong']}")
        return False
    print(f"{'reader':<22}{'version':>10}{'read':>10}{'cpu':>10}{'of ours':>10}{'first':>10}{'peak':>11}  result")
    fastest = float("inf")
    for peer in PEERS:
        if peer.missing:
            print(f"{peer.name:<22}  not installed: {peer.missing}")
            continue
        row = found[peer.name]
        if "failed" in row:
            print(f"{peer.name:<22}{peer.version:>10}  fails: {row['failed']}")
            continue
        if peer is not OURS and not row["wrong"]:
            fastest = min(fastest, row["read"])
        print(
            f"{peer.name:<22}{peer.version:>10}{row['read']:>8.3f} s{row['cpu']:>8.3f} s"
            f"{row['read'] / ours['read']:>9.2f}×{row['first']:>8.2f} s{row['mib']:>7.0f} MiB"
            f"  {row['wrong'] or 'right'}"
        )
    if fastest == float("inf"):
        print("no other reader gives the right volume: nothing is compared")
        return False
    ratio = ours["read"] / fastest
    print(f"ours takes {ratio:.2f}× the time of the fastest other that is right (at most {LIMIT:.1f}×)")
    return ratio <= LIMIT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="rows and columns (default: 512)")
    parser.add_argument("--slices", type=int, default=128, help="files (default: 128)")
    parser.add_argument("--syntax", choices=tuple(SYNTAXES), default="explicit", help="transfer syntax")
    parser.add_argument("--bits", type=int, choices=(12, 16), default=16, help="BitsStored (default: 16, signed)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads that every reader may use (default: 1)")
    parser.add_argument("--folder", type=Path, help="where the series is written; default a temporary folder")
    parser.add_argument("--reader", choices=[peer.name for peer in PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    series = CtSeries(size=options.size, slices=options.slices, syntax=options.syntax, bits=options.bits)
    if options.reader:
        peer = next(peer for peer in PEERS if peer.name == options.reader)
        print(json.dumps(measure(peer, options.folder / "series", options.folder / "truth.npy", series.affine)))
        return 0
    arguments = [f"--{name}={getattr(options, name)}" for name in ("size", "slices", "syntax", "bits")]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder)
        series.write(place / "series")
        np.save(place / "truth.npy", series.truth())
        installed = [peer for peer in PEERS if not peer.missing]
        return 0 if show(medians(installed, place, arguments, options.rounds, options.threads)) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How fast ``medtl`` answers, against ``python -c "import torch"`` measured alternately in the same run.

    .venv/bin/python benchmarks/startup.py [--repeats 7]

Each round runs every command once, so that a slow moment of the machine hits all of them. The median of each is
compared with torch's; the exit code is 1 if one takes more than a quarter.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

LIMIT = 0.25
REFERENCE = "import torch"
COMMANDS: dict[str, list[str]] = {
    REFERENCE: ["-c", "import torch"],
    "medtl plugins": ["-m", "medtl_monai", "plugins"],
    "medtl backbones --json": ["-m", "medtl_monai", "backbones", "--json"],
    "medtl --help": ["-m", "medtl_monai", "--help"],
}


def measure(arguments: Sequence[str]) -> float:
    """Return the wall time of one Python process, in seconds.

    Raises:
        CalledProcessError: If it fails: a command that fails fast is no answer.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def medians(repeats: int) -> dict[str, float]:
    """Return the median wall time of each command over the rounds; a first round only warms the file cache."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(repeats + 1):
        for name, arguments in COMMANDS.items():
            seconds = measure(arguments)
            if round_:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Print the table; return 1 if a command is too slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default: 7)")
    found = medians(parser.parse_args().repeats)
    slow = False
    print(f"{'command':<26}{'median':>10}{'of torch':>10}")
    for name, seconds in found.items():
        ratio = seconds / found[REFERENCE]
        too_slow = name != REFERENCE and ratio > LIMIT
        slow = slow or too_slow
        print(f"{name:<26}{seconds:>8.3f} s{ratio:>9.0%} {'  too slow' if too_slow else ''}".rstrip())
    print(f"limit: {LIMIT:.0%} of {REFERENCE}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())

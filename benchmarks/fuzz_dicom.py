"""Fuzz the DICOM reader: as many mutated files as asked for, each right or refused. See ``--help``.

python benchmarks/fuzz_dicom.py --count 20000 --seed 5
"""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "dicom")]

# Workers import this module anew, and then find the tests' modules too.
from fuzz_dicom import main  # noqa: E402

if __name__ == "__main__":
    main()

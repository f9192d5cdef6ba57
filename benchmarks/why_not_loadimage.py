"""What MONAI's ``LoadImage()`` and other readers make of the realities of DICOM, beside ours: the table of the docs.

    pip install -c constraints.txt -e '.[codecs,dev,bench]'     # in an environment of its own
    python benchmarks/why_not_loadimage.py [--markdown] [--only gantry-tilt] [--details]

Every case of ``tests/dicom`` is written to a folder and given to every reader, with nothing asked for but the folder.
The voxels encode their places, so a volume and its affine are judged together. There are five outcomes:

- right: every voxel is there once, with its value, at its place;
- refused: an exception;
- warned: a wrong volume, and a Python warning or log record that the plain series does not cause;
- stderr: a wrong volume, and something that only C++ code printed to the standard error stream;
- silent: a wrong volume, and nothing.

Each reader is a process, which reads the plain series first, and each case a fork of it with a time limit: a reader
that crashes or hangs is counted as refused, with what happened.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peers import (
    DICOM2NIFTI,
    HIGHDICOM,
    LOAD_IMAGE,
    LOAD_IMAGE_ITK,
    LOAD_IMAGE_PYDICOM,
    OURS,
    SIMPLEITK,
    Peer,
)
from realities import catalogue, counted, judge, truths, write

PEERS = (OURS, LOAD_IMAGE_ITK, LOAD_IMAGE, LOAD_IMAGE_PYDICOM, SIMPLEITK, HIGHDICOM, DICOM2NIFTI)
OUTCOMES = ("right", "refused", "warned", "stderr", "silent")
CONTROL = "axial"
TIME_LIMIT = 60.0
_THREADS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
Outcome = dict[str, Any]


class _Records(logging.Handler):
    """Keeps the text of warnings and errors that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def _listening() -> Iterator[dict[str, list[str]]]:
    """Collect what is said: ``python`` (warnings, log records) and ``stderr`` (what else is printed there)."""
    heard: dict[str, list[str]] = {"python": [], "stderr": []}
    handler = _Records()
    root = logging.getLogger()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as printed, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root.addHandler(handler)
        os.dup2(printed.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            yield heard
        finally:
            sys.stderr.flush()
            for number, stream in enumerate(kept, 1):
                os.dup2(stream, number)
                os.close(stream)
            root.removeHandler(handler)
            printed.seek(0)
            heard["stderr"] = [line for line in printed.read().decode(errors="replace").splitlines() if line.strip()]
            heard["python"] = [*handler.texts, *(str(warning.message) for warning in caught)]


def _plain(text: str, folder: Path) -> str:
    """Take out of a message what differs between two runs."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x", text.replace(str(folder), "FOLDER"))


def read_case(peer: Peer, folder: Path, wanted: Sequence[Any], usual: set[str]) -> Outcome:
    """Let a reader read one folder, and judge it.

    Args:
        peer: The reader.
        folder: The case.
        wanted: The volumes of which any is right.
        usual: Messages that do not count.
    """
    failure = ""
    with _listening() as heard:
        try:
            array, affine = peer.read(folder)
        except Exception as error:  # whatever a reader raises is its answer
            failure = f"{type(error).__name__}: {_plain(str(error), folder)}"
    said = {
        kind: [text for text in (_plain(line, folder) for line in lines) if text not in usual]
        for kind, lines in heard.items()
    }
    if failure:
        return {"outcome": "refused", "mm": None, "why": failure[:300], **said}
    found = judge(wanted, array, affine)
    wrong = "warned" if said["python"] else "stderr" if said["stderr"] else "silent"
    mm = round(found.mm, 1) if found.mm == found.mm and found.mm >= 0.05 else None
    return {"outcome": "right" if found.right else wrong, "mm": mm, "why": found.why, **said}


def read_all(peer: Peer, only: Sequence[str], place: Path) -> dict[str, Outcome]:
    """Let a reader read every case, each in a fork of this process."""
    peer.setup()
    cases = catalogue()
    folders = {case.id: (place / str(number) / "series") for number, case in enumerate(cases)}
    known = {case.id: write(case, folders[case.id]) for case in cases}
    with _listening() as heard:
        peer.read(folders[CONTROL])
    usual = {_plain(line, folders[CONTROL]) for lines in heard.values() for line in lines}
    results = {}
    for case in cases:
        if not only or case.id in only:
            target = place / f"{case.id}.json"
            work = (peer, folders[case.id], truths(case, known[case.id]), usual, target)
            results[case.id] = _fork(work, target)
    return results


def _fork(work: tuple[Any, ...], target: Path) -> Outcome:
    process = multiprocessing.get_context("fork").Process(target=_store, args=work)
    process.start()
    process.join(TIME_LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
        return {"outcome": "refused", "mm": None, "why": f"hangs (over {TIME_LIMIT:.0f} s)", "python": [], "stderr": []}
    if (process.exitcode or 0) > 0:
        raise RuntimeError(f"{target.stem}: the comparison itself failed; see above")
    if not target.exists():
        why = f"the process dies (exit code {process.exitcode})"
        return {"outcome": "refused", "mm": None, "why": why, "python": [], "stderr": []}
    result: Outcome = json.loads(target.read_text())
    return result


def _store(peer: Peer, folder: Path, wanted: Sequence[Any], usual: set[str], target: Path) -> None:
    target.write_text(json.dumps(read_case(peer, folder, wanted, usual)))


def run(peer: Peer, only: Sequence[str]) -> dict[str, Outcome]:
    """Let a reader read every case in a process of its own."""
    command = [sys.executable, __file__, "--reader", peer.name, *(f"--only={name}" for name in only)]
    environment = os.environ | dict.fromkeys(_THREADS, "1")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "results.json"
        subprocess.run([*command, "--out", str(target)], check=True, env=environment, stdout=subprocess.DEVNULL)
        results: dict[str, Outcome] = json.loads(target.read_text())
    return results


def _cell(outcome: Outcome, markdown: bool) -> str:
    text = outcome["outcome"]
    if text in ("warned", "stderr", "silent"):
        text += f" {outcome['mm']:g} mm" if outcome["mm"] else ""
        return f"**{text}**" if markdown and not text.startswith("warned") else text
    return str(text)


def totals(results: dict[str, Outcome], cases: Sequence[Any]) -> Counter[str]:
    """Count the outcomes of the cases that count."""
    return Counter(results[case.id]["outcome"] for case in cases if counted(case) and case.id in results)


def table(found: dict[str, dict[str, Outcome]], cases: Sequence[Any], markdown: bool) -> list[str]:
    """Return the lines of the table, the totals first."""
    peers = [peer for peer in PEERS if peer.name in found]
    sums = {peer.name: totals(found[peer.name], cases) for peer in peers}
    heads = [peer.name for peer in peers]
    number = sum(counted(case) for case in cases)
    rows = [[f"of {number} cases", *heads]]
    rows += [[outcome, *(str(sums[peer.name][outcome]) for peer in peers)] for outcome in OUTCOMES]
    parts = [_lines(rows, markdown)]
    for conventions in (False, True):
        chosen = [case for case in cases if counted(case) is not conventions]
        rows = [["conventions" if conventions else "case", *heads]]
        for case in sorted(chosen, key=lambda case: [c.row for c in chosen].index(case.row)):
            name = f"{case.row}: `{case.id}`" if markdown else f"{case.row}: {case.id}"
            rows.append([name, *(_cell(found[peer.name][case.id], markdown) for peer in peers)])
        parts.append(_lines(rows, markdown))
    return [line for part in parts for line in (*part, "")]


def _lines(rows: Sequence[Sequence[str]], markdown: bool) -> list[str]:
    if markdown:
        rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return ["| " + " | ".join(row) + " |" for row in rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def versions() -> str:
    """Say what was compared."""
    names = dict.fromkeys(["monai", "pydicom", *(peer.package for peer in PEERS if not peer.missing)])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def details(found: dict[str, dict[str, Outcome]]) -> list[str]:
    """Return one line for each answer that is not plainly right: what was raised, said or wrong."""
    return [
        f"{peer} | {case} | {outcome['outcome']} | {outcome['mm']} mm | {outcome['why']} | "
        f"{' // '.join([*outcome['python'], *outcome['stderr']])[:300]}"
        for peer, results in found.items()
        for case, outcome in results.items()
        if outcome["outcome"] != "right"
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print the tables of the docs")
    parser.add_argument("--details", action="store_true", help="say of every answer what was raised, printed or wrong")
    parser.add_argument("--only", action="append", default=[], help="one case; repeatable")
    parser.add_argument("--json", type=Path, help="where to write everything that was found")
    parser.add_argument("--reader", choices=[peer.name for peer in PEERS], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.reader:
        peer = next(peer for peer in PEERS if peer.name == options.reader)
        with tempfile.TemporaryDirectory() as place:
            options.out.write_text(json.dumps(read_all(peer, options.only, Path(place))))
        return 0
    cases = [case for case in catalogue() if not options.only or case.id in options.only]
    found = {peer.name: run(peer, options.only) for peer in PEERS if not peer.missing}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print("\n".join(table(found, cases, options.markdown)))
    print(versions())
    for peer in PEERS:
        if peer.missing:
            print(f"{peer.name}: not installed: {peer.missing}")
    if options.details:
        print("\n".join(details(found)))
    wrong = {"warned", "stderr", "silent"} & set(totals(found[OURS.name], cases))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

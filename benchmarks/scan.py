"""How fast a tree is scanned: cold, again with what is remembered, and beside a plain pydicom loop over the headers.

    .venv/bin/python benchmarks/scan.py [--n 100000] [--workers 2] [--folder DIR]

The instances are small synthetic ones (32 × 32 pixels, 100 a series), made by the script. Every measurement is a
process of its own, so that peak memory is its own too: of the process itself, without its workers. The exit code is 1
where a limit is missed; small trees (below 10,000) are measured but not judged, because start-up then
outweighs the rest.

"Cold" is a first scan that remembers nothing, "first" one that writes what the next, "again", starts from. The files
themselves are in the operating system's cache in all runs alike.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SERIES = 100
COLD_LIMIT, AGAIN_LIMIT, MEMORY_LIMIT = 1.5, 20.0, 1.3
JUDGED = 10_000
_SMALL = 1000
_ELEMENTS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Rows",
    "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
)  # fmt: skip


def write_tree(folder: Path, count: int) -> None:
    """Write ``count`` instances, 100 a series, by changing one encoded file in place."""
    for first in range(0, count, SERIES):
        place = folder / f"patient{first // SERIES:05d}" / "series"
        place.mkdir(parents=True, exist_ok=True)
        study, series = generate_uid(), generate_uid()
        for k in range(min(SERIES, count - first)):
            _instance(first // SERIES, study, series, k).save_as(place / f"IM{k:04d}", enforce_file_format=True)


def _instance(patient: int, study: str, series: str, k: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
    dataset.PatientID, dataset.PatientName, dataset.Modality = f"P{patient}", "synthetic", "MR"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.InstanceNumber = study, series, k + 1
    dataset.ImageType, dataset.SeriesDescription = ["ORIGINAL", "PRIMARY"], "t1"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, k], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 1
    dataset.Rows = dataset.Columns = 32
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = np.full((32, 32), k, np.uint16).tobytes()
    return dataset


def plain_loop(folder: Path) -> int:
    """Read what a simple script would read, one file after another; return the number of series."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            values = tuple(dataset.get(keyword) for keyword in _ELEMENTS)
            found.setdefault(dataset.SeriesInstanceUID, []).append(values)
    return len(found)


def measure(how: str, folder: Path, workers: int, index: Path) -> dict[str, float]:
    """Do one thing in this process, and say how long it took and how much memory it needed at most."""
    start = time.perf_counter()
    if how == "pydicom":
        series = plain_loop(folder)
    else:
        from medtl_monai.dicom import Memory, scan

        memory = None if how == "cold" else Memory(index, b"the key of the benchmark")
        start = time.perf_counter()
        series = len(scan(folder, workers=workers, memory=memory).series)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "series": series, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def run(how: str, folder: Path, workers: int, index: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--how", how, "--folder", str(folder), "--workers", str(workers)]
    result = subprocess.run([*command, "--index", str(index)], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


def compare(folder: Path, count: int, workers: int) -> bool:
    """Print all measurements; return whether the limits are kept."""
    few, index = folder / "few", folder / "index.sqlite"
    many = folder / "many"
    write_tree(many, count)
    write_tree(few, min(_SMALL, count))
    # What has just been written is not remembered: its time stamp could not tell a second change.
    time.sleep(2.5)
    expected = -(-count // SERIES)
    results = {how: run(how, many, workers, index) for how in ("pydicom", "cold", "first", "again")}
    for how, result in results.items():
        if result["series"] != expected:
            raise SystemExit(f"{how} found {result['series']} series, not {expected}")
        rate = count / result["seconds"]
        print(f"{how:8} {result['seconds']:8.2f} s {rate:10.0f} files/s {result['mib']:8.0f} MiB")
    small = run("cold", few, workers, index)
    cold = results["pydicom"]["seconds"] / results["cold"]["seconds"]
    again = results["cold"]["seconds"] / results["again"]["seconds"]
    memory = results["cold"]["mib"] / small["mib"]
    print(f"cold scan {cold:.2f}× as fast as pydicom (at least {COLD_LIMIT}×)")
    print(f"re-scan {again:.1f}× as fast as cold (at least {AGAIN_LIMIT:.0f}×)")
    print(f"peak memory {memory:.2f}× that of {min(_SMALL, count)} files (at most {MEMORY_LIMIT}×)")
    return cold >= COLD_LIMIT and again >= AGAIN_LIMIT and memory <= MEMORY_LIMIT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="instances; the published figure is of 100000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the instances are written; default a temporary folder")
    parser.add_argument("--how", choices=("pydicom", "cold", "first", "again"), help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.how:
        print(json.dumps(measure(options.how, options.folder, options.workers, options.index)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kept = compare(Path(folder), options.n, options.workers)
    return 0 if kept or options.n < JUDGED else 1


if __name__ == "__main__":
    sys.exit(main())

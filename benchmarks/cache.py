"""How fast a training patch comes from the cache, beside MONAI's PersistentDataset in the same run.

    .venv/bin/python benchmarks/cache.py [--size 512 512 128] [--patch 96 96 96] [--repeats 30]

The volume is a synthetic CT series, written by the script. Both sides give the same patches, which is checked: float32,
preprocessed alike. PersistentDataset stores a preprocessed image as one file and loads it as a whole before a patch is
cut from it; here only the patch is read from a mapped file. What is timed:

- first read: decode, assemble, preprocess and store; then cut one patch,
- re-read: a new data set on the same cache, as a new run has it; up to its first patch,
- patch: one random patch after another, the median of ``--repeats``; the two take turns, so that a slow moment of
  the machine hits both.

The files are in the operating system's cache in all cases alike. The exit code is 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

LIMIT_MS = 5.0
ROUND = 5
"""Patches that one side reads before it is the other's turn."""


def write_study(folder: Path, size: Sequence[int]) -> Path:
    """Write one CT series and its table; return the table."""
    columns, rows, slices = size
    study, series = generate_uid(), generate_uid()
    (folder / "studies").mkdir()
    rng = np.random.default_rng(0)
    for k in range(slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.PatientID, ds.PatientName, ds.Modality = "P1", "synthetic", "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = study, series, k + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.8], 2
        ds.Rows, ds.Columns = rows, columns
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.PixelData = rng.integers(0, 3000, (rows, columns), np.uint16).tobytes()
        ds.save_as(folder / f"studies/IM{k:04d}", enforce_file_format=True)
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["StudyInstanceUID", "y"], [study, "1"]])
    return table


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many milliseconds a call took, and what it gave."""
    start = time.perf_counter()
    found = call()
    return (time.perf_counter() - start) * 1000, found


class Ours:
    """Training items of a data set with a cache."""

    name = "medtl cache"

    def __init__(self, table: Path, folder: Path, patch: Sequence[int]) -> None:
        from medtl_monai.config import CacheConfig, DataConfig, PreprocessingConfig
        from medtl_monai.data.cache.cases import CaseCache
        from medtl_monai.data.cases import load_cases
        from medtl_monai.data.dataset import CaseDataset
        from medtl_monai.data.preprocessing import image_info, plan_preprocessing
        from medtl_monai.specs import InputSpec

        config = PreprocessingConfig()
        cases = load_cases(DataConfig(studies=table.parent / "studies", labels=table, target=["y"]), "number")
        spec = InputSpec(spatial_dims=3, divisible_by=(8, 8, 8))
        plan = plan_preprocessing(spec, config, "number", [image_info(cases, case) for case in cases])
        self.plan = dataclasses.replace(plan, patch_size=tuple(patch))
        self.cases = cases

        def new() -> CaseDataset:
            cache, note = CaseCache.open(CacheConfig(folder=folder))
            if cache is None:
                raise SystemExit(note or "MEDTL_CACHE=off: there is nothing to measure")
            return CaseDataset(cases, cases.ids, self.plan, disk=cache)

        self._new = new
        self._data = new()

    def renew(self) -> None:
        """Start as a new run does."""
        self._data = self._new()

    def patch(self, seed: int) -> torch.Tensor:
        """Return a random patch."""
        from medtl_monai.data.dataset import Draw

        return self._data[Draw(0, seed)].image

    def image(self, _: object = None) -> torch.Tensor:
        """Decode and preprocess, without any cache: what PersistentDataset is given to store."""
        case = self.cases.cases[0]
        return self.plan.image(self._data.volume(case), where="case")


class Monai:
    """PersistentDataset over the same decoding and preprocessing; a patch is cut after the load, at the same place."""

    name = "MONAI PersistentDataset"

    def __init__(self, ours: Ours, folder: Path, patch: Sequence[int]) -> None:
        self._ours, self._folder, self._patch = ours, folder, patch
        self.renew()

    def renew(self) -> None:
        """Start as a new run does."""
        self._data = PersistentDataset(["case"], transform=self._ours.image, cache_dir=self._folder)

    def patch(self, seed: int) -> torch.Tensor:
        """Return a random patch."""
        from medtl_monai.data.patches import choose_patch

        image = self._data[0]
        window = choose_patch(tuple(image.shape[1:]), self._patch, {}, np.random.RandomState(seed))
        return image[(slice(None), *window)].clone()


def compare(size: Sequence[int], patch: Sequence[int], repeats: int, folder: Path) -> bool:
    """Print the table; return whether the limit is kept."""
    os.environ.setdefault("MEDTL_ID_KEY", "the key of this benchmark only")
    # Where the user's cache is plays no role.
    os.environ.pop("MEDTL_CACHE", None)
    table = write_study(folder, size)
    # What was just written is not remembered: its time stamp could not tell a second change.
    time.sleep(2.5)
    ours = Ours(table, folder / "cache", patch)
    monai = Monai(ours, folder / "monai", patch)
    sides: list[Ours | Monai] = [ours, monai]
    found: dict[str, list[float]] = {}
    for side in sides:
        first, _ = timed(lambda side=side: side.patch(0))
        again = []
        for seed in range(3):
            milliseconds, _ = timed(lambda side=side, seed=seed: (side.renew(), side.patch(seed)))
            again.append(milliseconds)
        found[side.name] = [first, statistics.median(again)]
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for start in range(0, repeats, ROUND):
        taken: list[list[torch.Tensor]] = []
        for side in sides:
            patches = []
            for seed in range(start, start + ROUND):
                milliseconds, patch_read = timed(lambda side=side, seed=seed: side.patch(seed))
                times[side.name].append(milliseconds)
                patches.append(patch_read)
            taken.append(patches)
        if not all(torch.equal(a, b) and float(a.std()) > 0 for a, b in zip(*taken, strict=True)):
            raise SystemExit("the two sides do not give the same patches")
    shape = "×".join(map(str, size))
    print(f"volume {shape} float32, patch {'×'.join(map(str, patch))}, median of {repeats}")
    print(f"{'':<26}{'first read':>12}{'re-read':>12}{'patch':>12}")
    for name, values in found.items():
        values.append(statistics.median(times[name]))
        print(f"{name:<26}" + "".join(f"{value:>9.1f} ms" for value in values))
    mine, theirs = found[ours.name], found[monai.name]
    ratios = [other / own for own, other in zip(mine, theirs, strict=True)]
    print(f"{'times as fast':<26}" + "".join(f"{ratio:>11.1f}×" for ratio in ratios))
    print(f"limit: a patch in {LIMIT_MS:g} ms")
    return mine[2] <= LIMIT_MS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 128), help="columns, rows, slices")
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where the files are written; default a temporary folder")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kept = compare(options.size, options.patch, options.repeats, Path(folder))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

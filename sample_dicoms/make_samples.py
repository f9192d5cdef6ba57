"""Make the sample studies: the same bytes at every run.

Usage: ``python sample_dicoms/make_samples.py [--out DIR] [--only CASE ...]``

A *source task* (``source.csv``: CT, more cases) and a *target task* (``target.csv``: MR, few training cases) share the
question: is the lesion solid, or a ring? ``labels.csv`` holds both. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from phantom import Floats, Grid, Kind, Modality, draw_lesion, render
from write_dicom import Identity, write_seg, write_series

HERE = Path(__file__).resolve().parent
COLUMNS = (
    "StudyInstanceUID",
    "PatientID",
    "AccessionNumber",
    "task",
    "split",
    "modality",
    "kind",
    "volume_ml",
    "mask",
    "site",
    "age",
    "sex",
)
SEED = 2611
# Per task: modality, first case number, and patients of each part; every fifth patient of a part has a second study.
TASKS: dict[str, tuple[Modality, int, dict[str, int]]] = {
    "source": ("CT", 1, {"train": 18, "val": 4, "test": 6}),
    "target": ("MR", 101, {"train": 6, "val": 4, "test": 12}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One study to be made."""

    who: Identity
    task: str
    split: str
    modality: Modality
    kind: Kind

    @property
    def folder(self) -> str:
        """Folder of the series, relative to the output."""
        return f"studies/{self.modality.lower()}/{self.who.case:03d}"

    @property
    def mask(self) -> str:
        """File of the SEG, relative to the output."""
        return f"segmentations/{self.who.case:03d}.dcm"


def plan() -> list[Case]:
    """Return every case in order; kinds alternate, so that each part is balanced."""
    cases: list[Case] = []
    patient = 0
    for task, (modality, first, parts) in TASKS.items():
        number = first
        for split, patients in parts.items():
            for index in range(patients):
                patient += 1
                visits = _visits(patient, number, 2 if index % 5 == 4 else 1)
                kind: Kind = "ring" if index % 2 else "solid"
                cases += [Case(who=who, task=task, split=split, modality=modality, kind=kind) for who in visits]
                number += len(visits)
    return cases


def _visits(patient: int, number: int, count: int) -> list[Identity]:
    """Return the studies of one patient, a year apart, numbered from ``number``."""
    rng = np.random.default_rng([SEED, 1, patient])
    age, sex, site = int(rng.integers(30, 85)), str(rng.choice(["F", "M"])), str(rng.choice(["A", "B", "C"]))
    month_day = f"{1 + patient % 12:02d}{1 + patient % 28:02d}"
    return [
        Identity(
            case=number + visit,
            patient=patient,
            study_date=f"{2020 + visit}{month_day}",
            age=age + visit,
            sex=sex,
            site=site,
        )
        for visit in range(count)
    ]


def make(case: Case, out: Path) -> dict[str, Any]:
    """Write the series and the SEG of one case and return its row of the table."""
    rng = np.random.default_rng([SEED, 2, case.who.case])
    grid = _grid(rng, case.who.case)
    lesion = draw_lesion(rng, case.kind, case.modality, grid)
    volume, mask = render(rng, case.modality, grid, lesion)
    names, numbers = _names(rng, case.who.case, grid.shape[0])
    images = write_series(
        out / case.folder, case.who, volume=volume, modality=case.modality, grid=grid, names=names, numbers=numbers
    )
    write_seg(out / case.mask, case.who, images, mask)
    return {
        "StudyInstanceUID": case.who.uid(1),
        "PatientID": case.who.patient_id,
        "AccessionNumber": case.who.accession_number,
        "task": case.task,
        "split": case.split,
        "modality": case.modality,
        "kind": case.kind,
        "volume_ml": f"{mask.sum() * np.prod(grid.spacing) / 1000:.3f}",
        "mask": case.mask,
        "site": case.who.site,
        "age": case.who.age,
        "sex": case.who.sex,
    }


def _grid(rng: np.random.Generator, case: int) -> Grid:
    """Return a grid of about 77 × 72 × 54 mm; every fourth case is turned, every fifth has oblong pixels.

    At the common spacing no image is longer than 32 voxels, which the deepest networks need as a multiple: the samples
    train quickly because nothing has to be padded to 64.
    """
    slices = int(rng.integers(16, 21))
    columns_mm = 2.2 if case % 5 == 0 else 2.4
    spacing = (round(54.0 / slices, 5), 2.4, columns_mm)
    row, column = _turn(rng, case)
    centre = tuple(float(v) for v in np.round(rng.uniform(-60, 60, 3), 1))
    return Grid(
        shape=(slices, 30, 32),
        spacing=spacing,
        row_cosine=(float(row[0]), float(row[1]), float(row[2])),
        column_cosine=(float(column[0]), float(column[1]), float(column[2])),
        centre=(centre[0], centre[1], centre[2]),
    )


def _turn(rng: np.random.Generator, case: int) -> tuple[Floats, Floats]:
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    if case % 8 == 3:  # a slightly oblique scan
        tilt = np.deg2rad(rng.uniform(4, 9))
        column = np.array([0.0, np.cos(tilt), np.sin(tilt)])
    if case % 8 == 7:  # rows and columns stored from the other side
        row, column = -row, -column
    return row, column


def _names(rng: np.random.Generator, case: int, slices: int) -> tuple[list[str], list[int]]:
    """Return file names and instance numbers by slice; neither need follow the position, as in real archives."""
    order = np.arange(slices)
    if case % 4 == 2:
        order = order[::-1]
    if case % 6 == 1:
        order = rng.permutation(slices)
    names = [f"slice-{n:03d}.dcm" if case % 7 == 6 else f"IM{n + 1:04d}" for n in order]
    numbers = rng.permutation(slices) if case % 9 == 4 else order
    return names, [int(n) + 1 for n in numbers]


def write_tables(rows: list[dict[str, Any]], out: Path) -> None:
    """Write labels.csv, source.csv and target.csv."""
    tables = {"labels": rows} | {task: [row for row in rows if row["task"] == task] for task in TASKS}
    for name, chosen in tables.items():
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(chosen)


def main() -> None:
    """Make all cases, or only the ones asked for (then without tables)."""
    parser = argparse.ArgumentParser(description="Make the sample studies.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: beside this script)")
    parser.add_argument("--only", type=int, nargs="+", help="case numbers to make; the tables are then left alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [case for case in plan() if not options.only or case.who.case in options.only]
    rows = [make(case, options.out) for case in cases]
    if not options.only:
        write_tables(rows, options.out)


if __name__ == "__main__":
    main()

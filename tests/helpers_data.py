"""Small NIfTI studies and tables for the tests of the data room."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.dicom.geometry import SHEAR_TOLERANCE, Volume, shear

SHAPE = (8, 9, 7)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def noise(seed: int, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], *, encoding: str = "utf-8", delimiter: str = ","
) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def nifti_study(folder: Path, rows: Sequence[Mapping[str, object]], shape: Sequence[int] = SHAPE) -> Path:
    """Write a table and one image a row, img/0.nii.gz and so on."""
    for n in range(len(rows)):
        write_nifti(folder / f"img/{n}.nii.gz", noise(n, shape))
    return write_csv(folder / "labels.csv", [{"image": f"img/{n}.nii.gz", **row} for n, row in enumerate(rows)])


def rotation(*degrees: float) -> np.ndarray:
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        plane = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        out = out @ turn
    return out


def affine_of(
    linear: np.ndarray, spacing: Sequence[float] = (1, 1, 1), origin: Sequence[float] = (5, -7, 11)
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = linear * np.array(spacing)
    affine[:3, 3] = origin
    return affine


def volume_of(array: np.ndarray, affine: np.ndarray | None = None, **more: object) -> Volume:
    affine = np.eye(4) if affine is None else affine
    geometry = "sheared" if shear(affine) > SHEAR_TOLERANCE else "regular"
    return Volume(array=array.astype(np.float32), affine=affine, geometry=geometry, **more)


def ball(shape: Sequence[int], affine: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return 0/1 labels of a ball about the volume's centre, round in millimetres, with a cut-out of 2 on one side."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    inside = np.linalg.norm(place - centre, axis=-1) <= radius_mm
    return np.where(inside & (place[..., 0] > centre[0] + radius_mm / 4), 2, inside).astype(np.int16)


def table_of(
    groups: Sequence[str],
    targets: Sequence[object],
    kind: str = "class",
    classes: Sequence[str] = ("a", "b"),
    **more: object,
) -> CaseTable:
    cases = tuple(
        Case(
            case_id=f"case{n:03d}",
            group=group,
            row=n + 2,
            image=Path("none"),
            target=target,
            **{k: v[n] for k, v in more.items()},
        )
        for n, (group, target) in enumerate(zip(groups, targets, strict=True))
    )
    return CaseTable(cases=cases, kind=kind, classes=tuple(classes), columns=("y",))

"""The sample studies: what they promise, and that the script beside them makes exactly these bytes."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "sample_dicoms"
# One plain, one with shuffled names, one oblique, one turned, one with oblong pixels; both modalities.
REMADE = (1, 3, 5, 7, 103, 119)


def table(name: str = "labels") -> list[dict[str, str]]:
    with (SAMPLES / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def folder_of(row: dict[str, str]) -> Path:
    return SAMPLES / "studies" / row["modality"].lower() / Path(row["mask"]).stem


def headers(row: dict[str, str]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder_of(row).iterdir())]


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_script_makes_the_committed_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(SAMPLES / "make_samples.py"), "--out", str(tmp_path), "--only", *map(str, REMADE)]
    subprocess.run(command, check=True)
    made = digests(tmp_path)
    assert len(made) > len(REMADE) * 16
    committed = digests(SAMPLES)
    assert made == {name: committed[name] for name in made}
    # Different cases are different images, so that equality above says something.
    assert len(set(made.values())) == len(made)


def test_size_and_number() -> None:
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files) <= 6_000_000
    assert len(table()) >= 24


def test_each_row_has_its_study_and_each_study_its_row() -> None:
    rows = table()
    found = {}
    for folder in SAMPLES.glob("studies/*/*"):
        ds = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
        found[str(ds.StudyInstanceUID)] = (str(ds.PatientID), str(ds.AccessionNumber), str(ds.Modality))
    assert found == {
        row["StudyInstanceUID"]: (row["PatientID"], row["AccessionNumber"], row["modality"]) for row in rows
    }
    assert table("source") + table("target") == rows


def test_parts_are_balanced_and_divide_no_patient() -> None:
    rows = table()
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["PatientID"], set()).add(row["task"] + row["split"])
    assert all(len(part) == 1 for part in parts.values())
    assert len(parts) < len(rows), "some patients have two studies"
    counts = Counter((row["task"], row["split"], row["kind"]) for row in rows)
    for task, split in {(row["task"], row["split"]) for row in rows}:
        assert abs(counts[task, split, "solid"] - counts[task, split, "ring"]) <= 2


@pytest.mark.parametrize("index", range(0, 57, 7))
def test_mask_volume_and_references(index: int) -> None:
    row = table()[index]
    images = headers(row)
    seg = pydicom.dcmread(SAMPLES / row["mask"])
    step = np.array(images[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(step[:3], step[3:])
    heights = np.sort([float(normal @ np.array(ds.ImagePositionPatient, dtype=float)) for ds in images])
    gaps = np.diff(heights)
    assert np.ptp(gaps) < 1e-3
    rows_mm, columns_mm = map(float, images[0].PixelSpacing)
    volume = seg.pixel_array.sum() * rows_mm * columns_mm * gaps.mean() / 1000
    assert volume == pytest.approx(float(row["volume_ml"]), abs=2e-3)
    referenced = {
        str(item.ReferencedSOPInstanceUID) for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced <= {str(ds.SOPInstanceUID) for ds in images}
    assert seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert seg.SegmentSequence[0].SegmentLabel == "lesion"


def test_the_untidiness_is_there() -> None:
    ordered, spacings, orientations = [], set(), set()
    for row in table():
        images = headers(row)
        z = [float(ds.ImagePositionPatient[2]) for ds in images]
        ordered.append((z == sorted(z), [int(ds.InstanceNumber) for ds in images] == sorted(range(1, len(z) + 1))))
        spacings.add(tuple(map(float, images[0].PixelSpacing)))
        orientations.add(tuple(round(float(v), 1) for v in images[0].ImageOrientationPatient))
    assert {by_name for by_name, _ in ordered} == {True, False}
    assert {by_number for _, by_number in ordered} == {True, False}
    assert any(a != b for a, b in spacings)
    assert len(orientations) > 2


def test_no_simple_statistic_tells_the_kinds_apart() -> None:
    from sklearn.metrics import roc_auc_score

    for task in ("source", "target"):
        rows = table(task)
        kind = [row["kind"] == "ring" for row in rows]
        voxels = [np.stack([ds.pixel_array for ds in headers(row)]).astype(float) for row in rows]
        for statistic in (
            np.mean,
            np.std,
            np.max,
            np.min,
            lambda v: np.percentile(v, 95),
            lambda v: np.percentile(v, 99),
        ):
            auc = roc_auc_score(kind, [statistic(v) for v in voxels])
            assert max(auc, 1 - auc) < 0.75


def test_valid_dicom() -> None:
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    for row in table()[::4]:
        for path in (*sorted(folder_of(row).iterdir())[:2], SAMPLES / row["mask"]):
            done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False)
            said = (done.stdout + done.stderr).splitlines()
            # Its first line names the kind of object it recognised, which proves that it looked.
            assert any(line in {"CTImage", "MRImage", "Segmentation"} for line in said)
            assert [line for line in said if line.startswith("Error")] == []

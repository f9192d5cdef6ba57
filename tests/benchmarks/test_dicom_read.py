"""The reading benchmark writes a realistic series and tells a right volume from a wrong one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import dicom_read
    import peers
    from ct_series import CtSeries
finally:
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("options", [{}, {"bits": 12}, {"syntax": "implicit"}, {"syntax": "rle"}])
def test_ours_reads_what_was_written(options: dict[str, object], tmp_path: Path) -> None:
    series = CtSeries(size=48, slices=5, **options)
    series.write(tmp_path / "series")
    np.save(tmp_path / "truth.npy", series.truth())
    found = dicom_read.measure(peers.OURS, tmp_path / "series", tmp_path / "truth.npy", series.affine)
    assert found["wrong"] == ""
    assert 0 < found["read"] < 60
    assert found["mib"] > 1


def test_headers_are_like_those_of_a_scanner(tmp_path: Path) -> None:
    CtSeries(size=16, slices=1).write(tmp_path)
    dataset = dcmread(tmp_path / "IM0001.dcm")
    assert 140 <= len(dataset) <= 180
    assert sum(element.tag.is_private for element in dataset) > 40
    CtSeries(size=16, slices=1).write(tmp_path / "again")
    assert (tmp_path / "again" / "IM0001.dcm").read_bytes() == (tmp_path / "IM0001.dcm").read_bytes()


def test_compare() -> None:
    series = CtSeries(size=16, slices=4)
    truth, affine = series.truth(), series.affine
    array = truth.astype(np.float32)
    assert len(np.unique(array)) > 50

    def wrong(array, affine=affine):
        return dicom_read.compare(array, affine, truth, series.affine)

    assert wrong(array) == ""
    turn = np.array([[0, -1, 0, 15], [1, 0, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1.0]])
    turned = np.ascontiguousarray(np.flip(array, (0, 2)).swapaxes(0, 1))
    assert wrong(turned, affine @ turn) == ""
    assert "values" in wrong(array + np.float32(1))
    assert "values" in wrong(np.flip(array, 2))
    assert "float64" in wrong(array.astype(np.float64))
    assert "origin" in wrong(array[..., :3])
    assert "off" in wrong(array, affine @ np.diag([1, 1, 1.01, 1]))


def test_a_faster_right_reader_fails_and_a_faster_wrong_one_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    def found(other: float, wrong: str) -> dict[str, dict[str, object]]:
        row = {"first": 1.0, "cpu": 1.0, "mib": 1.0}
        rows = {peer.name: {"failed": "no"} for peer in dicom_read.PEERS}
        rows[peers.OURS.name] = row | {"read": 1.0, "wrong": ""}
        rows[peers.PYDICOM_READER.name] = row | {"read": other, "wrong": wrong}
        rows[peers.HIGHDICOM.name] = row | {"read": 3.0, "wrong": ""}
        return rows

    assert dicom_read.show(found(1.5, ""))
    assert not dicom_read.show(found(0.5, ""))
    assert dicom_read.show(found(0.5, "values differ"))
    alone = found(0.5, "values differ") | {peers.HIGHDICOM.name: {"failed": "no"}}
    assert not dicom_read.show(alone)
    assert not dicom_read.show({peers.OURS.name: {"failed": "died"}})
    assert not dicom_read.show({peers.OURS.name: {"wrong": "values differ"}})
    assert "not installed: pip install SimpleITK" in capsys.readouterr().out or not peers.SIMPLEITK.missing

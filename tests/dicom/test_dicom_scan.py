"""The scan: by content, complete, nothing lost without a trace."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import (
    ACCESSION,
    CORONAL,
    EXPLICIT,
    NAME,
    PATIENT,
    Frame,
    Recipe,
    instance,
    save,
    write_seg,
)
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from medtl_monai.dicom import index, read_volume, scan
from medtl_monai.errors import DicomError

SR = "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    first = Recipe().write(tmp_path / "p1" / "T1")
    Recipe(study=first.study, orientation=CORONAL, modality="CT").write(tmp_path / "p1" / "CT")
    Recipe(patient="PID-2").write(tmp_path / "p2")
    mask = np.ones((5, 7), np.uint8)
    write_seg(tmp_path / "p1" / "seg.dcm", [Frame(mask=mask, position=first.position(1))], first)
    report = instance(SR, EXPLICIT, first.study, generate_uid())
    report.Modality = "SR"
    save(report, tmp_path / "p1" / "report")
    (tmp_path / "readme.txt").write_text("text")
    (tmp_path / "p2" / "empty").mkdir()
    return tmp_path


def test_finds_series_studies_and_objects(tree: Path) -> None:
    found = scan(tree)
    assert [s.modality for s in found.series] == ["CT", "MR", "MR"]
    assert [s.shape for s in found.series] == [(7, 5, 6)] * 3
    assert [s.spacing_mm for s in found.series] == [pytest.approx((0.7, 0.9, 3.0))] * 3
    assert len(found.segmentations) == 1
    assert found.segmentations[0].header.references == (found.series[1].series_instance_uid,)
    assert found.skipped == {"not DICOM": 1, "no image (Comprehensive SR Storage)": 1}
    assert found.skipped_files["not DICOM"] == ["readme.txt"]
    assert [(len(s.series), len(s.segmentations)) for s in found.studies] == [(2, 1), (1, 0)]


def test_identifiers_are_there_but_not_shown(tree: Path) -> None:
    found = scan(tree)
    series = found.series[1]
    assert (series.patient_id, series.accession_number) == (PATIENT, ACCESSION)
    assert series.study_instance_uid
    shown = f"{found!r} {series!r} {found.studies!r} {series.slices[0]!r} {found.segmentations!r} {series.summary()}"
    for secret in (NAME, PATIENT, ACCESSION, series.series_instance_uid, series.study_instance_uid, str(tree)):
        assert secret not in shown


def test_nothing_identifying_is_logged(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        series = scan(tree).series
        read_volume(series[1])
    assert "1 skipped" in caplog.text or "file(s) skipped" in caplog.text
    for secret in (NAME, PATIENT, ACCESSION, series[1].series_instance_uid, str(tree)):
        assert secret not in caplog.text


def test_links_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    Recipe().write(outside)
    root = tmp_path / "root"
    Recipe().write(root / "inside")
    os.symlink(outside, root / "link")
    os.symlink(outside / "IM0001", root / "file")
    os.symlink(root / "inside", root / "again")
    os.symlink(root, root / "inside" / "loop")
    found = scan(root)
    assert len(found.series) == 1
    assert len(found.series[0].files) == 6
    assert found.skipped_files["a link that leads out of the data root, not followed"] == ["file", "link"]


def test_a_damaged_file_is_reported_and_blocks_its_series_only(tmp_path: Path) -> None:
    Recipe().write(tmp_path / "good")
    Recipe().write(tmp_path / "bad")
    path = tmp_path / "bad" / "IM0002"
    path.write_bytes(path.read_bytes()[:-10])
    found = scan(tmp_path)
    assert list(found.damaged) == ["bad/IM0002"]
    bad, good = found.series
    assert good.problem is None
    assert "bad/IM0002" in str(bad.problem)
    with pytest.raises(DicomError, match="bad/IM0002"):
        read_volume(bad)
    assert read_volume(good).shape == (7, 5, 6)


def test_empty_files_named_otherwise_are_junk(tmp_path: Path) -> None:
    Recipe(suffix=".dcm").write(tmp_path)
    (tmp_path / "__init__.py").write_bytes(b"")
    (tmp_path / ".gitkeep").write_bytes(b"")
    found = scan(tmp_path)
    assert found.series[0].problem is None
    assert found.skipped == {"empty file": 2}


def test_a_single_file(tmp_path: Path) -> None:
    Recipe().write(tmp_path)
    found = scan(tmp_path / "IM0002")
    assert found.series[0].files == ("IM0002",)


def test_parallel_equals_serial(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = scan(tree)
    monkeypatch.setattr(index, "_CHUNK", 4)
    parallel = scan(tree, workers=2)
    assert parallel.series == serial.series
    assert parallel.skipped_files == serial.skipped_files


def test_dicomdir_is_ignored(tmp_path: Path) -> None:
    source = Path(get_testdata_file("DICOMDIR", download=False)).parent
    found = scan(source)
    assert found.skipped["DICOMDIR"] >= 1
    assert {s.modality for s in found.series} >= {"CT", "MR", "CR"}


def test_unicode_patient_ids_compare_as_text(tmp_path: Path) -> None:
    def edit(ds, k):
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientID = "Ärzte-7"

    Recipe(edit=edit).write(tmp_path)
    assert scan(tmp_path).series[0].patient_id == "Ärzte-7"


def test_equal_series_uid_of_two_patients_are_two_series(tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    Recipe(study=study, series=series, prefix="a").write(tmp_path)
    Recipe(study=study, series=series, prefix="b", patient="PID-2").write(tmp_path)
    assert len(scan(tmp_path).series) == 2


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="no such file"):
        scan(tmp_path / "x")

"""What is known of a patient stays where it was: no written byte, and no line on the terminal, holds it."""

import csv
import gzip

import pytest
from helpers_dicom import Recipe
from helpers_runs import BACKBONE, QUICK, medtl
from pydicom.uid import generate_uid

NAME = "DOE^JANE"


@pytest.fixture
def archive(tmp_path):
    """Eight studies of six patients, in folders named after them, and a table that names them."""
    folder = tmp_path / "archive of DOE_JANE"
    rows, secrets = [], {"DOE", "JANE", "archive of", str(tmp_path)}
    for n in range(8):
        study, patient, accession = generate_uid(), f"MRN77{n % 6:04d}", f"ACC55{n:04d}"

        def identify(dataset, k, patient=patient, accession=accession):
            dataset.PatientName = NAME
            dataset.AccessionNumber = accession
            dataset.PatientBirthDate = "19370423"
            dataset.StudyDate = "20110917"
            dataset.StudyDescription = "follow-up of Jane Doe"
            dataset.InstitutionName = "St Sentinel Hospital"

        Recipe(
            slices=16, rows=16, columns=16, study=study, patient=patient, offset=50 * n, edit=identify, seed=n
        ).write(folder / f"{patient}_{n}")
        rows.append({"StudyInstanceUID": study, "PatientID": patient, "kind": "ab"[n % 2]})
        secrets |= {study, patient, accession, "19370423", "20110917", "Jane Doe", "Sentinel"}
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder, secrets


def written(folder):
    """Return the bytes of every file below a folder, unpacked where packed, with its own name."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found[str(path.relative_to(folder))] = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return found


def test_no_written_byte_and_no_printed_line_holds_an_identifier(archive, tmp_path, capfd):
    folder, secrets = archive
    run, out = tmp_path / "runs" / "run", tmp_path / "runs" / "out"
    flags = ["--studies", folder, "--labels", folder / "labels.csv", "--target", "kind", "--out", run]
    assert medtl("train", *flags, "--backbone", BACKBONE, "--epochs", 1, "--set", "splits.val=0.34",
                 "--set", "splits.test=0.34", *QUICK) == 0  # fmt: skip
    assert medtl("evaluate", run) == 0
    assert medtl("predict", run, folder, "--out", out) == 0
    files = written(tmp_path / "runs")
    assert len(files) > 12
    assert any(b"case_id" in data for data in files.values())
    for name, data in files.items():
        for secret in secrets:
            assert secret not in name
            assert secret.encode() not in data, (name, secret)
    printed = capfd.readouterr()
    for secret in secrets - {str(tmp_path), "archive of", "DOE", "JANE"}:
        assert secret not in printed.out + printed.err


def test_the_id_map_is_written_on_request_only_for_the_user(archive, tmp_path):
    folder, _ = archive
    run = tmp_path / "runs" / "run"
    flags = ["--studies", folder, "--labels", folder / "labels.csv", "--target", "kind", "--out", run]
    assert medtl("train", *flags, "--backbone", BACKBONE, "--epochs", 1, "--set", "splits.val=0.34",
                 "--set", "splits.test=0.34", *QUICK) == 0  # fmt: skip
    target = tmp_path / "map.csv"
    assert medtl("predict", run, folder, "--out", tmp_path / "out", "--id-map", target) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    assert "MRN77" in target.read_text()

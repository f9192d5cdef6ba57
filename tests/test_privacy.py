"""What is known of a patient stays where it was: no written byte, and no line on the terminal, holds it."""

import base64
import csv
import gzip
import io
import logging
import shutil
import stat
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from helpers_dicom import Recipe, frames_of, write_seg
from helpers_runs import BACKBONE, QUICK, medtl
from pydicom.uid import generate_uid

from medtl_monai.data.identity import load_key
from medtl_monai.dicom import scan
from medtl_monai.training import fit

NAME = "DOE^JANE"
TEXTS = {
    "PatientName": NAME,
    "OtherPatientIDs": "OTHER-ID-4711",
    "PatientBirthDate": "19370423",
    "PatientAge": "073Y",
    "PatientAddress": "7 Sentinel Street",
    "PatientComments": "sister of Mrs Roe",
    "StudyDate": "20110917",
    "SeriesDate": "20110918",
    "AcquisitionDate": "20110919",
    "StudyTime": "091733",
    "StudyID": "SID-90210",
    "StudyDescription": "follow-up of Jane Doe",
    "SeriesDescription": "t1 for Dr Quill",
    "ProtocolName": "protocol Quillfeather",
    "ImageComments": "moved, says Quillon",
    "InstitutionName": "St Sentinel Hospital",
    "InstitutionAddress": "Sentinel Square",
    "ReferringPhysicianName": "QUILL^ADA",
    "OperatorsName": "QUERY^BO",
    "StationName": "STATION-SENTI",
    "DeviceSerialNumber": "SERIAL-33221",
}
WORDS = {"DOE^", "DOE_", "JANE", "Jane", "Sentinel", "SENTI", "Quill", "QUILL", "QUERY", "Mrs Roe"}
_SHORT = 6


class Archive:
    """Eight studies of six patients in folders and files named after them, with masks, and a table that names them."""

    def __init__(self, root):
        self.root = root / "archive of DOE_JANE"
        self.secrets = set(TEXTS.values()) | WORDS | {"archive of", str(root)}
        self.recipes = [self._study(n) for n in range(8)]
        rows = []
        for n, recipe in enumerate(self.recipes):
            labels = np.zeros((16, 16, 16), int)
            labels[4 + n % 3 : 12, 4:12, 4:12] = 1
            mask = self.root / f"DOE_JANE_mask_{n}.dcm"
            write_seg(mask, frames_of(labels, recipe), recipe, names=("lesion",), edit=self._identify(n))
            rows.append(
                {
                    "StudyInstanceUID": recipe.study,
                    "PatientID": recipe.patient,
                    "name": NAME,
                    "kind": "ab"[n % 2],
                    "mask": mask.name,
                }
            )
        self.labels = self.root / "DOE_JANE labels.csv"
        with self.labels.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        for path in self.root.rglob("*"):
            self.secrets |= {path.name, path.stem}
            if path.is_file() and path.suffix != ".csv":
                header = pydicom.dcmread(path, stop_before_pixels=True)
                uids = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
                self.secrets |= {str(header[uid].value) for uid in uids if uid in header}

    def _study(self, n):
        patient = f"MRN77{n % 6:04d}"
        recipe = Recipe(slices=16, rows=16, columns=16, study=generate_uid(), patient=patient, offset=50 * n, seed=n)
        recipe.edit, recipe.prefix = self._identify(n), f"DOE_JANE-{n}-"
        self.secrets |= {patient, f"ACC55{n:04d}"}
        return recipe.write(self.root / f"{patient}_{n}" / "t1 JANE")

    @staticmethod
    def _identify(n):
        def identify(dataset, k):
            for keyword, value in TEXTS.items():
                setattr(dataset, keyword, value)
            dataset.AccessionNumber = f"ACC55{n:04d}"
            dataset.add_new(0x00091001, "LO", "private Quill")

        return identify

    def disturb(self):
        """Add what is left out or refused, so that more is said: a copy, a gap, radiographs, a file cut short."""
        first, second = (self.root / f"{self.recipes[n].patient}_{n}" / "t1 JANE" for n in (0, 1))
        shutil.copy(sorted(first.iterdir())[0], first / "DOE_JANE copy")
        sorted(second.iterdir())[3].unlink()
        radiograph = Recipe(modality="CR", slices=3, patient="MRN770099", prefix="JANE_CR-", seed=9)
        radiograph.edit = lambda d, k: delattr(d, "ImagePositionPatient")
        radiograph.write(self.root / "DOE_JANE cr")
        torn = Recipe(slices=4, patient="MRN770098", prefix="JANE_CUT-").write(self.root / "DOE_JANE torn")
        path = sorted((self.root / "DOE_JANE torn").iterdir())[1]
        path.write_bytes(path.read_bytes()[:-9])
        self.secrets |= {"MRN770099", "MRN770098", radiograph.study, radiograph.series, torn.study, torn.series}
        self.secrets |= {p.name for p in self.root.rglob("*")}


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's own folders, where caches and settings go, and everything that is written."""
    for name in ("config", "cache", "state", "data"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / "written" / name))
    monkeypatch.setenv("HOME", str(tmp_path / "written" / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "written" / "temporary"))
    (tmp_path / "written" / "temporary").mkdir(parents=True)
    return tmp_path / "written"


@pytest.fixture
def log(own):
    """A log file of everything that the package logs, as a user's own handler would write it."""
    handler = logging.FileHandler(own / "medtl.log", encoding="utf-8", delay=False)
    logger = logging.getLogger("medtl_monai")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.debug("the log is written to")
    yield own / "medtl.log"
    logger.removeHandler(handler)
    logger.setLevel(before)
    handler.close()


def unpacked(data):
    """Yield bytes, and what is packed in them: gzip, zlib, members of zip files."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(data))
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                yield member.filename.encode()
                yield from unpacked(archive.read(member))
    else:
        try:
            yield zlib.decompress(data)
        except zlib.error:
            return


def written(folder, *, but=()):
    """Return the bytes of every file below a folder, its own name and everything packed in it included."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in but]
    return {str(p.relative_to(folder)): b"\n".join([str(p.relative_to(folder)).encode(), *unpacked(p.read_bytes())])
            for p in paths}  # fmt: skip


def disguises(secret):
    """Return the byte strings a text may hide in."""
    plain = secret.encode()
    found = {plain, secret.encode("utf-16-le"), secret.encode("utf-16-be"), plain.hex().encode()}
    if len(plain) > _SHORT:
        found.add(plain.lower())
        # At each of the three alignments, without the ends that depend on the neighbours.
        found |= {base64.b64encode(b"\0" * shift + plain)[4:-4] for shift in range(3)}
    return found


def leaks(files, secrets):
    """Return what is found where. Among millions of random bytes are short words by chance: those count in texts."""
    found = set()
    for name, data in files.items():
        text = is_text(data)
        for secret in secrets:
            if (text or len(secret) >= _SHORT) and any(disguise in data for disguise in disguises(secret)):
                found.add((name, secret))
    return found


def is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def interrupt_in(monkeypatch, epoch):
    real = fit.Fit._count_step

    def count(self, engine):
        real(self, engine)
        if engine.state.epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", count)


def flags(archive, target, run):
    places = ["--studies", archive.root, "--labels", archive.labels, "--target", target, "--out", run]
    return [*places, "--backbone", BACKBONE, "--epochs", 2, "--set", "splits.val=0.34", "--set", "splits.test=0.34",
            *QUICK]  # fmt: skip


@pytest.mark.parametrize("target", ["kind", "mask"])
def test_no_written_byte_and_no_printed_line_holds_an_identifier(
    target, archive, own, log, tmp_path, capfd, monkeypatch
):
    run, runs = own / "runs" / "run", own / "runs"
    assert medtl("scan", archive.root) == 0
    with monkeypatch.context() as patch:
        interrupt_in(patch, 2)
        assert medtl("train", *flags(archive, target, run)) == 130
    assert medtl("train", "--resume", run) == 0
    assert medtl("evaluate", run) == 0
    assert medtl("evaluate", run, "--part", "val") == 0
    archive.disturb()
    assert medtl("predict", run, archive.root, "--out", runs / "out") == 2
    assert medtl("runs", runs) == 0
    assert medtl("config", "--set", "training.epochs=3") == 0
    assert (run / "report.html").stat().st_size > 1000

    files = written(own, but={"places.json"})
    assert {"checkpoints", "evaluation"} <= {part for name in files for part in name.split("/")}
    assert len(files) > 20
    assert any(b"case_id" in data for data in files.values())
    assert b"refused" in files["runs/out/predictions.csv"]
    assert b"gap" in files["runs/out/predictions.csv"]
    assert "the log is written to" in log.read_text()
    assert leaks(files, archive.secrets) == set()

    printed = capfd.readouterr()
    ids = {s for s in archive.secrets if s[:3] in ("ACC", "1.2") and "_" not in s} | set(TEXTS.values())
    assert len(ids) > 100
    assert [s for s in ids | {str(archive.root)} if s in printed.out + printed.err] == []
    assert "JANE" in printed.err  # the refused study is named, relative to the data root


def test_with_redacted_paths_no_printed_line_holds_anything(archive, own, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("MEDTL_REDACT_PATHS", "1")
    run = own / "runs" / "run"
    assert medtl("train", *flags(archive, "kind", run)) == 0
    assert medtl("evaluate", run) == 0
    archive.disturb()
    assert medtl("scan", archive.root) == 0
    assert medtl("predict", run, archive.root, "--out", own / "out") == 2
    printed = capfd.readouterr()
    hidden = archive.secrets - {str(tmp_path)}  # where the run folder lies, which is no data
    assert [secret for secret in hidden if secret in printed.out + printed.err] == []
    assert "refused" in printed.err


def test_the_search_would_find_something(tmp_path):
    for name, data in (
        ("plain", f"x {NAME}".encode()),
        ("gzip", gzip.compress(NAME.encode())),
        ("zlib", zlib.compress(NAME.encode())),
        ("utf16", NAME.encode("utf-16")),
        ("hex", NAME.encode().hex().encode()),
        ("base64", base64.b64encode(b"a study of " + NAME.encode() + b", 1937")),
    ):
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", NAME)
    (tmp_path / f"{NAME}.csv").write_bytes(b"")
    files = written(tmp_path)
    assert {name for name, _ in leaks(files, {NAME, "study of DOE^JANE"})} == set(files)
    assert leaks(files, {"ROE^RICHARD"}) == set()


def test_where_data_lies_is_noted_for_the_user_only(archive, own):
    assert medtl("train", *flags(archive, "kind", own / "run")) == 0
    (places,) = own.rglob("places.json")
    assert places == own / "config" / "medtl" / "places.json"
    assert str(archive.root) in places.read_text()
    assert stat.S_IMODE(places.stat().st_mode) == 0o600
    # And nothing but places in it: no name of a file, no identifier.
    assert (
        leaks({"places.json": places.read_bytes()}, {r.study for r in archive.recipes} | set(TEXTS.values())) == set()
    )


def test_the_key_is_in_no_run(archive, own):
    assert medtl("train", *flags(archive, "kind", own / "runs" / "run")) == 0
    key = load_key().decode()
    assert len(key) >= 16
    assert leaks(written(own / "runs"), {key}) == set()
    assert (own / "config" / "medtl" / "id.key").read_text().strip() == key


@pytest.mark.parametrize(
    "logger",
    [
        "medtl_monai.dicom.select",
        "medtl_monai.dicom.split",
        "medtl_monai.data",
        "medtl_monai.dicom.index",
        "medtl_monai.dicom.found",
    ],
)
def test_log_records_hold_no_names(logger, archive, own, caplog, tmp_path):
    archive.disturb()
    (archive.root / "DOE_JANE.txt").write_text("no image")
    (archive.root / "JANE link").symlink_to(tmp_path)
    with caplog.at_level(logging.DEBUG, "medtl_monai"):
        assert len(scan(archive.root).series) > 8
        assert medtl("scan", archive.root, "--select", "modality=MR") == 0
    found = [r.getMessage() for r in caplog.records if r.name.startswith(logger)]
    assert caplog.records
    assert [text for text in found for secret in archive.secrets if secret in text] == []


def test_no_cache_of_a_scan_holds_an_identifier(archive, own, monkeypatch):
    monkeypatch.setattr("medtl_monai.dicom.refresh.FRESH_NS", 0)  # remember what is new, too
    assert medtl("scan", archive.root) == 0
    files = written(own / "cache")
    assert files
    assert leaks(files, archive.secrets) == set()


def test_the_id_map_is_written_on_request_only_for_the_user(archive, own, tmp_path):
    run = own / "runs" / "run"
    assert medtl("train", *flags(archive, "kind", run)) == 0
    target = tmp_path / "map.csv"
    assert medtl("predict", run, archive.root, "--out", own / "out", "--id-map", target) == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "MRN77" in target.read_text()


def test_the_table_of_a_scan_is_the_users_own(archive, own, tmp_path):
    assert medtl("scan", archive.root, "-o", tmp_path / "cases.csv") == 0
    assert stat.S_IMODE((tmp_path / "cases.csv").stat().st_mode) == 0o600
    assert archive.recipes[0].study in (tmp_path / "cases.csv").read_text()
    # What people wrote stays out even there.
    assert not any(text in (tmp_path / "cases.csv").read_text() for text in TEXTS.values())

"""medtl scan: what is shown, what never is, and a table that training takes."""

import csv
import json
import shutil
import stat

import numpy as np
import pytest
from helpers_dicom import ACCESSION, NAME, PATIENT, Recipe, frames_of, write_seg
from helpers_rtstruct import Drawn, box, write_rtstruct

from medtl_monai.cli import main
from medtl_monai.config import DataConfig, load_config, parse_set
from medtl_monai.data.cases import load_cases
from medtl_monai.data.kinds import infer_kind
from medtl_monai.errors import DataError

ESCAPE = "\x1b[31m"


@pytest.fixture(autouse=True)
def id_key(monkeypatch):
    monkeypatch.setenv("MEDTL_ID_KEY", "a key for the tests of this room")


@pytest.fixture
def studies(tmp_path):
    """Four clear studies, the first with a scout beside its image."""
    made = []
    for n in range(4):
        edit = lambda d, k: setattr(d, "SeriesDescription", f"t1 {NAME}")  # noqa: E731
        patient = PATIENT if n == 0 else f"=PAT+{n}"
        made.append(Recipe(patient=patient, slices=4, edit=edit).write(tmp_path / "studies" / f"jane{n}" / "t1"))

    def scout(dataset, k):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    Recipe(patient=PATIENT, study=made[0].study, slices=4, edit=scout).write(tmp_path / "studies" / "jane0" / "scout")
    (tmp_path / "studies" / "readme.txt").write_text("text")
    return made


def add_unclear(tmp_path):
    """A study of two equal series, one with a gap, and one with a truncated file."""
    first = Recipe(patient="P8").write(tmp_path / "studies" / "two" / "a")
    Recipe(patient="P8", study=first.study).write(tmp_path / "studies" / "two" / "b")
    Recipe(patient="P9", keep=(0, 1, 3)).write(tmp_path / "studies" / "gap")
    Recipe(patient="P10").write(tmp_path / "studies" / "torn")
    path = tmp_path / "studies" / "torn" / "IM0002"
    path.write_bytes(path.read_bytes()[:-10])


def report(capsys, *options):
    assert main(["scan", *map(str, options), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_series_their_verdicts_and_the_rest(tmp_path, studies, capsys):
    add_unclear(tmp_path)
    found = report(capsys, tmp_path / "studies")
    verdicts = {s["folder"]: (s["verdict"], s["reason"]) for study in found["studies"] for s in study["series"]}
    assert verdicts["jane0/t1"] == ("kept", "")
    assert verdicts["jane0/scout"] == ("left out", "localizer")
    assert verdicts["two/a"] == verdicts["two/b"] == ("one of several", "2 series could be the image")
    assert verdicts["gap"][0] == verdicts["torn"][0] == "refused"
    assert "1 slice(s) missing: gap 6 mm" in verdicts["gap"][1]
    assert "PixelData is truncated" in verdicts["torn"][1]
    assert found["skipped"] == {"not DICOM": 1}
    assert [item["file"] for item in found["damaged"]] == ["torn/IM0002"]
    series = found["studies"][1]["series"][0]
    assert (series["modality"], series["shape"], series["plane"], series["files"]) == ("MR", [7, 5, 4], "axial", 4)
    assert series["spacing_mm"] == pytest.approx([0.7, 0.9, 3.0])


def test_the_table_says_the_same(tmp_path, studies, capsys):
    add_unclear(tmp_path)
    assert main(["scan", str(tmp_path / "studies")]) == 0
    out = capsys.readouterr().out
    assert "7 studies, 7 patients; the image is clear in 4" in out
    assert "skipped, not DICOM: 1" in out
    assert "damaged: torn/IM0002: PixelData is truncated" in out
    assert out.count("kept") == 4
    assert "left out: localizer" in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_identifiers_and_descriptions_are_not_shown(options, tmp_path, studies, capsys):
    assert main(["scan", str(tmp_path / "studies"), *options]) == 0
    captured = capsys.readouterr()
    for secret in (NAME, PATIENT, ACCESSION, "=PAT", studies[0].study, studies[0].series, str(tmp_path)):
        assert secret not in captured.out + captured.err
    assert "jane0" in captured.out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_descriptions_on_request_and_harmless(options, tmp_path, capsys):
    def edit(dataset, k):
        dataset.SeriesDescription = f"t1 {ESCAPE}red"

    Recipe(edit=edit).write(tmp_path / "studies" / "x")
    assert main(["scan", str(tmp_path / "studies"), "--show-descriptions", *options]) == 0
    captured = capsys.readouterr()
    assert "t1" in captured.out
    assert "red" in captured.out
    assert "\x1b[31m" not in captured.out
    assert "UserWarning" not in captured.err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_paths_can_be_hidden(options, tmp_path, studies, capsys):
    add_unclear(tmp_path)
    assert main(["scan", str(tmp_path / "studies"), "--redact-paths", *options]) == 0
    out = capsys.readouterr().out
    for name in ("jane", "torn", "IM0", "gap/"):
        assert name not in out
    assert out.count("file-") >= 8
    assert "PixelData is truncated" in out


def test_rules_and_patterns(tmp_path, studies, capsys):
    found = report(capsys, tmp_path / "studies", "--select", "localizer=true", "--skip", "*.txt", "--skip", "jane3")
    assert [s["folder"] for study in found["studies"] for s in study["series"] if s["verdict"] == "kept"] == [
        "jane0/scout"
    ]
    assert len(found["studies"]) == 3
    assert found["skipped"] == {"left out as asked": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "modlity=MR"], "Did you mean 'modality'?"),
        (["--select", "modality"], "is not KEY=VALUE"),
        (["--select", "orientation=diagonal"], "data.select.orientation"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_options(options, message, tmp_path, studies, capsys):
    assert main(["scan", str(tmp_path / "studies"), *options]) == 2
    assert message in capsys.readouterr().err


def test_no_folder_and_no_images(tmp_path, capsys):
    assert main(["scan", str(tmp_path / "absent")]) == 2
    assert "absent: no such file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["scan", str(tmp_path / "empty")]) == 0
    assert "0 studies" in capsys.readouterr().out
    assert main(["scan", str(tmp_path / "empty"), "-o", str(tmp_path / "cases.csv")]) == 2
    assert not (tmp_path / "cases.csv").exists()


def write_table(tmp_path, *options):
    path = tmp_path / "cases.csv"
    assert main(["scan", str(tmp_path / "studies"), "-o", str(path), *options]) == 0
    with path.open(encoding="utf-8", newline="") as file:
        return path, list(csv.DictReader(file))


def add_labels(path, rows, labels):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "grade"])
        writer.writeheader()
        writer.writerows({**row, "grade": label} for row, label in zip(rows, labels, strict=True))


def test_the_table_goes_round(tmp_path, studies, capsys):
    path, rows = write_table(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "holds patient identifiers" in capsys.readouterr().err
    assert [row["StudyInstanceUID"] for row in rows] == [r.study for r in studies]
    assert [row["PatientID"] for row in rows] == [PATIENT, "'=PAT+1", "'=PAT+2", "'=PAT+3"]
    assert {row["verdict"] for row in rows} == {"kept"}
    add_labels(path, rows, ["low", "high", "low", "high"])
    table = load_cases(DataConfig(studies=tmp_path / "studies", labels=path, target=["grade"]), "class")
    assert list(table.ids) == [row["case_id"] for row in rows]
    assert [table.classes[case.target] for case in table] == ["low", "high", "low", "high"]
    assert [case.source for case in table] == [row["folder"] for row in rows]
    assert len({case.group for case in table}) == 4
    assert ["x".join(map(str, table.read_volume(c).shape)) for c in table] == [row["shape"] for row in rows]


def test_a_table_with_unclear_studies_says_so_and_rules_mend_it(tmp_path, studies, capsys):
    edit = lambda d, k: setattr(d, "SeriesDescription", "t2")  # noqa: E731
    Recipe(patient=PATIENT, study=studies[0].study, slices=4, edit=edit).write(tmp_path / "studies" / "jane0" / "t2")
    path, rows = write_table(tmp_path)
    assert "the image of 1 of 4 studies is not clear" in capsys.readouterr().err
    assert rows[0]["verdict"] == "one of several: 2 series could be the image"
    add_labels(path, rows, ["low", "high", "low", "high"])
    data = {"data.studies": tmp_path / "studies", "data.labels": path, "data.target": "grade"}
    with pytest.raises(DataError, match=r"not clear.*row 2"):
        load_cases(load_config(None, data).data, "class")
    rules = parse_set(["data.select.description=^t1"])
    assert len(load_cases(load_config(None, {**data, **rules}).data, "class")) == 4
    path.unlink()
    _, rows = write_table(tmp_path, "--select", "description=^t1", "--redact-paths")
    assert {row["verdict"] for row in rows} == {"kept"}
    assert "folder" not in rows[0]


def test_a_table_is_never_overwritten(tmp_path, studies, capsys):
    path, _ = write_table(tmp_path)
    path.write_text("labelled")
    assert main(["scan", str(tmp_path / "studies"), "-o", str(path)]) == 2
    assert "labels may have been added" in capsys.readouterr().err
    assert path.read_text() == "labelled"


def test_a_scan_is_remembered_unless_asked_not_to(tmp_path, studies, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = report(capsys, tmp_path / "studies", "--no-remember")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("medtl_monai.dicom.refresh.FRESH_NS", 0)
    assert report(capsys, tmp_path / "studies") == first
    (file,) = (tmp_path / "cache" / "medtl" / "scans").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setattr("medtl_monai.dicom.refresh.parse_file", lambda root, path: pytest.fail(path))
    assert report(capsys, tmp_path / "studies") == first


def test_a_scan_that_cannot_be_remembered_says_so_and_goes_on(tmp_path, studies, capsys, monkeypatch):
    first = report(capsys, tmp_path / "studies", "--no-remember")
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        warned = []
        patch.setattr("medtl_monai.data.scanning._log.warning", lambda text, error: warned.append(text % error))
        assert report(capsys, tmp_path / "studies") == first
    assert len(warned) == 1
    assert "could not be remembered" in warned[0]
    assert str(tmp_path) not in warned[0]


def add_masks(tmp_path, studies):
    """A structure set for the first study, a SEG for the second, both for the third, another series' for the fourth."""
    labels = np.zeros((7, 5, 4), np.int16)
    labels[1:3, 1:4, 1:3] = 1
    root = tmp_path / "studies"
    rois = {"lesion": [Drawn(points=box(0.5, 0.5, 2.5, 3.5), k=k) for k in (1, 2)]}
    write_rtstruct(root / "jane0" / "rs", rois, studies[0])
    write_seg(root / "jane1" / "seg", frames_of(labels, studies[1]), studies[1], names=["lesion"])
    write_rtstruct(root / "jane2" / "rs", rois, studies[2])
    write_seg(root / "jane2" / "seg", frames_of(labels, studies[2]), studies[2], names=["lesion"])
    other = Recipe(patient=studies[3].patient, study=studies[3].study, slices=4)
    write_rtstruct(root / "jane3" / "rs", rois, other)
    return labels


def test_masks_of_the_kept_series_are_in_the_table_and_train(tmp_path, studies, capsys):
    labels = add_masks(tmp_path, studies)
    path, rows = write_table(tmp_path)
    assert [row["mask"] for row in rows] == ["jane0/rs", "jane1/seg", "", ""]
    assert [row["verdict"] for row in rows] == ["kept", "kept", "kept; 2 segmentations refer to it", "kept"]
    said = capsys.readouterr().err
    assert "the segmentation of 2 of 4 studies; to segment: --target mask --set data.unmatched=drop" in said
    assert "1 of 4 studies have several segmentations" in said
    data = DataConfig(studies=tmp_path / "studies", labels=path, target=["mask"], unmatched="drop")
    assert infer_kind(data) == "mask"
    table = load_cases(data, "mask")
    assert table.classes == ("background", "lesion")
    assert [case.source for case in table] == ["jane0/t1", "jane1/t1"]
    for case in table:
        assert np.array_equal(table.read_target(case, table.read_volume(case)), labels)
    assert labels.any()


def test_masks_are_shown_by_pseudonym_or_not_at_all(tmp_path, studies, capsys):
    add_masks(tmp_path, studies)
    found = report(capsys, tmp_path / "studies")
    assert [study["masks"] for study in found["studies"]] == [
        ["jane0/rs"],
        ["jane1/seg"],
        ["jane2/seg", "jane2/rs"],
        [],
    ]
    assert [study["structure_sets"] for study in found["studies"]] == [1, 0, 1, 1]
    hidden = report(capsys, tmp_path / "studies", "--redact-paths")
    assert "jane" not in json.dumps(hidden)
    assert [len(study["masks"]) for study in hidden["studies"]] == [1, 1, 2, 0]
    _, rows = write_table(tmp_path, "--redact-paths")
    assert "mask" not in rows[0]
    assert "to segment" not in capsys.readouterr().err


def test_masks_in_an_archive_are_not_offered(tmp_path, studies, capsys):
    add_masks(tmp_path, studies)
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "studies")
    path = tmp_path / "cases.csv"
    assert main(["scan", str(tmp_path / "export.zip"), "-o", str(path)]) == 0
    with path.open(encoding="utf-8", newline="") as file:
        assert {row["mask"] for row in csv.DictReader(file)} == {""}
    assert "to segment" not in capsys.readouterr().err

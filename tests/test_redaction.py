"""--redact-paths: whatever goes wrong, no name of a data file or folder is shown; without it the relative name is."""

import json
import logging
import shutil
import sys
import warnings
import zipfile

import nibabel as nib
import numpy as np
import pytest
import typer
from helpers_dicom import Recipe
from helpers_runs import BACKBONE, QUICK, medtl, train, write_rows

from medtl_monai.cli import COMMANDS
from medtl_monai.cli.application import load_command
from medtl_monai.cli.options import DebugOption, RedactOption
from medtl_monai.cli.terminal import RedactingStream, hide, session
from medtl_monai.data.identity import load_key, pseudonym
from medtl_monai.data.redaction import Redactor
from medtl_monai.errors import DataError

MARK = "marley"
"""Occurs in the name of every file and folder of the data."""
ROOM = "archive of MARLEY"
PERSONS = (
    "MARLEY^JACOB 1843",
    "mârley_bob",
    "0042-marley",
    "marley.q",
    "(marley)",
    "marley's=1",
    "MARLEY,C",
    "marley 7",
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Eight studies in folders named after persons, and a table that labels them."""
    root = tmp_path_factory.mktemp("data") / ROOM
    rows = []
    for n, person in enumerate(PERSONS):
        recipe = Recipe(slices=16, rows=16, columns=16, patient=f"P{n}", seed=n, offset=90 * n, prefix="Marley-")
        recipe.write(root / person)
        rows.append({"StudyInstanceUID": recipe.study, "PatientID": f"P{n}", "kind": "ab"[n % 2]})
    write_rows(root / "marley-labels.csv", rows)
    return root


@pytest.fixture
def room(archive, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(archive, tmp_path / ROOM)


def fit(root, out, *more):
    flags = ["--studies", root, "--labels", root / "marley-labels.csv", "--target", "kind", "--out", out]
    return medtl("train", *flags, "--backbone", BACKBONE, "--epochs", 1, *QUICK, *more)


def rows_of(root):
    lines = (root / "marley-labels.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]


def torn(root):
    path = root / PERSONS[0] / "Marley-IM0003"
    path.write_bytes(path.read_bytes()[:-9])


def gap(root):
    (root / PERSONS[4] / "Marley-IM0004").unlink()


def copied(root):
    shutil.copy(root / PERSONS[5] / "Marley-IM0004", root / PERSONS[5] / "Marley copy")


def no_row(root):
    write_rows(root / "marley-labels.csv", rows_of(root)[1:])


def two_series(root):
    recipe = Recipe(slices=16, rows=16, columns=16, patient="P1", study=rows_of(root)[1]["StudyInstanceUID"])
    recipe.write(root / PERSONS[1] / "marley second")


def no_mask(root):
    write_rows(root / "marley-labels.csv", [{**row, "kind": "marley/mask.nii.gz"} for row in rows_of(root)])


def foreign_mask(root):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), root / "marley mask.nii.gz")
    for n, row in enumerate(found := rows_of(root)):
        row["kind"] = f"marley{n}.nii.gz"
        shutil.copy(root / "marley mask.nii.gz", root / row["kind"])
    write_rows(root / "marley-labels.csv", found)


def radiographs(root):
    for n in range(2):
        edit = lambda d, k: delattr(d, "ImagePositionPatient")  # noqa: E731
        recipe = Recipe(modality="CR", slices=3, patient="X", seed=n, prefix="marley", edit=edit)
        recipe.write(root / f"marley cr{n}")


def broken_nifti(root):
    (root / "marley.nii.gz").write_bytes(b"no NIfTI")


DAMAGES = (torn, gap, copied, no_row, two_series, no_mask, foreign_mask, radiographs, broken_nifti)


def without_marks(captured):
    text = captured.out + captured.err
    # JSON writes what is not ASCII as an escape.
    return text.lower(), MARK not in text.lower().replace("\\u00e2", "a").replace("â", "a")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_nothing_that_is_wrong_with_data_shows_a_name(damage, room, tmp_path, capsys):
    damage(room)
    code = fit(room, tmp_path / "run", "--redact-paths", "--dry-run")
    assert medtl("scan", room, "--redact-paths", "--show-descriptions") == 0
    assert medtl("scan", room, "--redact-paths", "--json") == 0
    captured = capsys.readouterr()
    text, clean = without_marks(captured)
    assert clean, text
    assert str(tmp_path / ROOM) not in captured.out + captured.err
    assert json.loads(captured.out[captured.out.rindex("\n{\n") :])["studies"]
    assert "file-" in text
    # The same without the option: the name is there, the absolute path is not.
    plain = fit(room, tmp_path / "run", "--dry-run")
    said = capsys.readouterr()
    assert code == plain
    assert str(room) not in said.out + said.err
    medtl("scan", room)
    assert MARK in capsys.readouterr().out.lower()


def test_a_run_from_training_to_prediction_shows_no_name(room, tmp_path, capsys):
    torn(room)
    (room / "marley-labels.csv").write_text((room / "marley-labels.csv").read_text())
    shutil.rmtree(room / PERSONS[0])
    write_rows(room / "marley-labels.csv", rows_of(room)[1:])
    copied(room)
    assert fit(room, tmp_path / "run", "--redact-paths", "--set", "splits.val=0.3", "--set", "splits.test=0.3") == 0
    gap(room)
    medtl("evaluate", tmp_path / "run", "--redact-paths", "--part", "train")
    medtl("evaluate", tmp_path / "run", "--redact-paths", "--part", "test")
    assert medtl("predict", tmp_path / "run", room, "--out", tmp_path / "out", "--redact-paths") == 2
    assert medtl("predict", tmp_path / "run", room, "--out", tmp_path / "o2", "--redact-paths", "--json") == 2
    text, clean = without_marks(captured := capsys.readouterr())
    assert clean, text
    assert "refused" in text
    assert "file-" in captured.err
    assert medtl("predict", tmp_path / "run", room, "--out", tmp_path / "o3") == 2
    assert "refused (marley)" in capsys.readouterr().err


def test_nifti_tables_and_folders(tmp_path, capsys):
    data = tmp_path / "Marley study"
    (data / "marley images").mkdir(parents=True)
    rows = []
    for n in range(6):
        name = f"marley images/marley-{n}.nii.gz"
        nib.save(nib.Nifti1Image(np.random.default_rng(n).normal(size=(16, 16, 16)), np.eye(4)), data / name)
        rows.append({"image": name, "patient": f"P{n}", "kind": "ab"[n % 2]})
    write_rows(data / "marley.csv", rows)
    for row in rows:
        (data / row["image"]).rename(data / row["image"].replace(".nii.gz", ".kept"))
        (data / row["image"]).write_bytes(b"broken")
    assert train(data / "marley.csv", tmp_path / "run", "--redact-paths") == 2
    assert train(data / "marley.csv", tmp_path / "run", "--redact-paths", target="knd") == 2
    assert train(data / "marley absent.csv", tmp_path / "run", "--redact-paths") == 2
    write_rows(data / "marley.csv", [*rows, {"image": "marley images/none.nii", "patient": "P9", "kind": "a"}])
    assert train(data / "marley.csv", tmp_path / "run", "--redact-paths") == 2
    text, clean = without_marks(capsys.readouterr())
    assert clean, text
    assert text.count("error: ") == 4
    assert train(data / "marley.csv", tmp_path / "run") == 2
    assert "error: marley.csv" in capsys.readouterr().err


def test_a_zip_archive(room, tmp_path, capsys):
    torn(room)
    with zipfile.ZipFile(tmp_path / "marley.zip", "w") as archive:
        for path in room.rglob("*"):
            archive.write(path, path.relative_to(room))
    assert medtl("scan", tmp_path / "marley.zip", "--redact-paths") == 0
    text, clean = without_marks(capsys.readouterr())
    assert clean, text
    assert "pixeldata is truncated" in text


def test_the_variable_does_the_same_everywhere(room, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MEDTL_REDACT_PATHS", "1")
    torn(room)
    assert medtl("scan", room, "-o", tmp_path / "cases.csv") == 0
    fit(room, tmp_path / "run")
    text, clean = without_marks(capsys.readouterr())
    assert clean, text
    assert MARK not in (tmp_path / "cases.csv").read_text().lower()
    monkeypatch.setenv("MEDTL_REDACT_PATHS", "0")
    assert medtl("scan", room) == 0
    assert MARK in capsys.readouterr().out.lower()


def test_a_path_that_was_not_quoted(capsys):
    assert medtl("scan", "--redact-paths", "archive", "of", "MARLEY") == 2
    text, clean = without_marks(capsys.readouterr())
    assert clean, text
    assert "unexpected extra argument" in text


@pytest.fixture
def probe(monkeypatch, archive):
    """Return a function that makes ``medtl probe`` run a given function on the archive."""

    def install(function):
        app = typer.Typer()

        @app.command()
        def command(redact_paths: RedactOption = False, debug: DebugOption = False) -> None:
            hide(archive)
            function()

        monkeypatch.setitem(COMMANDS, "probe", "A command for tests.")
        module = type(sys)("medtl_monai.cli.probe")
        module.app = app
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def test_tracebacks_logs_warnings_and_prints_go_the_same_way(probe, archive, capsys):
    path = archive / PERSONS[0] / "Marley-IM0001"

    def function():
        print("a plugin prints", path)
        print("in two ", end="pieces: MAR")
        print("LEY^JACOB 1843/Marley-IM0001")
        logging.getLogger("some.plugin").warning("reads %s", path)
        sys.stderr.write(warnings.formatwarning(f"odd: {path}", UserWarning, "plugin.py", 1, ""))
        (path / "no file").read_bytes()

    probe(function)
    assert medtl("probe", "--redact-paths", "--debug") == 1
    captured = capsys.readouterr()
    text, clean = without_marks(captured)
    assert clean, text
    assert "Traceback" in captured.err
    assert "NotADirectoryError" in captured.err
    assert text.count("file-") >= 6
    assert medtl("probe", "--debug") == 1
    captured = capsys.readouterr()
    assert str(path) in captured.err
    assert "pieces: MARLEY" in captured.out


def test_the_streams_are_given_back(probe, capsys):
    before = sys.stdout, sys.stderr
    seen = []

    def function():
        seen.extend((sys.stdout, sys.stderr))
        sys.stdout.write("without an end")
        raise DataError("told so", mend="Do it")

    probe(function)
    assert medtl("probe", "--redact-paths") == 2
    assert all(isinstance(stream, RedactingStream) for stream in seen)
    assert not hasattr(seen[0], "buffer")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "without an end"
    assert medtl("probe") == 2
    assert (sys.stdout, sys.stderr) == before


def test_without_a_session_nothing_is_hidden(archive):
    with session():
        hide(archive)
        assert not isinstance(sys.stdout, RedactingStream)


def test_every_command_that_reads_data_has_the_option():
    takes = {"studies", "labels", "folder", "data", "config"}
    found = []
    for name in COMMANDS:
        parameters = {parameter.name: parameter for parameter in load_command(name).params}
        if takes & set(parameters) and name != "runs":  # which lists run folders, not data
            found.append(name)
            assert "--redact-paths" in parameters["redact_paths"].opts
    assert set(found) >= {"scan", "train", "evaluate", "predict", "config", "demo"}


# The redactor itself


def redacted(tmp_path, text, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return Redactor([tmp_path], key=b"k" * 20).text(text)


def alias(name):
    return f"file-{pseudonym(b'k' * 20, 'path', name)}"


def test_a_name_has_one_pseudonym_wherever_it_stands(tmp_path):
    text = "a doe/IM001.dcm, 'doe', \x1b[2mdoe\x1b[0m: doe's doe_x doesn't xdoe"
    found = redacted(tmp_path, text, ["doe/IM001.dcm"])
    assert found == (
        f"a {alias('doe')}/{alias('IM001.dcm')}, '{alias('doe')}', \x1b[2m{alias('doe')}\x1b[0m: {alias('doe')}'s "
        "doe_x doesn't xdoe"
    )
    assert redacted(tmp_path, found, []) == found


def test_the_longest_name_wins_and_blanks_do_not_matter(tmp_path):
    assert (
        redacted(tmp_path, "in Jane Doe (2): gap", ["Jane/x", "Jane Doe (2)/y"]) == f"in {alias('Jane Doe (2)')}: gap"
    )


def test_numbers_and_ordinary_words_are_names_only_in_paths(tmp_path):
    names = ["101/7/IM1", "5/x", "studies/doe/1"]
    text = "loaded 5/5 of 101 in 7 studies; refused 101: bad; folders 101/, 5/; 101/7: gap; studies/doe/1"
    expected = (
        f"loaded 5/5 of 101 in 7 studies; refused {alias('101')}: bad; folders {alias('101')}/, {alias('5')}/; "
        f"{alias('101')}/{alias('7')}: gap; {alias('studies')}/{alias('doe')}/{alias('1')}"
    )
    assert redacted(tmp_path, text, names) == expected


def test_names_are_found_quoted_escaped_and_without_their_suffix(tmp_path):
    name = "M\u00fcller\tX.nii.gz"
    (tmp_path / name).touch()
    text = f"{name!r} {name!a} M\u00fcller\N{REPLACEMENT CHARACTER}X.nii.gz M\u00fcller\tX"
    found = Redactor([tmp_path], key=b"k" * 20).text(text)
    assert "ller" not in found
    assert found.count("file-") == 4


def test_the_root_goes_as_a_whole_and_a_bad_key_is_no_excuse(tmp_path, monkeypatch):
    (tmp_path / "doe").mkdir()
    monkeypatch.setenv("MEDTL_ID_KEY", "short")
    with pytest.raises(Exception, match="5 characters"):
        load_key()
    found = Redactor([tmp_path / "doe"]).text(f"in {tmp_path / 'doe'}/IM0001 of {tmp_path.name}")
    assert "doe" not in found
    assert str(tmp_path) not in found
    assert found.endswith(f"of {tmp_path.name}")


def test_without_roots_nothing_changes():
    assert Redactor().text("doe/IM0001") == "doe/IM0001"
    assert Redactor().value({"a": ["doe"]}) == {"a": ["doe"]}


def test_many_names_are_fast(tmp_path):
    redactor = Redactor(key=b"k" * 20)
    redactor.add_names(f"{n:05d}doe/IM{n:06d}" for n in range(50_000))
    text = " ".join(f"{n:05d}doe/IM{n:06d}: gap of 3 mm;" for n in range(300))
    found = redactor.text(text)
    assert "doe" not in found
    assert found.count("file-") == 600

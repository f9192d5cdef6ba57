"""medtl key: where it is, its fingerprint, and how two machines come to have the same one."""

import json
import shutil
import stat

import pytest
from helpers_runs import make_data, medtl, read_rows, record, train

from medtl_monai.data.identity import fingerprint, key_path


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that changes to another user's machine."""

    def change(name):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / name))
        return tmp_path / name / "medtl" / "id.key"

    change("mine")
    return change


def shown(capsys, *options):
    assert medtl("key", "--json", *options) == 0
    return json.loads(capsys.readouterr().out)


def test_the_key_is_never_printed(machine, capsys):
    assert medtl("key") == 0
    captured = capsys.readouterr()
    secret = key_path().read_text().strip()
    assert fingerprint(secret.encode()) in captured.out
    assert "id.key" in captured.out
    assert secret not in captured.out + captured.err
    assert shown(capsys)["source"] == str(key_path())


def test_export_and_import(machine, tmp_path, capsys):
    mine = shown(capsys, "--export", tmp_path / "team.key")
    assert stat.S_IMODE((tmp_path / "team.key").stat().st_mode) == 0o600
    machine("theirs")
    assert not key_path().exists()
    assert shown(capsys, "--import", tmp_path / "team.key")["fingerprint"] == mine["fingerprint"]
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert shown(capsys, "--import", tmp_path / "team.key")["fingerprint"] == mine["fingerprint"]
    assert [path.name for path in key_path().parent.iterdir()] == ["id.key"]


def test_another_key_gives_way_only_when_told_and_is_kept(machine, tmp_path, capsys):
    mine = shown(capsys, "--export", tmp_path / "team.key")
    machine("theirs")
    theirs = shown(capsys)
    before = key_path().read_bytes()
    assert medtl("key", "--import", tmp_path / "team.key") == 2
    assert "you have another key" in capsys.readouterr().err
    assert key_path().read_bytes() == before
    assert medtl("key", "--import", tmp_path / "team.key", "--replace") == 0
    captured = capsys.readouterr()
    assert mine["fingerprint"] in captured.out
    assert f"id.key.{theirs['fingerprint']}" in captured.err
    assert key_path().with_name(f"id.key.{theirs['fingerprint']}").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--import", "absent"], "absent: the file with the key"),
        (["--export", "x", "--import", "y"], "at once"),
        (["--replace"], "Add --import"),
    ],
)
def test_bad_options(options, message, machine, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert medtl("key", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_exported_key_overwrites_nothing(machine, tmp_path, capsys):
    (tmp_path / "team.key").write_text("something")
    assert medtl("key", "--export", tmp_path / "team.key") == 2
    assert (tmp_path / "team.key").read_text() == "something"


def test_an_imported_key_that_is_not_the_one_in_use(machine, tmp_path, capsys, monkeypatch):
    assert medtl("key", "--export", tmp_path / "team.key") == 0
    monkeypatch.setenv("MEDTL_ID_KEY", "x" * 20)
    assert medtl("key", "--import", tmp_path / "team.key") == 0
    captured = capsys.readouterr()
    assert "MEDTL_ID_KEY comes first" in captured.err
    assert fingerprint(b"x" * 20) in captured.out


@pytest.fixture
def two(machine, tmp_path, capsys):
    """A run on one machine, the same data on another."""
    labels = make_data(tmp_path / "data", cases=12)
    assert train(labels, tmp_path / "run") == 0
    assert medtl("key", "--export", tmp_path / "team.key") == 0
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    machine("theirs")
    capsys.readouterr()
    return tmp_path / "run", tmp_path / "moved" / "labels.csv"


def test_with_one_key_ids_and_splits_travel(two, tmp_path, capsys, monkeypatch):
    run, labels = two
    assert medtl("key", "--import", tmp_path / "team.key") == 0
    assert train(labels, tmp_path / "again") == 0
    mine, theirs = (read_rows(folder / "splits.csv") for folder in (run, tmp_path / "again"))
    assert mine == theirs
    assert len({row["case_id"] for row in mine}) == 12
    assert medtl("evaluate", run, "--labels", labels) == 0
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "third"))
    monkeypatch.setenv("MEDTL_ID_KEY_FILE", str(tmp_path / "team.key"))
    assert train(labels, tmp_path / "stored", "--set", f"splits.file={run / 'splits.csv'}") == 0
    assert read_rows(tmp_path / "stored/splits.csv") == mine


def test_with_another_key_the_sentence_says_so(two, tmp_path, capsys):
    run, labels = two
    noted = record(run)["id_key"]
    assert noted == read_rows(run / "splits.csv")[0]["id_key"]
    commands = (
        ("evaluate", run, "--labels", labels),
        ("train", "--resume", run, "--labels", labels),
    )
    for command in commands:
        assert medtl(*command) == 2
        said = capsys.readouterr().err
        assert "error: run: its case ids were made with another id key" in said
        assert f"fingerprint {noted}, you have none yet" in said
        assert not key_path().exists()
    assert train(labels, tmp_path / "new", "--set", f"splits.file={run / 'splits.csv'}") == 2
    said = capsys.readouterr().err
    assert "splits.csv: its case ids were made with another id key" in said
    assert f"yours is {fingerprint(key_path().read_text().strip().encode())}" in said


def test_a_run_of_before_fingerprints_opens(two, capsys):
    run, labels = two
    values = record(run)
    del values["id_key"]
    (run / "run.json").write_text(json.dumps(values))
    lines = [line.rpartition(",")[0] for line in (run / "splits.csv").read_text().splitlines()]
    (run / "splits.csv").write_text("\n".join(lines) + "\n")
    assert lines[0] == "case_id,group,split"
    # Opened, and then refused for what it is: with another key all cases are others.
    assert medtl("evaluate", run, "--labels", labels) == 2
    assert "another id key" not in capsys.readouterr().err
    assert medtl("key", "--import", run.parent / "team.key", "--replace") == 0
    assert medtl("evaluate", run, "--labels", labels) == 0

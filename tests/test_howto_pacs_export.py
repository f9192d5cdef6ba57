"""The how-to "Train on your PACS export": its commands run, in their order, on the sample studies."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers_runs import BACKBONE, QUICK, medtl, read_rows

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/howto/pacs-export.md"
ANSWERS = {row["StudyInstanceUID"]: row["kind"] for row in read_rows(ROOT / "sample_dicoms/target.csv")}


def commands():
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An export of 25 studies, three more that came later, and the folders of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/.cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(ROOT / "sample_dicoms/studies/mr", "export")
    studies = sorted(Path("export").iterdir())
    for study in studies[:3]:
        shutil.copytree(study, Path("incoming") / study.name)
    return tmp_path


def add_answers():
    rows = read_rows(Path("cases.csv"))
    assert len(rows) == 25
    with Path("cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "grade"])
        writer.writeheader()
        writer.writerows({**row, "grade": ANSWERS[row["StudyInstanceUID"]]} for row in rows)


def test_the_commands_of_the_page_run_in_their_order(here, capsys, monkeypatch):
    ran = []
    for words in commands():
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            monkeypatch.setenv(name, value)
        else:
            assert words[0] == "medtl"
            quick = ["--backbone", BACKBONE, "--epochs", "1", *QUICK] if words[1] == "train" else []
            assert medtl(*words[1:], *quick) == 0, words
            ran.append(words[1])
            if "-o" in words:
                add_answers()
    assert ran == ["scan", "scan", "scan", "train", "train", "evaluate", "predict", "key", "key", "key", "cache"]
    assert len(read_rows(Path("predictions/predictions.csv"))) == 3
    assert {row["source"] for row in read_rows(Path("id-map.csv"))} == {p.name for p in Path("incoming").iterdir()}
    assert Path("runs/grade/report.html").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "25 studies, 22 patients; the image is clear in 25" in out
    # Since the variable is set, no folder is named.
    assert medtl("scan", "export") == 0
    assert "file-" in capsys.readouterr().out


def test_the_zip_of_an_export(here, capsys):
    shutil.make_archive("export", "zip", "export")
    assert "medtl scan export.zip" in PAGE.read_text()
    assert medtl("scan", "export.zip") == 0
    assert "the image is clear in 25" in capsys.readouterr().out


def test_the_messages_in_the_table_are_those_of_the_code():
    source = "\n".join(path.read_text() for path in (ROOT / "medtl_monai").rglob("*.py"))
    told = re.findall(r"^\| `([^`]+)`", PAGE.read_text(), re.MULTILINE)
    assert len(told) == 11
    for text in told:
        words = re.split(r"…|\d+ mm|\d+×\d+ mm| \d+ |: gap|left out: | = ", text)
        assert all(word.strip() in source or "ImagePosition" in word for word in words), text
    assert ' is missing"' in source or " is missing'" in source

"""A head in one file, from the tutorial: trained, stored with its run, and asked for where it is missing."""

import json
import shutil
from pathlib import Path

import pytest
from helpers_runs import make_data, medtl, record, train

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorials" / "log_volume.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    labels = make_data(tmp_path_factory.mktemp("data"), cases=12)
    plugin = tmp_path_factory.mktemp("plugin") / "log_volume.py"
    shutil.copy(TUTORIAL, plugin)
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(labels, run, "--head", "log-volume", "--plugin", plugin, target="radius") == 0
    return run, plugin, labels


def test_the_tutorials_head_has_less_than_forty_lines():
    assert len(TUTORIAL.read_text().splitlines()) < 40


def test_it_trains_and_the_run_keeps_the_file(finished):
    run, plugin, _ = finished
    assert record(run)["task"] == "regression"
    assert (run / "plugins" / "log_volume.py").read_bytes() == plugin.read_bytes()
    (head,) = [p for p in json.loads((run / "plugins.json").read_text()) if p["kind"] == "head"]
    assert head["name"] == "log_volume.py:log-volume"
    assert len(head["file_sha256"]) == 64


def test_evaluate_predict_and_resume_find_it_where_it_was(finished, tmp_path):
    run, _, labels = finished
    assert medtl("evaluate", run) == 0
    assert medtl("predict", run, labels.parent / "images", "--out", tmp_path / "out") == 0
    assert medtl("train", "--resume", run) == 0


def test_where_it_is_missing_the_message_says_how_to_give_it(finished, tmp_path, monkeypatch, capsys):
    run, _, labels = finished
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another machine"))
    images = labels.parent / "images"
    assert medtl("predict", run, images, "--out", tmp_path / "out") == 2
    text = capsys.readouterr().err
    assert "--plugin log_volume.py" in text
    assert "keeps a copy" in text
    copy = run / "plugins" / "log_volume.py"
    assert medtl("predict", run, images, "--out", tmp_path / "out", "--plugin", copy) == 0


def test_where_the_data_is_not_known_the_message_asks_for_it(finished, tmp_path, monkeypatch, capsys):
    run, plugin, labels = finished
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another machine"))
    assert medtl("evaluate", run, "--plugin", plugin) == 2
    assert "--labels PATH" in capsys.readouterr().err
    # With another key, the same images have other pseudonyms: that too is said, not guessed around.
    assert medtl("evaluate", run, "--plugin", plugin, "--labels", labels) == 2
    assert "id key" in capsys.readouterr().err

"""Whole runs with the cache: bitwise what they are without it, faster, and private."""

import json

import pytest
import torch
from helpers_runs import BACKBONE, QUICK, make_data, medtl, record, train
from safetensors.torch import load_file
from test_privacy import archive, written  # noqa: F401

from medtl_monai.data.cache import usage
from medtl_monai.training.checkpoint import CheckpointStore


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tensors(run):
    return load_file(CheckpointStore(run / "checkpoints").model_file("last"))


def lines(run):
    """Return the metrics of a run, without the times."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in found]


@pytest.mark.parametrize(
    ("target", "more"),
    [("kind", []), ("radius", []), ("mask", ["--set", "preprocessing.patch_size=[8,8,8]"])],
    ids=["class", "number", "patches"],
)
def test_training_from_the_cache_is_bitwise_training_without(target, more, labels, cache, tmp_path, capfd):
    runs = [tmp_path / name for name in ("without", "building", "cached")]
    for run in runs:
        flags = ["--no-cache"] if run.name == "without" else []
        assert train(labels, run, *more, *flags, target=target) == 0
        assert len(usage.entries(cache)) == (
            0 if flags else record(run)["cases"]["train"] + record(run)["cases"]["val"]
        )
    assert "images came from the cache" in capfd.readouterr().err
    first = tensors(runs[0])
    for run in runs[1:]:
        other = tensors(run)
        assert set(first) == set(other)
        assert all(torch.equal(first[k], other[k]) for k in first)
        assert lines(run) == lines(runs[0])
    assert any(float(v.abs().max()) > 0 for v in first.values())
    assert lines(runs[0])[0]["loss"] != lines(runs[0])[1]["loss"]


def metrics(run, part):
    return json.loads((run / f"evaluation/{part}/metrics.json").read_text())


def test_evaluation_uses_the_images_of_training(labels, cache, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(labels, run) == 0
    before = len(usage.entries(cache))
    assert medtl("evaluate", run, "--part", "val", "--no-cache") == 0
    plain = metrics(run, "val")
    assert medtl("evaluate", run, "--part", "val") == 0
    assert metrics(run, "val") == plain
    assert plain["cases"] > 0
    assert len(usage.entries(cache)) == before

    def refuse(*_, **__):
        raise AssertionError("it was read")

    monkeypatch.setattr("medtl_monai.data.case_table.read_nifti", refuse)
    assert medtl("evaluate", run, "--part", "val") == 0
    assert medtl("evaluate", run, "--part", "val", "--no-cache") == 1
    assert medtl("evaluate", run, "--part", "test") == 1


def test_prediction_leaves_nothing_in_the_cache(labels, cache, tmp_path):
    run = tmp_path / "run"
    assert train(labels, run, "--no-cache") == 0
    assert medtl("predict", run, labels.parent / "images", "--out", tmp_path / "out") == 0
    assert not cache.exists()


def test_a_folder_of_its_own_is_found_again_and_stays_out_of_the_run(labels, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "DOE_JANE"
    assert train(labels, run, "--set", f"cache.folder={folder}") == 0
    entries = len(usage.entries(folder))
    assert entries > 0
    assert all(b"DOE_JANE" not in data for data in written(run).values())
    assert medtl("evaluate", run) == 0
    assert len(usage.entries(folder)) == entries + record(run)["cases"]["test"]
    assert medtl("train", "--resume", run, "--no-cache") == 0


def test_no_cache_file_holds_an_identifier(archive, cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("medtl_monai.data.cache.stamps.FRESH_NS", 0)
    secrets = {secret for secret in archive.secrets if len(secret) > 5}
    flags = ["--studies", archive.root, "--labels", archive.labels, "--target", "kind", "--out", tmp_path / "run"]
    assert medtl("train", *flags, "--backbone", BACKBONE, "--epochs", 1, "--set", "splits.val=0.34",
                 "--set", "splits.test=0.34", *QUICK) == 0  # fmt: skip
    files = written(cache)
    assert len(files) > 10
    assert {name.rpartition("/")[2] for name in files} == {
        "image.npy",
        "entry.json",
        "stamps.sqlite",
        "medtl-cache.json",
    }
    for name, data in files.items():
        for secret in (*secrets, "CASE", "IM0"):
            assert secret not in name
            assert secret.encode() not in data, (name, secret)

"""Each kind of bad input: one sentence that says what, where and how to mend it, exit code 2, nothing lost."""

import errno
import os
import re

import pytest
from helpers_dicom import Recipe
from helpers_runs import BACKBONE, QUICK, make_data, medtl, read_rows, record, train, write_rows

from medtl_monai.training import checkpoint


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def finished(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(labels, out) == 0
    return out


@pytest.fixture
def refused(capsys, tmp_path):
    """Check that a command was refused in one sentence and without a traceback; return the text."""

    def check(code: int, *expected: str) -> str:
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert code == 2
        assert len(lines) == 1
        for text in expected:
            assert re.search(text, lines[0]), lines[0]
        assert "Traceback" not in lines[0]
        assert str(tmp_path) not in lines[0]
        return lines[0]

    return check


def changed(labels, tmp_path, change):
    """Write a copy of the labels beside the originals' images, with every row passed through ``change``."""
    rows = [change(dict(row, image=str(labels.parent / row["image"]))) for row in read_rows(labels)]
    path = tmp_path / "labels.csv"
    write_rows(path, [row for row in rows if row])
    return path


def test_a_label_column_is_missing(labels, tmp_path, refused):
    refused(train(labels, tmp_path / "run", target="kinds"), "kinds", "Did you mean 'kind'")
    assert not (tmp_path / "run").exists()


def test_a_class_with_one_patient(labels, tmp_path, refused):
    def rare(row):
        return {**row, "kind": "c" if row["patient"] == "P00" else row["kind"]}

    refused(train(changed(labels, tmp_path, rare), tmp_path / "run"), "'c'", "fewer than two patients")


def test_one_class_only(labels, tmp_path, refused):
    table = changed(labels, tmp_path, lambda row: {**row, "kind": "a"})
    refused(train(table, tmp_path / "run"), "class")


def test_head_and_target_that_do_not_fit(labels, tmp_path, refused):
    refused(train(labels, tmp_path / "run", "--head", "segmentation", target="kind"), "kind|mask")
    refused(train(labels, tmp_path / "run", "--head", "regression", target="kind"), "number")
    refused(train(labels, tmp_path / "run", "--head", "classification", target="radius"), "number|regression")


def test_a_2d_backbone_on_volumes(labels, tmp_path, refused):
    refused(train(labels, tmp_path / "run", "--backbone", "resnet10-2d"), "two-dimensional", "backbones --dims 3")
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_of_studies(labels, tmp_path, refused):
    (tmp_path / "studies").mkdir()
    refused(train(labels, tmp_path / "run", "--studies", tmp_path / "studies"), "studies|images|DICOM")


def test_no_labels_matched(tmp_path, refused):
    for n in range(3):
        Recipe(slices=4, patient=f"P{n}").write(tmp_path / "studies" / str(n))
    write_rows(tmp_path / "labels.csv", [{"PatientID": f"other{n}", "kind": "ab"[n % 2]} for n in range(6)])
    code = train(tmp_path / "labels.csv", tmp_path / "run", "--studies", tmp_path / "studies")
    refused(code, "none of 6 rows matches any of 3 studies by PatientID")


def test_a_run_folder_that_exists(labels, finished, refused):
    before = (finished / "metrics.jsonl").read_bytes()
    refused(train(labels, finished), "exists", "--out|--resume")
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_an_unknown_backbone_head_policy_and_key(labels, tmp_path, refused):
    refused(train(labels, tmp_path / "run", "--backbone", "resnet18-3"), "resnet18-3d")
    refused(train(labels, tmp_path / "run", "--head", "clasification"), "classification")
    refused(train(labels, tmp_path / "run", "--policy", "lpft"), "lp-ft")
    refused(train(labels, tmp_path / "run", "--set", "training.epoch=3"), "Did you mean 'epochs'")
    refused(train(labels, tmp_path / "run", "--backbone", "unet-3d:level=3"), "levels")


def test_no_target_and_no_labels(tmp_path, refused):
    refused(medtl("train", "--out", tmp_path / "run"), "labels", "--labels")


def test_a_device_that_is_not_there(labels, tmp_path, refused):
    refused(train(labels, tmp_path / "run", "--device", "cuda:7"), "cuda:7", "--device cpu")


def test_a_folder_that_is_not_a_run(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    refused(medtl("evaluate", tmp_path / "empty"), "not a run")
    refused(medtl("predict", tmp_path / "empty", tmp_path, "--out", tmp_path / "o"), "not a run")


def test_a_disk_that_fills_up_in_the_middle_of_a_checkpoint(labels, tmp_path, refused, monkeypatch):
    real, calls = checkpoint._write, []

    def write(path, data):
        calls.append(path)
        if len(calls) == 6:  # the optimizer's file of the second epoch, after those of the start and the first
            path.write_bytes(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(checkpoint, "_write", write)
    refused(train(labels, tmp_path / "run", epochs=3), "disk is full", "resume")
    monkeypatch.undo()
    assert record(tmp_path / "run")["status"] == "failed"
    assert medtl("train", "--resume", tmp_path / "run") == 0
    assert record(tmp_path / "run")["status"] == "finished"
    assert record(tmp_path / "run")["epochs"] == 3


def test_resume_refuses_other_settings(finished, refused):
    refused(medtl("train", "--resume", finished, "--epochs", 9), "--epochs would change")


def test_resume_refuses_other_data(labels, tmp_path, refused):
    table = changed(labels, tmp_path, lambda row: row)
    assert train(table, tmp_path / "run") == 0
    rows = read_rows(table)
    write_rows(table, rows[:-1])
    refused(medtl("train", "--resume", tmp_path / "run"), "data has changed", "1 cases are missing")


def test_predicting_what_does_not_fit_refuses_that_study_only(labels, finished, tmp_path, capsys):
    import nibabel as nib
    import numpy as np

    folder = tmp_path / "in"
    folder.mkdir()
    nib.save(nib.load(labels.parent / "images/image_00.nii"), folder / "good.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((16, 16, 16, 5), np.float32), np.eye(4)), folder / "four.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"not a nifti file")
    assert medtl("predict", finished, folder, "--out", tmp_path / "out") == 2
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert len(rows) == 3
    assert sum(bool(row["refused"]) for row in rows) == 2
    assert sum(bool(row["predicted"]) for row in rows) == 1
    assert "refused" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number(labels, tmp_path, refused):
    flags = ("--set", "training.optimizer=sgd", "--set", "training.clip_grad_norm=null", "--lr", 1e30)
    refused(train(labels, tmp_path / "run", *flags, epochs=4, target="radius"), "loss became", "training.lr")


def test_config_file_with_an_unknown_key(tmp_path, refused):
    (tmp_path / "run.yaml").write_text("model:\n  backbon: unet-3d\n")
    refused(medtl("train", tmp_path / "run.yaml"), "run.yaml", "Did you mean 'backbone'")
    (tmp_path / "run.yaml").write_text("model: [")
    refused(medtl("train", tmp_path / "run.yaml"), "YAML")


def test_set_without_a_value(refused):
    refused(medtl("config", "--set", "training.epochs"), "KEY=VALUE")


def test_a_quick_run_needs_no_more_than_this(labels, tmp_path):
    # The messages above are worth something only if the same call without the fault succeeds.
    assert medtl("train", "--labels", labels, "--target", "kind", "--backbone", BACKBONE, "--out", tmp_path / "run",
                 "--epochs", 1, *QUICK) == 0  # fmt: skip

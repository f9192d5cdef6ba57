"""Evaluation of a run that stands in for a trained one: its metrics are those computed by hand."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_data import affine_of, rotation, write_csv, write_nifti
from helpers_reports import Stand

from medtl_monai.builtin.task_heads.classification import ClassificationHead
from medtl_monai.builtin.task_heads.regression import RegressionHead
from medtl_monai.builtin.task_heads.segmentation import SegmentationHead
from medtl_monai.config import load_config
from medtl_monai.data.cases import load_cases
from medtl_monai.errors import DataError
from medtl_monai.evaluation.evaluate import evaluate
from medtl_monai.modules import Prediction
from medtl_monai.specs import HeadContext, Stage, TargetInfo
from medtl_monai.training.reporter import Silent

STAGES = (Stage(name="s", channels=4, stride=(1, 1, 1)),)
KINDS = ("b", "a", "b", "a", "b", "a", "b", "a")
PROBABILITIES = (0.9, 0.2, 0.4, 0.6, 0.8, 0.1, 0.7, 0.3)
"""Of class b. Of the 16 pairs (b, a) one is the wrong way round: 0.4 < 0.6."""
SHAPE = (6, 5, 4)


def context(target):
    return HeadContext(stages=STAGES, spatial_dims=3, target=target)


def number_of(volume):
    return int(volume.array[0, 0, 0])


def make_table(folder, **columns):
    """Write eight images whose first voxel is their number, each of a patient of its own."""
    for n in range(8):
        array = np.full(SHAPE, n, np.float32)
        array[-1] = n + 1
        write_nifti(folder / f"img/{n}.nii.gz", array)
    rows = [{"image": f"img/{n}.nii.gz", "patient": f"p{n}", **{k: v[n] for k, v in columns.items()}} for n in range(8)]
    return write_csv(folder / "labels.csv", rows)


def config_of(labels, target):
    # A stand-in does not preprocess.
    return load_config(None, {"data.labels": str(labels), "data.target": target, "cache.enabled": False})


def write_splits(run, config, kind, *, parts=("test",) * 8, extra=()):
    run.mkdir()
    table = load_cases(config.data, kind)
    rows = [
        {"case_id": case.case_id, "group": case.group, "split": part} for case, part in zip(table, parts, strict=True)
    ]
    write_csv(run / "splits.csv", [*rows, *({"case_id": i, "group": "g", "split": "test"} for i in extra)])
    return table


@pytest.fixture
def classes(tmp_path):
    """A stand-in run for the two classes, and its configuration."""
    config = config_of(make_table(tmp_path, kind=KINDS), "kind")
    write_splits(tmp_path / "run", config, "class")
    target = TargetInfo(kind="class", columns=("kind",), classes=("a", "b"), counts=(4, 4), cases=8)

    def answer(volume):
        p = PROBABILITIES[number_of(volume)]
        return Prediction(probabilities=torch.tensor([[1 - p, p]]), classes=torch.tensor([int(p > 0.5)]))

    return Stand(tmp_path / "run", ClassificationHead(context(target)), target, answer), config


def test_class_metrics_are_those_computed_by_hand(classes):
    run, config = classes
    result = evaluate(run, Silent(), config=config, resamples=99)
    assert (result.run, result.part, result.checkpoint_epoch, result.cases, result.groups) == ("run", "test", 3, 8, 8)
    assert result.metrics["roc_auc"] == pytest.approx(15 / 16)
    assert result.metrics["sensitivity"] == result.metrics["specificity"] == pytest.approx(3 / 4)
    assert result.metrics["accuracy"] == result.metrics["balanced_accuracy"] == pytest.approx(6 / 8)
    bounds = result.intervals["accuracy"]
    assert bounds is not None
    assert 0.2 < bounds.low < 0.75 < bounds.high <= 1
    assert set(result.intervals) == set(result.metrics)


def test_every_case_has_its_own_prediction_and_truth(classes):
    run, config = classes
    result = evaluate(run, Silent(), config=config, resamples=0)
    rows = {r.case.row: r for r in result.results}
    for n in range(8):
        own = rows[n + 2]
        assert float(own.prediction.probabilities[0, 1]) == pytest.approx(PROBABILITIES[n])
        assert "ab"[int(own.target)] == KINDS[n]
    assert result.intervals == {}


def test_images_of_one_patient_count_once_for_the_interval(tmp_path, classes):
    run, config = classes
    labels = (tmp_path / "labels.csv").read_text()
    for n in range(8):
        labels = labels.replace(f"p{n},", f"p{n // 2},")
    (tmp_path / "labels.csv").write_text(labels)
    result = evaluate(run, Silent(), config=config, resamples=99)
    assert result.groups == 4
    assert set(result.intervals.values()) == {None}  # fewer than five patients
    assert result.metrics["roc_auc"] == pytest.approx(15 / 16)


def test_a_part_of_one_class_has_no_area_and_says_so(tmp_path, classes):
    run, config = classes
    text = (tmp_path / "run/splits.csv").read_text().splitlines()
    text[1:] = [
        line.replace("test", "train" if kind == "a" else "test") for line, kind in zip(text[1:], KINDS, strict=True)
    ]
    (tmp_path / "run/splits.csv").write_text("\n".join(text) + "\n")
    result = evaluate(run, Silent(), config=config, resamples=99)
    assert result.cases == 4
    assert math.isnan(result.metrics["roc_auc"])
    assert result.intervals["roc_auc"] is None
    assert result.metrics["accuracy"] == pytest.approx(3 / 4)


def test_cases_that_are_gone_are_an_error_that_lists_them(tmp_path):
    config = config_of(make_table(tmp_path, kind=KINDS), "kind")
    write_splits(tmp_path / "run", config, "class", extra=("feedfeedfeed",))
    target = TargetInfo(kind="class", columns=("kind",), classes=("a", "b"), counts=(4, 4), cases=8)
    run = Stand(tmp_path / "run", ClassificationHead(context(target)), target, lambda _: None)
    with pytest.raises(DataError, match=r"1 of the run's 9 test cases are no longer there: feedfeedfeed.*id key"):
        evaluate(run, Silent(), config=config)


def test_a_part_without_cases_is_an_error_with_a_mend(classes):
    run, config = classes
    with pytest.raises(DataError, match=r"no val cases.*--part"):
        evaluate(run, Silent(), config=config, part="val")


def test_numbers_are_measured_in_their_own_units(tmp_path):
    truth = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    config = config_of(make_table(tmp_path, ml=[f"{v:.2f}" for v in truth]), "ml")
    write_splits(tmp_path / "run", config, "number")
    target = TargetInfo(kind="number", columns=("ml",), cases=8, mean=(4.5,), std=(2.3,))
    errors = (0.5, -0.5, 0.5, -0.5, 1.0, -1.0, 1.0, -1.0)
    run = Stand(
        tmp_path / "run",
        RegressionHead(context(target)),
        target,
        lambda volume: Prediction(values=torch.tensor([[truth[n := number_of(volume)] + errors[n]]])),
    )
    result = evaluate(run, Silent(), config=config, resamples=99)
    assert result.metrics["mae"] == pytest.approx(0.75)
    assert result.metrics["rmse"] == pytest.approx(math.sqrt(0.625))
    assert result.metrics["r2"] == pytest.approx(1 - 8 * 0.625 / 42)
    bounds = result.intervals["mae"]
    assert bounds is not None
    assert 0.5 <= bounds.low < 0.75 < bounds.high <= 1


def test_masks_are_measured_on_the_grid_of_the_image(tmp_path):
    """Masks are stored on a flipped grid; the prediction is on the image's, two voxels short or one too many."""
    affine = affine_of(rotation(0, 0, 0), (0.7, 1.1, 2.5))
    flipped = affine.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] += affine[:3, 0] * (SHAPE[0] - 1)
    truths, rows = [], []
    for n in range(6):
        truth = np.zeros(SHAPE, np.int16)
        truth[1, 1:3, 1:3] = 1  # 4 voxels, away from the middle: a grid taken wrongly misses them
        truth[4, :, 2] = 2 if n != 5 else 0  # 5 voxels; absent from the last case
        truths.append(truth)
        image = np.random.default_rng(n).normal(0, 1, SHAPE).astype(np.float32)
        image[0, 0, 0] = n
        write_nifti(tmp_path / f"img/{n}.nii.gz", image, affine)
        nib.save(nib.Nifti1Image(truth[::-1].astype(np.uint8), flipped), tmp_path / f"img/m{n}.nii.gz")
        rows.append({"image": f"img/{n}.nii.gz", "mask": f"img/m{n}.nii.gz", "patient": f"p{n}"})
    config = config_of(write_csv(tmp_path / "labels.csv", rows), "mask")
    table = write_splits(tmp_path / "run", config, "mask", parts=("test",) * 6)
    target = TargetInfo(kind="mask", columns=("mask",), classes=table.classes, cases=6)

    def answer(volume):
        n = number_of(volume)
        mask = truths[n].copy()
        mask[1, 1, 1:3] = 0  # half of structure 1 is missed: Dice 2·2/(2+4)
        if n == 0:
            mask[4, :, 2] = 0  # structure 2 is missed as a whole
        return Prediction(mask=torch.from_numpy(mask)[None])

    run = Stand(tmp_path / "run", SegmentationHead(context(target)), target, answer)
    result = evaluate(run, Silent(), config=config, resamples=99)
    first, second = (f"dice/{name}" for name in table.classes[1:])
    assert result.metrics[first] == pytest.approx(2 / 3)
    assert result.metrics[second] == pytest.approx(4 / 5)  # one zero, four ones, one case without it
    assert result.metrics["dice"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    scores = [r.scores[second] for r in result.results]
    assert scores[:5] == [0, 1, 1, 1, 1]
    assert math.isnan(scores[5])
    assert result.intervals[first] is None  # the same in every case: nothing is known of its spread
    assert result.intervals[second] is not None
    assert all(r.prediction.mask is None for r in result.results)  # masks are let go

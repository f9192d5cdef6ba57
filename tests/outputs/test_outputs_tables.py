"""Predictions as cells, tables as CSV, masks as NIfTI, sizes in what the image allows to say."""

import csv
import gzip
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_data import affine_of, rotation

from medtl_monai.data.cases import Case
from medtl_monai.dicom.geometry import Volume
from medtl_monai.evaluation.evaluate import CaseResult, Evaluation
from medtl_monai.modules import Prediction
from medtl_monai.outputs.tables import (
    evaluation_rows,
    prediction_columns,
    structure_sizes,
    truth_columns,
    volumes_ml,
    write_csv,
    write_mask,
)
from medtl_monai.specs import TargetInfo

CLASS = TargetInfo(kind="class", columns=("lesion",), classes=("benign", "malignant"))
LABELS = TargetInfo(kind="classes", columns=("a", "b"), classes=("a", "b"))
NUMBERS = TargetInfo(kind="number", columns=("age", "ml"))
MASK = TargetInfo(kind="mask", columns=("mask",), classes=("background", "liver"))


def volume(shape=(4, 5, 6), spacing=(0.5, 2.0, 3.0), linear=None, **more):
    affine = affine_of(rotation(10, -20, 30) if linear is None else linear, spacing)
    return Volume(array=np.zeros(shape, np.float32), affine=affine, **more)


def test_a_class_has_a_name_and_a_probability_each():
    prediction = Prediction(probabilities=torch.tensor([[0.25, 0.75]]), classes=torch.tensor([1]))
    cells = prediction_columns(prediction, CLASS)
    assert cells == {"predicted": "malignant", "probability_benign": "0.25", "probability_malignant": "0.75"}
    assert truth_columns(torch.tensor([0]), CLASS) == {"true": "benign"}


def test_labels_are_noughts_and_ones_and_may_be_unknown():
    prediction = Prediction(probabilities=torch.tensor([[0.5, 0.125]]), classes=torch.tensor([[1, 0]]))
    cells = prediction_columns(prediction, LABELS)
    assert cells == {"predicted_a": "1", "predicted_b": "0", "probability_a": "0.5", "probability_b": "0.125"}
    assert truth_columns(torch.tensor([[1.0, math.nan]]), LABELS) == {"true_a": "1.0", "true_b": ""}


def test_numbers_have_a_column_each():
    assert prediction_columns(Prediction(values=torch.tensor([[63.5, -0.25]])), NUMBERS) == {
        "predicted_age": "63.5",
        "predicted_ml": "-0.25",
    }
    assert truth_columns(torch.tensor([[math.nan, 2.0]]), NUMBERS) == {"true_age": "", "true_ml": "2.0"}


def test_masks_are_files_and_unlabelled_cases_have_no_truth():
    assert prediction_columns(Prediction(mask=torch.zeros(1, 2, 2, 2)), MASK) == {}
    assert truth_columns(None, CLASS) == {}


def test_numbers_read_back_as_the_same_float32():
    values = torch.rand(1, 500, generator=torch.Generator().manual_seed(0)) ** 8
    info = TargetInfo(kind="classes", columns=(), classes=tuple(f"c{n}" for n in range(500)))
    cells = prediction_columns(Prediction(probabilities=values), info)
    back = [np.float32(cells[f"probability_c{n}"]) for n in range(500)]
    assert np.array_equal(np.array(back), values[0].numpy())
    # Saturated probabilities stay apart: six decimals would have made ties of them.
    assert len({f"{v:.6f}" for v in back}) < len(set(back)) == 500


def test_evaluation_rows_hold_truth_prediction_or_scores(tmp_path):
    case = Case(case_id="abc", group="g", row=7, image=tmp_path / "secret.nii", source="secret.nii")
    common = {"run": "r", "part": "test", "checkpoint_epoch": 1, "cases": 1, "groups": 1, "metrics": {}}
    prediction = Prediction(probabilities=torch.tensor([[0.25, 0.75]]), classes=torch.tensor([1]))
    result = CaseResult(case=case, prediction=prediction, target=torch.tensor([0]), scores={})
    (row,) = evaluation_rows(Evaluation(**common, intervals={}, results=(result,), target=CLASS))
    assert row["case_id"] == "abc"
    assert (row["row"], row["true"], row["predicted"]) == ("7", "benign", "malignant")
    scores = {"dice": 0.5, "dice/liver": math.nan}
    result = CaseResult(case=case, prediction=Prediction(), target=None, scores=scores)
    (row,) = evaluation_rows(Evaluation(**common, intervals={}, results=(result,), target=MASK))
    assert row == {"case_id": "abc", "row": "7", "dice": "0.500000", "dice/liver": ""}


def test_a_table_keeps_the_order_of_first_appearance_and_quotes(tmp_path):
    rows = [{"case_id": "1", "refused": 'no, "really"\nnot'}, {"case_id": "2", "p": "0.5"}]
    write_csv(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["case_id", "refused", "p"]
    assert read[0]["refused"] == 'no, "really"\nnot'
    assert read[0]["p"] == read[1]["refused"] == ""


@pytest.mark.parametrize(("highest", "dtype"), [(3, np.uint8), (255, np.uint8), (256, np.int16)])
def test_a_mask_comes_back_with_its_grid_and_the_smallest_type(tmp_path, highest, dtype):
    image = volume()
    mask = np.random.default_rng(0).integers(0, 4, image.shape).astype(np.int16)
    mask[1, 2, 3] = highest
    write_mask(tmp_path / "a.nii.gz", mask, image)
    back = nib.load(tmp_path / "a.nii.gz")
    assert back.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(back.dataobj), mask)
    assert np.allclose(back.affine, image.affine, atol=1e-5)
    assert not np.allclose(np.abs(back.affine[:3, :3]), np.diag(image.spacing_mm))  # an oblique grid it is
    assert back.header.get_xyzt_units()[0] == "mm"
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == (1, 1)
    assert np.allclose(back.get_qform(), image.affine, atol=1e-4)


def test_equal_masks_are_equal_files(tmp_path):
    mask = np.ones((4, 5, 6), np.int16)
    write_mask(tmp_path / "a.nii.gz", mask, volume())
    write_mask(tmp_path / "b.nii.gz", mask, volume())
    write_mask(tmp_path / "c.nii.gz", 2 * mask, volume())
    a, b, c = ((tmp_path / f"{name}.nii.gz").read_bytes() for name in "abc")
    assert a == b != c
    assert a[4:8] == bytes(4)  # no time in the gzip header
    assert b"a.nii" not in a[:64]
    assert len(gzip.decompress(a)) == 352 + 120


def test_a_sheared_grid_is_kept_in_the_affine_form_alone(tmp_path):
    linear = np.eye(3)
    linear[1, 2] = 0.3
    image = volume(linear=linear / np.linalg.norm(linear, axis=0), geometry="sheared")
    write_mask(tmp_path / "a.nii.gz", np.zeros(image.shape, np.int16), image)
    back = nib.load(tmp_path / "a.nii.gz")
    assert np.allclose(back.get_sform(), image.affine, atol=1e-5)
    assert int(back.header["qform_code"]) == 0


def test_volumes_are_voxels_times_their_size():
    mask = np.zeros((4, 5, 6), np.int16)
    mask[:2, :2, :2], mask[3, 3, 3] = 1, 2
    # 0.5 × 2 × 3 mm = 3 mm³ a voxel; 8 and 1 voxels.
    assert volumes_ml(mask, volume(), ["one", "two", "none"]) == {"one_ml": "0.024", "two_ml": "0.003", "none_ml": "0"}
    assert structure_sizes(mask, volume(), ["one"]) == {"one_ml": "0.024"}


def test_a_slice_has_an_area_and_an_image_without_spacing_only_pixels():
    mask = np.ones((4, 5, 1), np.int16)
    assert structure_sizes(mask, volume((4, 5, 1)), ["one"]) == {"one_mm2": "20"}  # 20 pixels of 0.5 × 2 mm
    unknown = volume((4, 5, 1), spacing=(1, 1, 1), spacing_known=False)
    assert structure_sizes(mask, unknown, ["one", "two"]) == {"one_pixels": "20", "two_pixels": "0"}

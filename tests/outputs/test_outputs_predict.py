"""Prediction of a folder: what is refused, what is written, what never gets out."""

import json
import stat

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_data import affine_of, rotation, write_nifti
from helpers_dicom import NAME, PATIENT, Recipe
from helpers_reports import Stand
from helpers_runs import read_rows

from medtl_monai.errors import DataError, RunError, StorageError
from medtl_monai.modules import Prediction
from medtl_monai.outputs.predict import predict
from medtl_monai.specs import TargetInfo
from medtl_monai.training.reporter import Silent

CLASS = TargetInfo(kind="class", columns=("lesion",), classes=("benign", "malignant"))
MASK = TargetInfo(kind="mask", columns=("mask",), classes=("background", "bright"))


def brightness(volume):
    """Say malignant where the image is bright, and refuse what is dark."""
    mean = float(volume.array.mean())
    if mean < 0:
        raise DataError("it is darker than anything", where="case x", mend="Give brighter images")
    p = min(mean / 10, 1.0)
    return Prediction(probabilities=torch.tensor([[1 - p, p]]), classes=torch.tensor([int(p > 0.5)]))


def threshold(volume):
    return Prediction(mask=torch.from_numpy((volume.array > 5).astype(np.int16))[None])


def stand(path, answer=brightness, target=CLASS, **more):
    return Stand(path / "run", None, target, answer, **more)


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    for name, value in (("Doe-Jane-1970/a", 2.0), ("Doe-Jane-1970/b", 8.0), ("c", -1.0)):
        write_nifti(folder / f"{name}.nii.gz", np.full((4, 5, 6), value, np.float32))
    (folder / "torn.nii.gz").write_bytes((folder / "c.nii.gz").read_bytes()[:60])
    return folder


def test_what_fits_is_predicted_and_what_does_not_is_listed(tmp_path, studies):
    reporter = Silent()
    result = predict(stand(tmp_path), studies, tmp_path / "out", reporter)
    rows = read_rows(result.table)
    assert [dict(row) for row in rows] == [{k: r.get(k, "") for k in rows[0]} for r in result.rows]
    assert sorted(row["predicted"] for row in rows) == ["", "", "benign", "malignant"]
    refused = {row["case_id"]: row["refused"] for row in rows if row["refused"]}
    assert refused == result.refused
    assert sorted(refused.values())[0] == "it is darker than anything. Give brighter images"
    assert "cannot be read" in sorted(refused.values())[1]
    (malignant,) = [row for row in rows if row["predicted"] == "malignant"]
    assert float(malignant["probability_malignant"]) == pytest.approx(0.8, abs=1e-7)
    assert len(reporter.warnings) == 2
    # The terminal may name the file; it is how the user finds it.
    assert any(text.startswith("refused torn.nii.gz") for text in reporter.warnings)


def test_nothing_but_case_ids_is_written(tmp_path, studies):
    predict(stand(tmp_path), studies, tmp_path / "out", Silent())
    text = (tmp_path / "out/predictions.csv").read_text()
    assert sum(len(row["case_id"]) == 12 for row in read_rows(tmp_path / "out/predictions.csv")) == 4
    for secret in ("Doe", "1970", "torn", ".nii", str(tmp_path), "studies"):
        assert secret not in text
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["predictions.csv", "predictions.json"]
    assert str(tmp_path) not in (tmp_path / "out/predictions.json").read_text()


def test_reasons_for_refused_dicom_hold_no_file_name(tmp_path):
    Recipe(keep=[0, 1, 2, 4, 5], prefix=f"{NAME}-").write(tmp_path / "in" / PATIENT)
    reporter = Silent()
    result = predict(stand(tmp_path), tmp_path / "in", tmp_path / "out", reporter)
    (reason,) = result.refused.values()
    assert "missing" in reason
    assert NAME in reporter.warnings[0]  # the full message has it
    for text in (reason, (tmp_path / "out/predictions.csv").read_text()):
        assert not any(secret in text for secret in (NAME, PATIENT, "IM0"))


def test_masks_are_on_the_grid_of_their_image(tmp_path):
    array = np.zeros((4, 5, 6), np.float32)
    array[1:3, 2, 3:5] = 9
    affine = affine_of(rotation(0, 0, 90), (0.5, 2, 3))
    write_nifti(tmp_path / "in/x.nii.gz", array, affine)
    result = predict(stand(tmp_path, threshold, MASK), tmp_path / "in", tmp_path / "out", Silent())
    (row,) = result.rows
    assert row["bright_ml"] == "0.012"  # 4 voxels of 3 mm³
    mask = nib.load(tmp_path / "out" / row["mask"])
    assert row["mask"] == f"masks/{row['case_id']}.nii.gz"
    assert np.array_equal(np.asarray(mask.dataobj), array > 5)
    assert np.allclose(mask.affine, affine)


def test_the_unit_of_training_is_asked_for(tmp_path, monkeypatch):
    asked = []
    write_nifti(tmp_path / "in/x.nii.gz", np.ones((2, 2, 2), np.float32))
    monkeypatch.setattr(
        "medtl_monai.data.cases.CaseTable.read_volume", lambda *_, **options: asked.append(options) or _raise()
    )
    predict(stand(tmp_path, unit="SUVbw"), tmp_path / "in", tmp_path / "out", Silent())
    assert asked == [{"on_gap": "error", "units": "SUVbw"}]


def _raise():
    raise DataError("no")


def test_an_output_folder_in_use_is_refused_and_kept(tmp_path, studies):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    with pytest.raises(RunError, match="out: the output folder exists and is not empty"):
        predict(stand(tmp_path), studies, tmp_path / "out", Silent())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_nothing_to_predict(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="in: neither DICOM images nor NIfTI"):
        predict(stand(tmp_path), tmp_path / "in", tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_the_id_map_is_for_the_user_alone(tmp_path, studies):
    file = tmp_path / "map.csv"
    result = predict(stand(tmp_path), studies, tmp_path / "out", Silent(), id_map=file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    named = {row["case_id"]: row["source"] for row in read_rows(file)}
    assert sorted(named.values()) == ["Doe-Jane-1970/a.nii.gz", "Doe-Jane-1970/b.nii.gz", "c.nii.gz", "torn.nii.gz"]
    assert set(named) == {row["case_id"] for row in result.rows}


def test_an_id_map_is_never_overwritten(tmp_path, studies):
    file = tmp_path / "map.csv"
    file.write_text("the key to last year")
    with pytest.raises(RunError, match=r"map\.csv: the id map exists"):
        predict(stand(tmp_path), studies, tmp_path / "out", Silent(), id_map=file)
    assert file.read_text() == "the key to last year"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [StorageError("the disk is full"), RunError("broken"), KeyboardInterrupt()])
def test_what_is_not_the_fault_of_a_study_ends_it_and_keeps_the_rows(tmp_path, studies, error):
    answers = iter([None, error])

    def answer(volume):
        raised = next(answers)
        if raised is not None:
            raise raised
        return brightness(volume)

    with pytest.raises(type(error)):
        predict(stand(tmp_path, answer), studies, tmp_path / "out", Silent(), id_map=tmp_path / "map.csv")
    (row,) = read_rows(tmp_path / "out/predictions.csv")
    assert row["predicted"] in CLASS.classes
    assert len(read_rows(tmp_path / "map.csv")) == 4


def test_a_head_without_masks_is_not_passed_over(tmp_path, studies):
    with pytest.raises(RunError, match="gives no mask"):
        predict(stand(tmp_path, lambda _: Prediction(), MASK), studies, tmp_path / "out", Silent())


def test_the_result_is_plain(tmp_path, studies):
    result = predict(stand(tmp_path), studies, tmp_path / "out", Silent())
    assert json.loads(json.dumps([result.rows, result.refused]))[1] == result.refused

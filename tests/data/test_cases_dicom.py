import dataclasses

import numpy as np
import pytest
from helpers_data import write_csv, write_nifti
from helpers_dicom import Recipe, frames_of, write_seg
from pydicom.uid import generate_uid

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import CaseTable, load_cases, unlabelled_cases
from medtl_monai.data.identity import pseudonym
from medtl_monai.errors import ConfigError, DataError, DicomError, MedtlError

KEY = b"a key for the tests of this room"


def write_studies(folder, patients=("DOE1", "DOE2", "0033", "DOE4")):
    """Write one small series a patient; return the recipes."""
    recipes = []
    for n, patient in enumerate(patients):

        def edit(dataset, k, n=n):
            dataset.AccessionNumber = f"00{n}"

        recipe = Recipe(columns=6, rows=5, slices=4, patient=patient, offset=100 * n, seed=n, edit=edit)
        recipes.append(recipe.write(folder / f"s{n}"))
    return recipes


@pytest.fixture
def studies(tmp_path):
    return write_studies(tmp_path / "studies")


def load(tmp_path, rows, kind="class", **config):
    path = write_csv(tmp_path / "labels.csv", rows)
    config.setdefault("target", ["y"])
    return load_cases(DataConfig(studies=tmp_path / "studies", labels=path, **config), kind)


def by_uid(studies, labels="abab"):
    return [{"StudyInstanceUID": r.study, "y": y} for r, y in zip(studies, labels, strict=True)]


def test_join_by_study_uid(tmp_path, studies):
    table = load(tmp_path, by_uid(studies))
    assert [case.case_id for case in table] == [pseudonym(KEY, recipe.study) for recipe in studies]
    assert len({case.group for case in table}) == 4
    assert [case.source for case in table] == ["s0", "s1", "s2", "s3"]
    volume = table.read_volume(table.cases[2])
    assert volume.shape == (6, 5, 4)
    assert volume.array.min() == 201


def test_nothing_shows_an_identifier(tmp_path, studies):
    shown = repr(load(tmp_path, by_uid(studies)))
    assert "DOE" not in shown
    assert studies[0].study not in shown
    assert "s0" not in shown


@pytest.mark.parametrize(
    ("key", "values"),
    [("AccessionNumber", ["000", "001", "002", "003"]), ("PatientID", ["DOE1", "DOE2", "0033", "DOE4"])],
)
def test_join_by_other_keys_as_text(tmp_path, studies, key, values):
    table = load(tmp_path, [{key: v, "y": y} for v, y in zip(values, "abab", strict=True)])
    assert [case.target for case in table] == [0, 1, 0, 1]
    assert table.cases[2].source == "s2"


def test_the_key_can_be_chosen(tmp_path, studies):
    rows = [
        {**row, "StudyInstanceUID": "nonsense", "PatientID": r.patient}
        for row, r in zip(by_uid(studies), studies, strict=True)
    ]
    assert len(load(tmp_path, rows, key="PatientID")) == 4
    with pytest.raises(ConfigError, match="'y' is not a key"):
        load(tmp_path, rows, key="y")


def test_lost_leading_zeros_are_recognised(tmp_path, studies):
    rows = [{"AccessionNumber": v, "y": y} for v, y in zip(["0", "1", "2", "3"], "abab", strict=True)]
    with pytest.raises(DataError, match=r"none of 4 rows.*eading zeros"):
        load(tmp_path, rows)


def test_the_wrong_key_column_is_recognised(tmp_path, studies):
    rows = [{"StudyInstanceUID": r.patient, "y": y} for r, y in zip(studies, "abab", strict=True)]
    with pytest.raises(DataError, match="found as PatientID"):
        load(tmp_path, rows)


def test_unmatched_rows_and_studies_are_listed_or_dropped(tmp_path, studies):
    rows = [*by_uid(studies), {"StudyInstanceUID": "1.2.3", "y": "a"}]
    with pytest.raises(DataError, match="row 6"):
        load(tmp_path, rows)
    assert len(load(tmp_path, rows, unmatched="drop")) == 4
    write_studies(tmp_path / "studies" / "more", ["NEW"])
    with pytest.raises(DataError, match=r"1 of 5 studies have no row.*folder more/s0"):
        load(tmp_path, by_uid(studies))
    table = load(tmp_path, rows, unmatched="drop")
    assert table.notes == ("1 rows without a study were left out", "1 studies without a row were left out")


def test_repeated_keys_are_listed(tmp_path, studies):
    with pytest.raises(DataError, match="repeats: rows 2, 6"):
        load(tmp_path, [*by_uid(studies), by_uid(studies)[0]])


def test_a_patient_with_several_studies_needs_another_key(tmp_path):
    write_studies(tmp_path / "studies", ["P1", "P2", "P1", "P3"])
    with pytest.raises(DataError, match="several studies: row 2"):
        load(tmp_path, [{"PatientID": p, "y": y} for p, y in (("P1", "a"), ("P2", "b"), ("P3", "a"))])


def test_studies_of_one_patient_share_a_group(tmp_path):
    recipes = write_studies(tmp_path / "studies", ["P1", "P2", "P1", "P3"])
    table = load(tmp_path, by_uid(recipes, "abba"))
    assert table.cases[0].group == table.cases[2].group
    assert len({case.group for case in table}) == 3


@pytest.mark.parametrize(
    ("patients", "says"),
    [(["", "", "A", "B"], "PatientID is empty.*rows 2, 3"), (["ANON"] * 5 + ["A", "B"], "same for 5 of 7")],
)
def test_anonymous_patients_need_a_group_column(tmp_path, patients, says):
    recipes = write_studies(tmp_path / "studies", patients)
    rows = [{**row, "person": n} for n, row in enumerate(by_uid(recipes, "abababa"[: len(patients)]))]
    with pytest.raises(DataError, match=says):
        load(tmp_path, rows)
    assert len({case.group for case in load(tmp_path, rows, group_by="person")}) == len(patients)


def test_a_study_with_several_series_is_listed(tmp_path, studies):
    Recipe(columns=6, rows=5, slices=4, study=studies[1].study, patient=studies[1].patient).write(
        tmp_path / "studies" / "x"
    )
    with pytest.raises(DataError, match=r"not clear.*2 series.*MR 6×5×4.*row 3"):
        load(tmp_path, by_uid(studies))


def test_localizers_and_stubs_are_passed_over(tmp_path, studies):
    def scout(dataset, k):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    more = {"study": studies[1].study, "patient": studies[1].patient}
    Recipe(columns=6, rows=5, slices=4, edit=scout, **more).write(tmp_path / "studies" / "x")
    table = load(tmp_path, by_uid(studies))
    assert table.cases[1].source == "s1"


def test_empty_and_absent_folders(tmp_path):
    rows = [{"StudyInstanceUID": "1", "y": "a"}, {"StudyInstanceUID": "2", "y": "b"}]
    with pytest.raises(MedtlError, match="no such studies folder"):
        load(tmp_path, rows)
    (tmp_path / "studies").mkdir()
    with pytest.raises(MedtlError, match="no DICOM images found"):
        load(tmp_path, rows)
    (tmp_path / "studies" / "readme.txt").write_text("hello")
    with pytest.raises(MedtlError, match="no DICOM images found"):
        load(tmp_path, rows)


def test_no_key_column(tmp_path, studies):
    with pytest.raises(DataError, match="no column can be joined"):
        load(tmp_path, [{"name": "x", "y": "a"}, {"name": "z", "y": "b"}])


def test_a_series_with_a_gap_is_named_by_its_pseudonym(tmp_path, studies):
    for path in (tmp_path / "studies" / "s0").iterdir():
        path.unlink()
    dataclasses.replace(studies[0], keep=[0, 1, 3]).write(tmp_path / "studies" / "s0")
    table = load(tmp_path, by_uid(studies))
    with pytest.raises(DicomError, match=f"case {table.ids[0]}"):
        table.read_volume(table.cases[0])
    assert table.read_volume(table.cases[0], on_gap="interpolate").shape == (6, 5, 4)


def test_a_series_with_a_gap_is_read_in_the_run_that_is_chosen(tmp_path, studies):
    for path in (tmp_path / "studies" / "s0").iterdir():
        path.unlink()
    dataclasses.replace(studies[0], slices=9, keep=[0, 1, 2, 5, 6, 7, 8]).write(tmp_path / "studies" / "s0")
    table = load(tmp_path, by_uid(studies))
    with pytest.raises(DicomError, match=rf"case {table.ids[0]}.*run 2 of 2.*run 1 of 2"):
        table.read_volume(table.cases[0], on_gap="split")
    for run, slices in ((1, 3), ("longest", 4)):
        table = load(tmp_path, by_uid(studies), select={"run": run})
        assert table.read_volume(table.cases[0], on_gap="split").shape == (6, 5, slices)
    with pytest.raises(DicomError, match="missing"):
        table.read_volume(table.cases[0])


def _labels(recipe):
    labels = np.zeros((recipe.columns, recipe.rows, recipe.slices), np.int16)
    labels[1:3, 1:3, 1:3] = 1
    labels[4, 3, 1:3] = 2
    return labels


def test_masks_as_dicom_seg(tmp_path, studies):
    rows = []
    for n, recipe in enumerate(studies):
        write_seg(tmp_path / f"seg{n}", frames_of(_labels(recipe), recipe), recipe)
        rows.append({"StudyInstanceUID": recipe.study, "mask": f"seg{n}"})
    table = load(tmp_path, rows, "mask", target=["mask"])
    assert table.classes == ("background", "left part", "right part")
    assert table.info(table.ids).classes == table.classes
    case = table.cases[1]
    mask = table.read_target(case, table.read_volume(case))
    assert np.array_equal(mask, _labels(studies[1]))
    assert case.present == (1, 2)
    renamed = load(tmp_path, rows, "mask", target=["mask"], structures=["L", "R"])
    assert renamed.classes == ("background", "L", "R")
    swapped = load(tmp_path, rows, "mask", target=["mask"], structures=["right part", "left part"])
    mask = swapped.read_target(case, table.read_volume(case))
    assert np.array_equal(mask, np.array([0, 2, 1])[_labels(studies[1])])


def test_a_mask_made_with_flipped_rows_is_turned(tmp_path, studies):
    """dcm2niix, like others, stores rows bottom up: the grid is the same, the axes are not."""
    table = load(tmp_path, by_uid(studies))
    volume = table.read_volume(table.cases[0])
    labels = _labels(studies[0])
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = labels.shape[1] - 1
    rows = [{"StudyInstanceUID": r.study, "mask": f"m{n}.nii.gz"} for n, r in enumerate(studies)]
    for n in range(4):
        write_nifti(tmp_path / f"m{n}.nii.gz", labels[:, ::-1].astype(np.uint8), volume.affine @ flip)
    masked = load(tmp_path, rows, "mask", target=["mask"])
    assert masked.classes == ("background", "label-1", "label-2")
    assert np.array_equal(masked.read_target(masked.cases[0], volume), labels)


def test_unlabelled_studies(tmp_path, studies):
    extra = Recipe(
        columns=6, rows=5, slices=4, study=studies[1].study, patient=studies[1].patient, series=generate_uid()
    )
    extra.write(tmp_path / "studies" / "x")
    cases = unlabelled_cases(tmp_path / "studies")
    assert {case.case_id for case in cases} == {pseudonym(KEY, recipe.study) for recipe in studies}
    unclear = [case for case in cases if case.problem is not None]
    assert [case.case_id for case in unclear] == [pseudonym(KEY, studies[1].study)]
    table = CaseTable(cases=tuple(cases), kind="class")
    assert table.read_target(cases[0], table.read_volume(cases[0])) is None
    with pytest.raises(DataError, match=f"case {unclear[0].case_id}: the study has 2 series"):
        table.read_volume(unclear[0])

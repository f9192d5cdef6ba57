import numpy as np
import pytest
from helpers_data import SHAPE, nifti_study, noise, write_csv, write_nifti

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import load_cases, unlabelled_cases
from medtl_monai.data.identity import pseudonym
from medtl_monai.errors import ConfigError, DataError, MedtlError

KEY = b"a key for the tests of this room"


def rows(*labels, patients=None):
    patients = patients or [f"DOE^{n}" for n in range(len(labels))]
    return [{"PatientID": p, "y": y} for p, y in zip(patients, labels, strict=True)]


def load(path, kind="class", **config):
    classes = config.pop("classes", None)
    return load_cases(DataConfig(labels=path, target=config.pop("target", ["y"]), **config), kind, classes=classes)


def test_nifti_cases_with_everything_they_carry(tmp_path):
    table = load(nifti_study(tmp_path, rows("a", "b", "a", "b", patients=["P1", "P1", "P2", "P3"])))
    assert len(table) == 4
    assert [case.row for case in table] == [2, 3, 4, 5]
    assert [case.target for case in table] == [0, 1, 0, 1]
    assert table.classes == ("a", "b")
    first = table.cases[0]
    assert first.case_id == pseudonym(KEY, "img/0.nii.gz")
    assert table[first.case_id] is first
    assert first.group == table.cases[1].group != table.cases[2].group
    assert np.array_equal(table.read_volume(first).array, noise(0))
    assert table.read_target(first, table.read_volume(first)) == 0


def test_nothing_shows_an_identifier(tmp_path):
    table = load(nifti_study(tmp_path, rows("a", "b", "a", "b")))
    shown = repr(table) + repr(table.cases) + str(table.info(table.ids))
    assert table.cases[0].case_id in shown
    assert "DOE" not in shown
    assert "nii" not in shown
    assert str(tmp_path) not in shown


def test_the_same_path_has_the_same_id_wherever_the_table_is(tmp_path):
    one = load(nifti_study(tmp_path / "one", rows("a", "b", "a", "b")))
    two = load(nifti_study(tmp_path / "two", rows("a", "b", "a", "b")))
    assert one.ids == two.ids
    assert len(set(one.ids)) == 4


def test_without_a_patient_column_each_row_is_a_patient_and_that_is_said(tmp_path):
    table = load(nifti_study(tmp_path, [{"y": y} for y in "abab"]))
    assert len({case.group for case in table}) == 4
    assert "patient" in table.notes[0]
    assert "group_by" in table.notes[0]


def test_group_by_a_column(tmp_path):
    path = nifti_study(tmp_path, [{"y": y, "site": s} for y, s in zip("abab", "ttuu", strict=True)])
    table = load(path, group_by="site")
    assert table.cases[0].group == table.cases[1].group != table.cases[2].group
    assert not table.notes
    with pytest.raises(DataError, match="Did you mean 'site'"):
        load(path, group_by="sit")


def test_gaps_in_the_grouping_column_are_listed(tmp_path):
    path = nifti_study(tmp_path, [{"y": y, "site": s} for y, s in zip("abab", ["t", "", "u", "u"], strict=True)])
    with pytest.raises(DataError, match=r"'site': row 3"):
        load(path, group_by="site")


def test_a_stand_in_for_all_patients_is_refused(tmp_path):
    path = nifti_study(tmp_path, rows(*"abababab", patients=["ANONYMOUS"] * 6 + ["P1", "P2"]))
    with pytest.raises(DataError, match=r"same for 6 of 8.*group_by"):
        load(path)


def test_a_class_with_one_patient_is_named(tmp_path):
    path = nifti_study(tmp_path, rows("a", "b", "b", "a", patients=["P1", "P2", "P3", "P1"]))
    with pytest.raises(DataError, match=r"'a' \(1\)"):
        load(path)
    assert len(load(path, classes=("a", "b"))) == 4


def test_a_label_set_for_one_patient_is_named(tmp_path):
    path = nifti_study(tmp_path, rows("a;b", "a", "b", "a;c"))
    with pytest.raises(DataError, match=r"labels set in fewer than two patients: 'c' \(1\)"):
        load(path, "classes")
    path = nifti_study(tmp_path, rows("a;b", "a", "a", "a;b"))
    with pytest.raises(DataError, match=r"not set in fewer than two patients: 'a' \(0\)"):
        load(path, "classes")


def test_absent_and_repeated_images_are_listed(tmp_path):
    nifti_study(tmp_path, rows(*"abab"))
    table = [{"image": f"img/{n}.nii.gz", "y": y} for n, y in zip((0, 1, 7, 2, 8), "ababa", strict=True)]
    path = write_csv(tmp_path / "t.csv", table)
    with pytest.raises(DataError, match="not there: rows 4, 6"):
        load(path)
    with pytest.raises(DataError, match="fewer than two"):
        load(path, unmatched="drop")
    path = write_csv(tmp_path / "t.csv", [*table[:2], {"image": "./img/1.nii.gz", "y": "a"}, table[3]])
    with pytest.raises(DataError, match="twice: rows 3, 4"):
        load(path)


def test_dropped_rows_are_counted(tmp_path):
    nifti_study(tmp_path, rows(*"abab"))
    table = [
        {"image": f"img/{n}.nii.gz", "y": y} for n, y in zip((0, 1, 2, 3, 9), ["a", "b", "a", "b", "a"], strict=True)
    ]
    table.append({"image": "img/3.nii.gz", "y": ""})
    table[3]["image"] = "img/9.nii.gz"
    loaded = load(
        write_csv(tmp_path / "t.csv", [*table[:3], {"image": "img/3.nii.gz", "y": "b"}, table[4]]), unmatched="drop"
    )
    assert len(loaded) == 4
    assert loaded.notes[0] == "1 rows without an image were left out"


def test_no_table_no_image_column_not_nifti(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.labels"):
        load(None)
    path = write_csv(tmp_path / "t.csv", [{"img": "x", "y": "a"}, {"img": "x", "y": "b"}])
    with pytest.raises(DataError, match=r"no studies folder.*--studies.*img"):
        load(path)
    (tmp_path / "a.png").touch()
    path = write_csv(tmp_path / "t.csv", [{"image": "a.png", "y": "a"}, {"image": "a.png ", "y": "b"}])
    with pytest.raises(DataError):
        load(path)


def test_given_splits_are_read(tmp_path):
    path = nifti_study(tmp_path, [{"y": y, "s": s} for y, s in zip("abab", ["train", "VAL", "", "test"], strict=True)])
    assert [case.split for case in load(path, split="s")] == ["train", "val", None, "test"]
    path = nifti_study(tmp_path, [{"y": y, "s": s} for y, s in zip("abab", ["train", "dev", "", "tst"], strict=True)])
    with pytest.raises(DataError, match="rows 3, 5"):
        load(path, split="s")


def test_info_comes_from_the_given_cases_only(tmp_path):
    table = load(nifti_study(tmp_path, rows(*"aabb")))
    info = table.info(table.ids[:3])
    assert (info.classes, info.counts, info.cases) == (("a", "b"), (2, 1), 3)
    with pytest.raises(DataError, match="no training case has class 'b'"):
        table.info(table.ids[:2])


def test_info_of_numbers_and_label_sets(tmp_path):
    table = load(nifti_study(tmp_path, rows("1", "3", "100", "7")), "number")
    info = table.info(table.ids[:2])
    assert (info.mean, info.std) == ((2.0,), (1.0,))
    target = table.read_target(table.cases[2], None)
    assert target.dtype == np.float32
    assert target.tolist() == [100]
    with pytest.raises(DataError, match="one value only in column y"):
        table.info(table.ids[:1])
    table = load(nifti_study(tmp_path, rows("a", "a;b", "b", "none")), "classes")
    assert table.info(table.ids).counts == (2, 2)
    assert table.read_target(table.cases[1], None).tolist() == [1, 1]


def test_an_image_that_cannot_be_read_is_named_by_its_pseudonym(tmp_path):
    table = load(nifti_study(tmp_path, rows(*"abab")))
    write_nifti(tmp_path / "img/0.nii.gz", np.zeros((3, 3, 3, 2)))
    with pytest.raises(DataError, match=f"case {table.ids[0]}") as caught:
        table.read_volume(table.cases[0])
    assert "img" not in str(caught.value)


def test_an_unknown_case_says_so(tmp_path):
    with pytest.raises(DataError, match="MEDTL_ID_KEY"):
        load(nifti_study(tmp_path, rows(*"abab")))["feedfeedfeed"]


def test_unlabelled_nifti(tmp_path):
    nifti_study(tmp_path, rows(*"ab"))
    cases = unlabelled_cases(tmp_path)
    assert [case.source for case in cases] == ["img/0.nii.gz", "img/1.nii.gz"]
    assert cases[0].case_id == pseudonym(KEY, "img/0.nii.gz")
    assert cases[0].target is None
    listed = unlabelled_cases([tmp_path / "img/1.nii.gz", tmp_path / "img/0.nii.gz"])
    assert [case.source for case in listed] == ["1.nii.gz", "0.nii.gz"]
    assert [case.source for case in unlabelled_cases(tmp_path / "img/0.nii.gz")] == ["0.nii.gz"]


def test_unlabelled_nothing(tmp_path):
    with pytest.raises(MedtlError, match="neither DICOM"):
        unlabelled_cases(tmp_path)
    with pytest.raises(MedtlError, match="no such"):
        unlabelled_cases(tmp_path / "none")


def test_shapes_of_the_helper_are_as_told():
    assert noise(0).shape == SHAPE

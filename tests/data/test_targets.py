import math

import pytest
from helpers_data import write_csv

from medtl_monai.config import DataConfig
from medtl_monai.data.table import read_table
from medtl_monai.data.targets import read_targets
from medtl_monai.errors import ConfigError, DataError


def targets(tmp_path, kind, values, known=None, **config):
    """Read columns given as ``{"y": [...]}``."""
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    path = write_csv(tmp_path / "t.csv", [{"n": n, **row} for n, row in enumerate(rows)])
    config.setdefault("target", list(values))
    return read_targets(read_table(path), DataConfig(labels=path, **config), kind, known)


def test_classes_come_in_natural_order(tmp_path):
    found = targets(tmp_path, "class", {"y": ["T10", "T2", "T2", "T10"]})
    assert found.classes == ("T2", "T10")
    assert found.values == {2: 1, 3: 0, 4: 0, 5: 1}


def test_whole_numbers_are_classes_in_numeric_order(tmp_path):
    assert targets(tmp_path, "class", {"y": ["10", "9", "-1"]}).classes == ("-1", "9", "10")


def test_the_positive_class_comes_last(tmp_path):
    assert targets(tmp_path, "class", {"y": ["ill", "well"]}, positive="ill").classes == ("well", "ill")
    with pytest.raises(ConfigError, match="Did you mean 'ill'"):
        targets(tmp_path, "class", {"y": ["ill", "well"]}, positive="il")
    with pytest.raises(ConfigError, match="two classes, not 3"):
        targets(tmp_path, "class", {"y": ["a", "b", "c"]}, positive="a")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([str(n) for n in range(40)], "looks like a number"),
        (["1.5", "2.5", "1.5"], "looks like a number.*regression"),
        (["a", "a"], "one class only, 'a'"),
        (["1", "1.0", "2"], "in two ways, '1' and '1.0'"),
        (["Round", "round", "spiky"], "'Round' and 'round'"),
        (["a", "", "b", "NA"], "no value.*rows 3, 5"),
    ],
)
def test_doubtful_classes_are_refused(tmp_path, values, says):
    with pytest.raises(DataError, match=says):
        targets(tmp_path, "class", {"y": values})


def test_rows_without_a_label_can_be_dropped(tmp_path):
    assert set(targets(tmp_path, "class", {"y": ["a", "", "b"]}, unmatched="drop").values) == {2, 4}
    with pytest.raises(DataError, match="no row has a label"):
        targets(tmp_path, "class", {"y": ["", ""]}, unmatched="drop")


def test_classes_of_a_run_are_fixed(tmp_path):
    found = targets(tmp_path, "class", {"y": ["b", "b"]}, known=("b", "a"))
    assert found.classes == ("b", "a")
    assert set(found.values.values()) == {0}
    with pytest.raises(DataError, match=r"does not know: row 3"):
        targets(tmp_path, "class", {"y": ["b", "c"]}, known=("b", "a"))


def test_columns_must_be_named_and_there(tmp_path):
    with pytest.raises(ConfigError, match="no label column"):
        targets(tmp_path, "class", {"y": ["a", "b"]}, target=[])
    with pytest.raises(DataError, match="Did you mean 'large'"):
        targets(tmp_path, "class", {"large": ["a", "b"]}, target=["larg"])
    with pytest.raises(ConfigError, match="2 columns"):
        targets(tmp_path, "class", {"x": ["a", "b"], "y": ["a", "b"]})


def test_several_columns_are_labels_and_gaps_are_unknown(tmp_path):
    found = targets(tmp_path, "classes", {"x": ["1", "0", ""], "y": ["yes", "no", "TRUE"]})
    assert found.classes == ("x", "y")
    assert found.values[2] == (1.0, 1.0)
    assert found.values[3] == (0.0, 0.0)
    assert math.isnan(found.values[4][0])
    with pytest.raises(DataError, match=r"neither 0 nor 1: row 3"):
        targets(tmp_path, "classes", {"x": ["1", "maybe"], "y": ["1", "0"]})


def test_lists_are_labels_and_none_is_no_label(tmp_path):
    found = targets(tmp_path, "classes", {"y": ["b;a", "a", "none", " a ; c"]})
    assert found.classes == ("a", "b", "c")
    assert list(found.values.values()) == [(1, 1, 0), (1, 0, 0), (0, 0, 0), (1, 0, 1)]
    with pytest.raises(DataError, match="row 3"):
        targets(tmp_path, "classes", {"y": ["a;b", ""]})
    with pytest.raises(DataError, match="does not know: row 2"):
        targets(tmp_path, "classes", {"y": ["a;z"]}, known=("a", "b"))


def test_numbers(tmp_path):
    found = targets(tmp_path, "number", {"x": ["1.5", "-2e1"], "y": ["3", ""]})
    assert found.values[2] == (1.5, 3.0)
    assert found.values[3][0] == -20
    assert math.isnan(found.values[3][1])
    assert found.classes == ()


@pytest.mark.parametrize("text", ["1,5", "five", "inf", "1_000"])
def test_what_is_not_a_number_is_listed(tmp_path, text):
    with pytest.raises(DataError, match="not a number: row 3"):
        targets(tmp_path, "number", {"y": ["1", text, "2"]})


def test_masks_are_found_beside_the_table_or_under_the_studies(tmp_path):
    (tmp_path / "studies").mkdir()
    for name in ("a.nii.gz", "studies/b.dcm"):
        (tmp_path / name).touch()
    found = targets(tmp_path, "mask", {"y": ["a.nii.gz", "b.dcm"]}, studies=tmp_path / "studies")
    assert found.values == {2: tmp_path / "a.nii.gz", 3: tmp_path / "studies" / "b.dcm"}
    with pytest.raises(DataError, match="not there: row 3"):
        targets(tmp_path, "mask", {"y": ["a.nii.gz", "c.dcm"]})
    with pytest.raises(DataError, match="same file twice: rows 2, 3"):
        targets(tmp_path, "mask", {"y": ["a.nii.gz", "a.nii.gz"]})

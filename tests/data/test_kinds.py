import pytest
from helpers_data import write_csv

from medtl_monai.config import DataConfig
from medtl_monai.data.kinds import infer_kind
from medtl_monai.errors import ConfigError, DataError


def kind(tmp_path, **columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path = write_csv(tmp_path / "t.csv", [{"n": n, **row} for n, row in enumerate(rows)])
    return infer_kind(DataConfig(labels=path, target=list(columns)))


def test_what_columns_hold(tmp_path):
    assert kind(tmp_path, y=["a", "b", "NA"]) == "class"
    assert kind(tmp_path, y=["0", "1", "2"]) == "class"
    assert kind(tmp_path, y=[str(n) for n in range(12)]) == "number"
    assert kind(tmp_path, y=["1.5", "2", ""]) == "number"
    assert kind(tmp_path, y=["a;b", "a"]) == "classes"
    assert kind(tmp_path, x=["1", "0"], y=["yes", ""]) == "classes"
    assert kind(tmp_path, x=["1.5", "0"], y=["3", "2"]) == "number"
    assert kind(tmp_path, y=["a.nii.gz", "b.dcm"]) == "mask"


def test_files_without_an_ending_are_masks(tmp_path):
    for name in ("IM0", "IM1"):
        (tmp_path / name).touch()
    assert kind(tmp_path, y=["IM0", "IM1"]) == "mask"


def test_mixed_and_missing(tmp_path):
    with pytest.raises(DataError, match="different kinds"):
        kind(tmp_path, x=["a.nii", "b.nii"], y=["0", "1"])
    with pytest.raises(ConfigError, match="needed"):
        infer_kind(DataConfig())
    path = write_csv(tmp_path / "t.csv", [{"large": 1}])
    with pytest.raises(DataError, match="Did you mean 'large'"):
        infer_kind(DataConfig(labels=path, target=["larg"]))

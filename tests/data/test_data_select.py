"""data.select: which series of a study is its image, from the configuration to the voxels."""

import numpy as np
import pytest
from helpers_data import nifti_study, write_csv
from helpers_dicom import CORONAL, Recipe

from medtl_monai.config import DataConfig, RunConfig, SelectConfig, dump, load_config, validate
from medtl_monai.data.cases import CaseTable, load_cases, unlabelled_cases
from medtl_monai.data.inputs import Inputs, rules_of
from medtl_monai.dicom.select import Rules
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.training.folder import RunFolder


def described(text):
    return lambda dataset, k: setattr(dataset, "SeriesDescription", text)


@pytest.fixture
def recipes(tmp_path):
    """Four studies of a T1, a FLAIR in another plane, and a scout."""
    made = []
    for n in range(4):
        folder, one = tmp_path / "studies" / f"s{n}", {"patient": f"P{n}", "slices": 4}
        first = Recipe(offset=100 * n, edit=described("t1 mprage"), **one).write(folder / "t1")
        flair = {"edit": described("t2 FLAIR"), "orientation": CORONAL, "step": 5.0, "offset": 1000 + 100 * n}
        Recipe(study=first.study, **flair, **one).write(folder / "flair")
        scout = {"edit": lambda d, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])}
        Recipe(study=first.study, **scout, **one).write(folder / "scout")
        made.append(first)
    return made


def load(tmp_path, recipes, **select):
    rows = [{"StudyInstanceUID": r.study, "y": y} for r, y in zip(recipes, "abab", strict=True)]
    labels = write_csv(tmp_path / "labels.csv", rows)
    return load_cases(DataConfig(studies=tmp_path / "studies", labels=labels, target=["y"], select=select), "class")


RULES = [
    ({"description": "flair"}, "flair", 1000),
    ({"description": "^t1"}, "t1", 0),
    ({"orientation": "coronal"}, "flair", 1000),
    ({"thickness_mm": [4, 6]}, "flair", 1000),
    ({"localizer": True}, "scout", 0),
]


@pytest.mark.parametrize(("rules", "folder", "offset"), RULES, ids=[str(r[0]) for r in RULES])
def test_the_rules_decide(rules, folder, offset, tmp_path, recipes):
    table = load(tmp_path, recipes, **rules)
    assert [case.source for case in table] == [f"s{n}/{folder}" for n in range(4)]
    assert table.read_volume(table.cases[0]).array.min() == offset + 1


def test_what_is_left_and_what_went_is_listed(tmp_path, recipes):
    with pytest.raises(DataError) as caught:
        load(tmp_path, recipes)
    text = str(caught.value)
    assert "2 series that could be its image: MR 7×5×4, 0.7×0.9×5 mm; MR 7×5×4, 0.7×0.9×3 mm" in text
    assert "left out: MR 7×5×4, 0.7×0.9×3 mm, localizer (localizer)" in text
    assert "rows 2, 3, 4, 5" in text
    assert "data.select" in text
    assert "FLAIR" not in text
    with pytest.raises(DataError, match=r"has 0 series that could.*left out: .*\(modality MR, description\)"):
        load(tmp_path, recipes, modality="CT", description="t1")


def test_the_reading_follows_the_rules(tmp_path, recipes):
    recipe = Recipe(slices=1, patient="P0", study=recipes[0].study, edit=described("one slice"))
    recipe.write(tmp_path / "studies" / "s0" / "one")
    rules = Rules(description="one slice", min_slices=1)
    cases = unlabelled_cases(tmp_path / "studies", Inputs.one(rules))
    found = [case for case in cases if case.problem is None]
    assert [case.source for case in found] == ["s0/one"]
    table = CaseTable(cases=tuple(cases), kind="class", inputs=Inputs.one(rules))
    assert table.read_volume(found[0]).shape == (7, 5, 1)
    assert len([case for case in cases if "description" in str(case.problem)]) == 3


def test_the_config_names_the_rules_of_the_reader():
    assert set(SelectConfig.model_fields) == set(Rules.__dataclass_fields__)
    assert rules_of(DataConfig().select) == Rules()


def test_from_yaml_and_from_flags(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "data:\n  select:\n    modality: MR\n    thickness_mm: [0.5, 1.5]\n    image_type: [ORIGINAL, '!MIP']\n"
    )
    config = load_config(path, {"data.select.orientation": "axial"})
    expected = Rules(modality=("MR",), thickness_mm=(0.5, 1.5), image_type=("ORIGINAL", "!MIP"), orientation="axial")
    assert rules_of(config.data.select) == expected
    path.write_text(dump(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"modlity": "MR"}, r"unknown key 'data\.select\.modlity'.*'modality'"),
        ({"description": "("}, r"data\.select\.description.*not a regular expression"),
        ({"orientation": "diagonal"}, r"data\.select\.orientation"),
        ({"min_slices": 0}, r"data\.select\.min_slices"),
        ({"thickness_mm": [1]}, r"data\.select\.thickness_mm"),
    ],
)
def test_bad_rules(rules, message):
    with pytest.raises(ConfigError, match=message):
        validate({"data": {"select": rules}})


def test_the_run_folder_keeps_the_rules_as_they_are(tmp_path):
    data = DataConfig(studies=tmp_path / "studies", select={"description": "/t1/", "modality": ["MR"]})
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    folder.write_config(RunConfig(data=data))
    assert folder.read_config().data.select == data.select
    assert str(tmp_path) not in (tmp_path / "run" / "config.yaml").read_text()


def test_rules_without_dicom_are_refused(tmp_path):
    labels = nifti_study(tmp_path, [{"y": y} for y in "abab"])
    assert len(load_cases(DataConfig(labels=labels, target=["y"]), "class")) == 4
    with pytest.raises(ConfigError, match=r"data\.select: .*no studies folder"):
        load_cases(DataConfig(labels=labels, target=["y"], select={"modality": "MR"}), "class")


def test_patterns_and_arrays_agree(tmp_path, recipes):
    first, second = (load(tmp_path, recipes, description=d) for d in ("mprage", "flair"))
    assert first.ids == second.ids
    arrays = [t.read_volume(t.cases[3]).array for t in (first, second)]
    assert np.array_equal(arrays[0] + 1000, arrays[1])

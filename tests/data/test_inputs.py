"""data.inputs, data.image with several columns and data.channels: from the configuration to the channels."""

import numpy as np
import pytest
from helpers_data import affine_of, noise, write_csv, write_nifti
from helpers_dicom import Recipe, frames_of, write_seg
from helpers_inputs import DROP, FILL, RULES, described, write_study

from medtl_monai.config import DataConfig, PreprocessingConfig, dump, load_config, parse_set, validate
from medtl_monai.data.cases import CaseTable, load_cases, unlabelled_cases
from medtl_monai.data.image_info import image_info
from medtl_monai.data.inputs import Input, Inputs
from medtl_monai.dicom.select import Rules
from medtl_monai.errors import ConfigError, DataError, DicomError


@pytest.fixture
def studies(tmp_path):
    return [write_study(tmp_path / "studies" / f"s{n}", n) for n in range(4)]


def load(tmp_path, recipes, inputs=RULES, **more):
    rows = [{"StudyInstanceUID": r.study, "y": "ab"[n % 2]} for n, r in enumerate(recipes)]
    labels = write_csv(tmp_path / "labels.csv", rows)
    config = {"studies": tmp_path / "studies", "labels": labels, "target": ["y"], "inputs": inputs, **more}
    return load_cases(DataConfig(**config), "class")


def test_each_input_by_its_own_rules_in_order(tmp_path, studies):
    table = load(tmp_path, studies)
    assert table.inputs.names == ("T1", "FLAIR")
    case = table.cases[1]
    assert [source.description for source in case.sources] == ["t1 mprage", "t2 FLAIR"]
    assert case.image is case.sources[0]
    volume = table.read_volume(case)
    assert volume.array.shape == (2, 12, 12, 6)
    assert volume.array[0].min() == 101
    assert volume.array[1].min() > 7000
    assert [info.name for info in volume.channel_info] == ["T1", "FLAIR"]
    turned = load(tmp_path, studies, {"FLAIR": RULES["FLAIR"], "T1": {**RULES["T1"], "min_coverage": 0.3}})
    assert turned.ids == table.ids
    assert turned.read_volume(turned.cases[1]).array.shape == (2, 14, 26, 8)
    assert turned.read_volume(turned.cases[1]).array[0].min() == 7001
    info = image_info(table, case)
    assert (info.channels, info.shape, info.modalities) == (2, (12, 12, 6), ("MR", "MR"))


def test_files_and_selection_of_a_case(tmp_path, studies):
    table = load(tmp_path, studies)
    case = table.cases[0]
    assert len(case.files) == len(set(case.files)) == 14
    assert all(file.is_absolute() and file.is_file() for file in case.files)
    assert [file.parent.name for file in case.files] == ["t1"] * 6 + ["flair"] * 8
    assert len(case.selection.splitlines()) == 2
    assert len(case.fingerprints) == len(set(case.fingerprints)) == 2
    alone = load(tmp_path, studies, {}, select={"description": "t1"})
    assert alone.cases[0].files == case.files[:6]
    assert case.selection.startswith(alone.cases[0].selection)
    assert alone.cases[0].fingerprints == case.fingerprints[:1]
    assert alone.ids == table.ids
    assert tmp_path.name not in repr(case)


def test_a_missing_input_is_an_error_that_names_it(tmp_path, studies):
    studies.append(write_study(tmp_path / "studies" / "s4", 4, flair=False))
    with pytest.raises(DataError) as caught:
        load(tmp_path, studies)
    text = str(caught.value)
    assert "the study has 0 series that could be FLAIR; left out: MR 12×12×6, 0.7×0.9×3 mm (description)" in text
    assert "row 6" in text
    assert "mprage" not in text


def test_a_missing_input_is_filled_if_declared(tmp_path, studies):
    studies.append(write_study(tmp_path / "studies" / "s4", 4, flair=False))
    table = load(tmp_path, studies, FILL)
    assert table.notes[-1] == "FLAIR is missing in 1 of 5 cases and is filled"
    assert table.filled == {"FLAIR": (table.ids[4],)}
    case = table.cases[4]
    assert case.others == (None,)
    assert case.selection.splitlines()[1] == "missing"
    volume = table.read_volume(case)
    assert volume.channel_info[1].filled
    assert not volume.array[1].any()
    assert volume.array[0].std() > 0
    assert table.read_volume(table.cases[0]).array[1].any()


def test_an_incomplete_study_is_left_out_if_declared(tmp_path, studies):
    studies.append(write_study(tmp_path / "studies" / "s4", 4, flair=False))
    table = load(tmp_path, studies, DROP)
    assert len(table) == 4
    assert "1 studies that miss an input were left out" in table.notes
    with pytest.raises(DataError, match="no study is complete: PD is missing"):
        load(tmp_path, studies, {"T1": {"description": "t1"}, "PD": {"description": "pd", "missing": "drop"}})


def test_several_candidates_are_listed_best_first(tmp_path, studies):
    Recipe(study=studies[0].study, patient="P0", slices=9, edit=described("flair again")).write(
        tmp_path / "studies/s0/more"
    )
    for rules in (RULES, FILL, DROP):
        with pytest.raises(DataError) as caught:
            load(tmp_path, studies, rules)
        text = str(caught.value)
        assert "2 series that could be FLAIR: MR 7×5×9, 0.7×0.9×3 mm; MR 14×26×8" in text
        assert "row 2." in text
        assert "data.inputs" in text


def test_one_series_is_not_two_inputs(tmp_path, studies):
    with pytest.raises(DataError, match=r"one series is both T1 and MPRAGE: MR 12×12×6"):
        load(tmp_path, studies, {"T1": {"description": "t1"}, "MPRAGE": {"description": "mprage"}})
    with pytest.raises(DataError, match=r"2 series that could be T1: "):
        load(tmp_path, studies, {"T1": {}, "FLAIR": {"description": "flair"}})


def test_a_frame_of_reference_of_its_own(tmp_path):
    recipes = [write_study(tmp_path / f"studies/s{n}", n, FrameOfReferenceUID="1.2.3") for n in range(4)]
    table = load(tmp_path, recipes)
    case = table.cases[0]
    with pytest.raises(DataError, match=rf"case {case.case_id}, FLAIR, FrameOfReferenceUID: .*not comparable"):
        table.read_volume(case)
    table = load(tmp_path, recipes, {**RULES, "FLAIR": {"description": "flair", "frame_of_reference": "ignore"}})
    assert table.read_volume(table.cases[0]).array.shape == (2, 12, 12, 6)


def test_what_is_wrong_with_an_input_is_said_with_its_name(tmp_path, studies):
    for file in sorted((tmp_path / "studies/s1/flair").iterdir())[3:4]:
        file.unlink()
    table = load(tmp_path, studies)
    errors = []
    for case in table:
        try:
            table.read_volume(case)
        except DicomError as error:
            errors.append(str(error))
    assert len(errors) == 1
    assert errors[0].startswith(f"case {table.ids[1]}, FLAIR, ImagePositionPatient between s1/flair/")


def test_prediction_follows_the_inputs(tmp_path, studies):
    write_study(tmp_path / "studies" / "s4", 4, flair=False)
    inputs = Inputs.of(DataConfig(inputs=RULES))
    cases = unlabelled_cases(tmp_path / "studies", inputs)
    table = CaseTable(cases=tuple(cases), kind="class", inputs=inputs)
    assert [case.problem is None for case in cases] == [True] * 4 + [False]
    assert table.read_volume(cases[2]).array[0].min() == 201
    with pytest.raises(DataError, match="0 series that could be FLAIR"):
        table.read_volume(cases[4])
    dropped = unlabelled_cases(tmp_path / "studies", Inputs.of(DataConfig(inputs=DROP)))
    assert "0 series that could be FLAIR" in str(dropped[4].problem)
    write_nifti(tmp_path / "studies" / "stray.nii.gz", noise(0))
    stray = unlabelled_cases(tmp_path / "studies", inputs)
    assert [case.case_id for case in stray[:5]] == [case.case_id for case in cases]
    assert "files do not say which go together" in str(stray[5].problem)
    (tmp_path / "studies" / "stray.nii.gz").unlink()
    filled = unlabelled_cases(tmp_path / "studies", Inputs.of(DataConfig(inputs=FILL)))
    assert filled[4].problem is None
    assert filled[4].others == (None,)


def test_parts_of_one_series_can_be_inputs(tmp_path):
    recipes = []
    for n in range(4):
        # Two echoes in one series.
        recipe = Recipe(patient=f"P{n}", prefix="a", edit=lambda d, k: setattr(d, "EchoTime", "20")).write(
            tmp_path / f"studies/s{n}"
        )
        Recipe(
            patient=f"P{n}", study=recipe.study, series=recipe.series, prefix="b", offset=500,
            edit=lambda d, k: setattr(d, "EchoTime", "80"),
        ).write(tmp_path / f"studies/s{n}")  # fmt: skip
        recipes.append(recipe)
    table = load(tmp_path, recipes, {"PD": {"part": "EchoTime 20"}, "T2": {"part": "EchoTime 80"}})
    volume = table.read_volume(table.cases[0])
    assert np.array_equal(volume.array[0] + 500, volume.array[1])
    assert volume.notes == ()


def test_a_segmentation_is_placed_on_the_first(tmp_path, studies):
    rows = []
    labels = np.zeros((12, 12, 6), int)
    labels[3:8, 2:5, 1:4] = 1
    for n, recipe in enumerate(studies):
        write_seg(tmp_path / f"seg{n}", frames_of(labels, recipe), recipe, names=["lesion"])
        rows.append({"StudyInstanceUID": recipe.study, "mask": f"seg{n}"})
    path = write_csv(tmp_path / "labels.csv", rows)
    config = DataConfig(studies=tmp_path / "studies", labels=path, target=["mask"], inputs=RULES)
    table = load_cases(config, "mask")
    case = table.cases[2]
    mask = table.read_target(case, table.read_volume(case))
    assert np.array_equal(mask, labels)
    assert mask.any()


# NIfTI


def write_columns(tmp_path, n=4, missing=()):
    rows = []
    for i in range(n):
        write_nifti(tmp_path / f"img/t1_{i}.nii.gz", noise(i), affine_of(np.eye(3)))
        flair = affine_of(np.eye(3), (0.5, 0.5, 0.5), (4.7, -7.3, 10.7))
        write_nifti(tmp_path / f"img/fl_{i}.nii.gz", noise(100 + i, (20, 22, 18)), flair)
        cell = "" if i in missing else f"img/fl_{i}.nii.gz"
        rows.append({"t1": f"img/t1_{i}.nii.gz", "flair": cell, "y": "ab"[i % 2]})
    return write_csv(tmp_path / "labels.csv", rows)


def load_nifti(labels, **more):
    return load_cases(DataConfig(labels=labels, target=["y"], **more), "class")


def test_several_columns_are_channels(tmp_path):
    labels = write_columns(tmp_path)
    table = load_nifti(labels, image="t1,flair")
    assert table.inputs.names == ("t1", "flair")
    case = table.cases[3]
    assert [path.name for path in case.files] == ["t1_3.nii.gz", "fl_3.nii.gz"]
    volume = table.read_volume(case)
    assert volume.array.shape == (2, 8, 9, 7)
    assert np.array_equal(volume.array[0], noise(3))
    assert volume.array[1].std() > 1
    same = load_nifti(labels, inputs={"t1": {}, "FL": {"column": "flair"}})
    assert same.ids == table.ids == load_nifti(labels, image="t1").ids
    assert np.array_equal(same.read_volume(same.cases[3]).array, volume.array)
    assert [info.name for info in same.read_volume(case).channel_info] == ["t1", "FL"]
    info = image_info(table, case, PreprocessingConfig())
    assert (info.channels, info.shape, [c.name for c in info.channel_info]) == (2, (8, 9, 7), ["t1", "flair"])


def test_missing_cells(tmp_path):
    labels = write_columns(tmp_path, 6, missing=(1, 4))
    with pytest.raises(DataError, match=r"flair names no image: rows 3, 6\. .*data\.inputs\.flair"):
        load_nifti(labels, image="t1,flair")
    with pytest.raises(DataError, match=r"flair names no image: rows 3, 6"):
        load_nifti(labels, inputs={"t1": {}, "flair": {}})
    table = load_nifti(labels, inputs={"t1": {}, "flair": {"missing": "fill"}})
    assert table.filled == {"flair": (table.ids[1], table.ids[4])}
    assert table.read_volume(table.cases[4]).channel_info[1].filled
    assert image_info(table, table.cases[4]).channel_info[1].filled
    assert not image_info(table, table.cases[3]).channel_info[1].filled
    table = load_nifti(labels, inputs={"t1": {}, "flair": {"missing": "drop"}})
    assert [case.row for case in table] == [2, 4, 5, 7]
    assert "2 rows without flair were left out" in table.notes


def test_bad_columns(tmp_path):
    labels = write_columns(tmp_path)
    with pytest.raises(DataError, match=r"no column 'flare'.*name the column with data\.image.*flair"):
        load_nifti(labels, image="t1,flare")
    with pytest.raises(DataError, match=r"no column 'FLAIR'.*data\.inputs\.FLAIR\.column"):
        load_nifti(labels, inputs={"t1": {}, "FLAIR": {}})
    text = labels.read_text()
    labels.write_text(text.replace("img/fl_2", "img/fl_1"))
    with pytest.raises(DataError, match=r"t1 or flair names the same image twice: rows 3, 4"):
        load_nifti(labels, image="t1,flair")
    labels.write_text(text.replace("img/fl_2", "img/t1_2"))
    with pytest.raises(DataError, match=r"names the same image twice: row 4"):
        load_nifti(labels, image="t1,flair")
    labels.write_text(text.replace("img/fl_2", "img/fl_9"))
    with pytest.raises(DataError, match=r"flair names images that are not there: row 4"):
        load_nifti(labels, inputs={"t1": {}, "flair": {"missing": "fill"}})
    (tmp_path / "img/x.txt").write_text("x")
    labels.write_text(text.replace("img/fl_2.nii.gz", "img/x.txt"))
    with pytest.raises(DataError, match=r"flair names files that are not NIfTI: row 4"):
        load_nifti(labels, image="t1,flair")


def test_a_table_names_the_images_of_new_cases(tmp_path):
    labels = write_columns(tmp_path, missing=(2,))
    inputs = Inputs.of(DataConfig(image="t1,flair"))
    with pytest.raises(DataError, match=r"a case has 2 images \(t1, flair\).*CSV table.*columns t1, flair"):
        unlabelled_cases(tmp_path / "img", inputs)
    cases = unlabelled_cases(labels, inputs)
    assert [case.case_id for case in cases] == list(load_nifti(labels, image="t1").ids)
    table = CaseTable(cases=tuple(cases), kind="class", inputs=inputs)
    assert table.read_volume(cases[0]).array.shape == (2, 8, 9, 7)
    with pytest.raises(DataError, match="the case has no flair"):
        table.read_volume(cases[2])
    (tmp_path / "img/fl_3.nii.gz").unlink()
    with pytest.raises(DataError, match=rf"case {cases[3].case_id}, flair: no such file"):
        table.read_volume(unlabelled_cases(labels, inputs)[3])
    alone = unlabelled_cases(labels, Inputs.of(DataConfig(image="t1")))
    assert [case.case_id for case in alone] == [case.case_id for case in cases]
    with pytest.raises(DataError, match="a column 'image' that is not there"):
        unlabelled_cases(labels)
    text = labels.read_text()
    labels.write_text(text.replace("img/t1_1.nii.gz", "img/t1_0.nii.gz"))
    with pytest.raises(DataError, match=r"t1 or flair names the same image twice: rows 2, 3"):
        unlabelled_cases(labels, inputs)
    labels.write_text(text.replace("img/t1_1.nii.gz", "").replace("img/t1_0.nii.gz", ""))
    cases = unlabelled_cases(labels, inputs)
    assert len({case.case_id for case in cases}) == 4
    assert [str(case.problem)[:22] for case in cases[:2]] == ["the case has no t1. Na"] * 2


# Channels on the fourth axis


def write_fourth(tmp_path, channels=3, n=4):
    rows = []
    for i in range(n):
        array = np.stack([noise(10 * i + c) for c in range(channels)], axis=-1)
        write_nifti(tmp_path / f"img/{i}.nii.gz", array, affine_of(np.eye(3)))
        rows.append({"image": f"img/{i}.nii.gz", "y": "ab"[i % 2]})
    return write_csv(tmp_path / "labels.csv", rows)


def test_the_fourth_axis_is_channels_if_they_are_named(tmp_path):
    labels = write_fourth(tmp_path)
    table = load_nifti(labels, channels=["FLAIR", "T1w", "T2w"])
    assert table.inputs.names == ("FLAIR", "T1w", "T2w")
    volume = table.read_volume(table.cases[2])
    assert volume.array.shape == (3, 8, 9, 7)
    assert all(np.array_equal(volume.array[c], noise(20 + c)) for c in range(3))
    assert [info.name for info in volume.channel_info] == ["FLAIR", "T1w", "T2w"]
    info = image_info(table, table.cases[2])
    assert (info.channels, info.shape) == (3, (8, 9, 7))
    cases = unlabelled_cases(tmp_path / "img", table.inputs)
    again = CaseTable(cases=tuple(cases), kind="class", inputs=table.inputs).read_volume(cases[2])
    assert np.array_equal(again.array, volume.array)


def test_another_number_of_channels_is_refused(tmp_path):
    labels = write_fourth(tmp_path)
    for channels, found in (("a,b", "3 on its last axis"), ("a,b,c,d", "3 on its last axis")):
        table = load_nifti(labels, channels=channels)
        for read in (table.read_volume, lambda case, table=table: image_info(table, case)):
            with pytest.raises(DataError, match=rf"image \(8, 9, 7, 3\) has {found}.*data\.channels"):
                read(table.cases[0])
    table = load_nifti(labels)
    with pytest.raises(DataError, match=r"the image has 4 dimensions \(8, 9, 7, 3\).*name them in data\.channels"):
        table.read_volume(table.cases[0])
    write_nifti(tmp_path / "img/0.nii.gz", noise(0))
    table = load_nifti(labels, channels="a,b,c")
    with pytest.raises(DataError, match=r"\(8, 9, 7\) has no fourth axis"):
        table.read_volume(table.cases[0])


def test_one_channel_may_have_a_name(tmp_path):
    table = load_nifti(write_columns(tmp_path), image="t1", channels="CT")
    volume = table.read_volume(table.cases[0])
    assert volume.array.shape == (8, 9, 7)
    assert [info.name for info in volume.channel_info] == ["CT"]


# The configuration


def test_from_the_command_line():
    given = "data.inputs={T1: {description: t1}, FLAIR: {description: flair, missing: fill, modality: MR}}"
    config = load_config(None, parse_set([given, "preprocessing.channels.T1.clip=[0, 9]"]))
    assert Inputs.of(config.data).items == (
        Input(name="T1", rules=Rules(description="t1"), column="T1"),
        Input(name="FLAIR", rules=Rules(description="flair", modality=("MR",)), column="FLAIR", missing="fill"),
    )
    assert config.preprocessing.channels["T1"].clip == [0, 9]
    assert Inputs.of(DataConfig()) == Inputs()
    assert Inputs.of(DataConfig(select={"modality": "CT"})) == Inputs.one(Rules(modality=("CT",)))


def test_the_stored_configuration_is_the_same(tmp_path):
    config = load_config(None, {"data.inputs": dict(reversed(DROP.items())), "data.unmatched": "drop"})
    (tmp_path / "config.yaml").write_text(dump(config))
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert list(again.data.inputs) == ["FLAIR", "T1"]
    (tmp_path / "config.yaml").write_text("data:\n  image: ct\n")
    assert load_config(tmp_path / "config.yaml").data.image == ["ct"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inputs": {"T1": {"descripton": "t1"}}}, r"unknown key 'data\.inputs\.T1\.descripton'.*'description'"),
        ({"inputs": {"T1": {"missing": "maybe"}}}, r"data\.inputs\.T1\.missing"),
        ({"inputs": {"T1": {"missing": "fill"}}}, r"data\.inputs.*first input gives the grid"),
        ({"inputs": {"T1": {"min_coverage": 2}}}, r"data\.inputs\.T1\.min_coverage"),
        ({"inputs": {"T1": {"description": "("}}}, r"data\.inputs\.T1\.description.*not a regular expression"),
        ({"inputs": {"a.b": {}}}, r"'a\.b' is not a name"),
        ({"inputs": RULES, "select": {"modality": "MR"}}, "select and inputs are both set"),
        ({"inputs": RULES, "image": "t1,flair"}, "image and inputs are both set"),
        ({"inputs": RULES, "channels": "a,b"}, "channels and inputs are both set"),
        ({"image": "a,b", "channels": "a,b"}, "channels and image are both set"),
        ({"image": "a,a"}, "a name occurs twice"),
    ],
)
def test_bad_configurations(data, message):
    with pytest.raises(ConfigError, match=message):
        validate({"data": data})


def test_rules_for_files_and_columns_for_series_are_refused(tmp_path):
    labels = write_columns(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.inputs\.flair: .*no studies folder"):
        load_nifti(labels, inputs={"t1": {}, "flair": {"description": "flair"}})
    for more, key in (
        ({"inputs": {"T1": {"column": "t1"}}}, r"data\.inputs\.T1\.column"),
        ({"image": "t1,flair"}, r"data\.image"),
        ({"channels": "t1,flair"}, r"data\.channels"),
    ):
        with pytest.raises(ConfigError, match=rf"{key}: this is for NIfTI files"):
            load_nifti(labels, studies=tmp_path / "img", **more)

import numpy as np
import pytest
from helpers_data import noise
from helpers_layouts import decathlon, load, mask, nnunet

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import unlabelled_cases
from medtl_monai.data.layouts import detect, open_dataset, settle
from medtl_monai.data.layouts.nnunet import read
from medtl_monai.errors import ConfigError, DataError


def table_of(root, **config):
    return open_dataset(DataConfig(dataset=root, **config), "mask").listing.table


def test_cases_with_images_masks_and_names(tmp_path):
    table = load(nnunet(tmp_path))
    assert len(table) == 4
    assert table.classes == ("background", "atrium", "wall")
    for n, case in enumerate(table):
        volume = table.read_volume(case)
        assert case.source == f"imagesTr/case_{n:02d}_0000.nii.gz"
        assert np.array_equal(volume.array, noise(10 * n))
        assert np.array_equal(table.read_target(case, volume), mask(n))
    assert "nnU-Net" in table.notes[0]
    assert "4 labelled cases (T1), labels atrium, wall" in table.notes[0]
    assert "each case is taken for one patient" in table.notes[1]


def test_uncompressed_files(tmp_path):
    assert len(load(nnunet(tmp_path, ending=".nii"))) == 4


def test_channels_are_columns(tmp_path):
    root = nnunet(tmp_path, channels=("T1", "FLAIR", "label"))
    table = table_of(root)
    assert table.columns == ("T1", "FLAIR", "label image", "label")
    assert [row["FLAIR"] for row in table.rows] == [f"imagesTr/case_{n:02d}_0001.nii.gz" for n in range(4)]
    assert table.rows[2]["label"] == "labelsTr/case_02.nii.gz"
    assert settle(DataConfig(dataset=root)).image == ["T1", "FLAIR", "label image"]


def test_channels_are_read_in_their_order(tmp_path):
    root = nnunet(tmp_path, channels=("T1", "FLAIR"), tests=2)
    config = settle(DataConfig(dataset=root))
    assert settle(DataConfig.model_validate(config.model_dump())) == config
    table = load(root)
    volume = table.read_volume(table.cases[2])
    assert np.array_equal(volume.array, np.stack([noise(20), noise(21)]))
    assert [channel.name for channel in volume.channel_info] == ["T1", "FLAIR"]
    some = load(root, image=["FLAIR"])
    assert np.array_equal(some.read_volume(some.cases[2]).array, noise(21))
    cases = unlabelled_cases(root, table.inputs)
    assert [len(case.sources) for case in cases] == [2, 2]
    assert np.array_equal(table.read_volume(cases[1]).array, np.stack([noise(50), noise(51)]))


def test_channels_that_the_user_sets_must_go_with_the_layout(tmp_path):
    root = nnunet(tmp_path, channels=("T1", "FLAIR"))
    with pytest.raises(ConfigError, match="channels and image are both set"):
        load(root, channels=["T1", "FLAIR"])
    table = load(root, inputs={"second": {"column": "FLAIR"}, "first": {"column": "T1"}})
    assert np.array_equal(table.read_volume(table.cases[2]).array, np.stack([noise(21), noise(20)]))


def test_one_of_several_channels_for_prediction(tmp_path):
    root = nnunet(tmp_path, channels=("T1", "FLAIR"), tests=1)
    (case,) = unlabelled_cases(root, load(root, image=["FLAIR"]).inputs)
    assert case.source == "imagesTs/case_04_0001.nii.gz"


def test_version_1_lists_images_without_their_channel(tmp_path):
    training = [
        {"image": f"./imagesTr/case_{n:02d}.nii.gz", "label": f"./labelsTr/case_{n:02d}.nii.gz"} for n in range(4)
    ]
    labels = {"0": "background", "1": "atrium", "2": "wall"}
    changes = {"training": training, "labels": labels, "modality": {"0": "CT"}, "channel_names": None}
    root = nnunet(tmp_path, file_ending=None, **changes)
    assert detect(root).name == "nnunet"
    assert load(root).ids == load(nnunet(tmp_path / "two")).ids
    assert detect(decathlon(tmp_path / "three")).name == "decathlon"


def test_labelled_test_cases_are_the_test_part(tmp_path):
    root = nnunet(tmp_path, tests=2, labelled=True)
    table = load(root)
    assert [case.split for case in table] == ["train"] * 4 + ["test"] * 2
    assert "4 labelled cases and 2 for testing" in table.notes[0]
    assert settle(DataConfig(dataset=root)).split == "split"
    assert not any("no labels" in note for note in table.notes)


def test_test_cases_without_labels_are_for_prediction(tmp_path):
    root = nnunet(tmp_path, tests=2)
    table = load(root)
    assert {case.split for case in table} == {None}
    assert any("2 test cases have no labels: medtl predict" in note for note in table.notes)
    sources = [case.source for case in unlabelled_cases(root)]
    assert sources == ["imagesTs/case_04_0000.nii.gz", "imagesTs/case_05_0000.nii.gz"]


def test_explicit_paths(tmp_path):
    cases = {
        f"c{n}": {"images": [f"imagesTr/case_{n:02d}_0000.nii.gz"], "label": f"labelsTr/case_{n:02d}.nii.gz"}
        for n in (3, 1)
    }
    root = nnunet(tmp_path, dataset=cases, numTraining=2)
    table = load(root)
    assert [case.source for case in table] == ["imagesTr/case_03_0000.nii.gz", "imagesTr/case_01_0000.nii.gz"]
    cases["c3"]["images"] = ["../x_0000.nii.gz"]
    with pytest.raises(DataError, match="leads out of the folder"):
        load(nnunet(tmp_path, dataset=cases, numTraining=2))
    cases["c3"]["images"] = []
    with pytest.raises(DataError, match="does not give case 'c3' 1 images and a label"):
        load(nnunet(tmp_path, dataset=cases, numTraining=2))


def test_the_label_to_ignore(tmp_path):
    root = nnunet(tmp_path, labels={"background": 0, "atrium": 1, "ignore": 2})
    table = load(root)
    assert table.classes == ("background", "atrium")
    assert table.ignore == 2
    case = table.cases[0]
    assert set(np.unique(table.read_target(case, table.read_volume(case)))) == {0, 1, 2}
    with pytest.raises(ConfigError, match=r"data.ignore_label is 9, and dataset.json ignores 2"):
        load(root, ignore_label=9)
    with pytest.raises(DataError, match="ignore has the value 1, between"):
        load(nnunet(tmp_path, labels={"background": 0, "ignore": 1, "wall": 2}))


def test_regions_need_names_of_their_values(tmp_path):
    root = nnunet(tmp_path, labels={"background": 0, "whole": [1, 2], "wall": 2}, regions_class_order=[1, 2])
    with pytest.raises(DataError, match=r"labels overlap \('whole'.*--set data.structures=\[name-1,name-2\]"):
        load(root)
    assert load(root, structures=["atrium", "wall"]).classes == ("background", "atrium", "wall")


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png"])
def test_other_formats(tmp_path, ending):
    with pytest.raises(DataError, match=rf"its images are {ending} files.*Convert .*nii.gz"):
        load(nnunet(tmp_path, file_ending=ending))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "imagesTr/case_01_0000.nii.gz").unlink(), "have no images in imagesTr: case case_01"),
        (lambda root: (root / "imagesTr/case_09_0000.nii.gz").symlink_to("none"), "case_09_0000.nii.gz leads nowhere"),
        (lambda root: (root / "labelsTr/case_01.nii.gz").unlink(), "numTraining is 4, and 3 training cases are there"),
        (lambda root: (root / "imagesTr/case_01_0000.nii.gz").rename(root / "imagesTr/x.nii.gz"), "no channel number"),
        (lambda root: (root / "imagesTr/case_01_0000.nii.gz").rename(root / "imagesTr/case_01_0001.nii.gz"),
         r"1 channels are declared, and others are there: case case_01 \(0001\)"),
    ],
)  # fmt: skip
def test_cases_that_are_not_complete(tmp_path, damage, message):
    root = nnunet(tmp_path)
    damage(root)
    with pytest.raises(DataError, match=message):
        load(root)


def test_a_channel_that_is_absent(tmp_path):
    root = nnunet(tmp_path, channels=("T1", "FLAIR"))
    (root / "imagesTr/case_02_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"2 channels are declared.*case_02 \(0000\)"):
        read(root, DataConfig(dataset=root))


def test_images_without_a_label_are_counted(tmp_path):
    root = nnunet(tmp_path)
    (root / "labelsTr/case_01.nii.gz").unlink()
    root = nnunet_json(root, 3)
    assert "1 cases in imagesTr without a label were left out" in load(root).notes


def nnunet_json(root, cases):
    text = (root / "dataset.json").read_text().replace('"numTraining": 4', f'"numTraining": {cases}')
    (root / "dataset.json").write_text(text)
    return root


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {}}, "declares no channels"),
        ({"channel_names": {"0": "T1", "1": "T1"}}, "two channels have one name"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels 'a' and 'b' have one value"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "label values 0, 1, 3 are not 0"),
        ({"labels": {"background": 0, "a": -1}}, "has the value -1"),
        ({"labels": {"background": 0, "a": True}}, "has the value True"),
        ({"labels": {"background": 0, "a": []}}, r"has the value \[\]"),
    ],
)
def test_a_dataset_json_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load(nnunet(tmp_path, **changes))

import json

import numpy as np
import pytest
from helpers_data import SHAPE, noise
from helpers_layouts import decathlon, load, mask

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import unlabelled_cases
from medtl_monai.data.identity import pseudonym
from medtl_monai.data.layouts import settle
from medtl_monai.errors import ConfigError, DataError

KEY = b"a key for the tests of this room"


def test_cases_with_images_masks_and_names(tmp_path):
    table = load(decathlon(tmp_path / "Task02_Heart"))
    assert len(table) == 4
    assert table.classes == ("background", "atrium", "wall")
    assert [case.row for case in table] == [1, 2, 3, 4]
    for n, case in enumerate(table):
        assert case.case_id == pseudonym(KEY, f"imagesTr/heart_{n:03d}.nii.gz")
        volume = table.read_volume(case)
        assert np.array_equal(volume.array, noise(n))
        assert np.array_equal(table.read_target(case, volume), mask(n))
    assert not np.array_equal(mask(0), mask(1))
    assert len({case.group for case in table}) == 4


def test_what_was_found_is_said_first_and_that_patients_are_not_known(tmp_path):
    first, second, third = load(decathlon(tmp_path / "Task02_Heart")).notes
    assert "Decathlon" in first
    assert "4 labelled cases (MRI), labels atrium, wall" in first
    assert "each case is taken for one patient" in second
    assert "--labels" in second
    assert "2 test images have no labels: medtl predict" in third
    assert not any(str(tmp_path) in note for note in (first, second, third))


def test_the_configuration_is_completed_and_settles_once(tmp_path):
    root = decathlon(tmp_path)
    config = settle(DataConfig(dataset=root))
    assert config.layout == "decathlon"
    assert config.target == ["label"]
    assert config.structures == ["atrium", "wall"]
    assert settle(config) == config != DataConfig(dataset=root)


def test_what_the_user_sets_wins(tmp_path):
    table = load(decathlon(tmp_path), structures=["left", "right"], ignore_label=7)
    assert table.classes == ("background", "left", "right")
    assert table.ignore == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target": ["volume"]}, "data.target is volume.*Decathlon.* gives label"),
        ({"structures": ["all"]}, "data.structures has 1 names, and dataset.json declares 2 labels.*atrium, wall"),
        ({"labels": "table.csv"}, "data.labels and data.dataset exclude each other"),
        ({"studies": "dicom"}, "data.studies and data.dataset exclude each other"),
        ({"key": "PatientID"}, "data.key and data.dataset exclude each other"),
    ],
)
def test_contradictions(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        load(decathlon(tmp_path), **config)


def test_another_kind_of_head(tmp_path):
    with pytest.raises(DataError, match=r"learns from classes, and .* holds masks.*--labels"):
        load(decathlon(tmp_path), "class")


def test_files_of_macos_are_no_images(tmp_path):
    root = decathlon(tmp_path)
    assert (root / "imagesTr/._heart_000.nii.gz").exists()
    assert len(load(root)) == 4
    assert len(unlabelled_cases(root / "imagesTs")) == 2


def test_prediction_takes_the_test_images_and_not_the_label_maps(tmp_path):
    cases = unlabelled_cases(decathlon(tmp_path))
    assert [case.source for case in cases] == ["imagesTs/heart_004.nii.gz", "imagesTs/heart_005.nii.gz"]
    with pytest.raises(DataError, match="no test images"):
        unlabelled_cases(decathlon(tmp_path / "none", tests=0))


def test_absent_files_are_named(tmp_path):
    root = decathlon(tmp_path)
    (root / "labelsTr/heart_002.nii.gz").unlink()
    with pytest.raises(DataError, match=r"not there: file labelsTr/heart_002.nii.gz\. Complete the download"):
        load(root)


def test_absent_test_images_are_counted(tmp_path):
    root = decathlon(tmp_path)
    (root / "imagesTs/heart_005.nii.gz").unlink()
    assert any("1 test images (of 2 listed)" in note for note in load(root).notes)
    (root / "imagesTs/heart_004.nii.gz").unlink()
    assert any("none of its 2 test images is there" in note for note in load(root).notes)


def test_another_number_than_declared(tmp_path):
    with pytest.raises(DataError, match="numTraining is 5, and 4 training cases are listed"):
        load(decathlon(tmp_path, numTraining=5))


def test_images_that_are_not_listed_are_counted(tmp_path):
    root = decathlon(tmp_path)
    content = json.loads((root / "dataset.json").read_text())
    content |= {"numTraining": 3, "training": content["training"][:3]}
    (root / "dataset.json").write_text(json.dumps(content))
    table = load(root)
    assert len(table) == 3
    assert "1 images that dataset.json does not list were left out" in table.notes


@pytest.mark.parametrize("path", ["../other/x.nii.gz", "/etc/x.nii.gz", "imagesTr/../../x.nii.gz", "..\\x.nii.gz"])
def test_paths_stay_in_the_folder(tmp_path, path):
    training = [{"image": path, "label": "labelsTr/heart_000.nii.gz"}]
    with pytest.raises(DataError, match=r"'x.nii.gz' leads out of the folder"):
        load(decathlon(tmp_path / "set", training=training, numTraining=1))


def test_links_are_followed(tmp_path):
    whole = decathlon(tmp_path / "store")
    root = tmp_path / "linked"
    root.mkdir()
    for name in ("imagesTr", "imagesTs", "labelsTr", "dataset.json"):
        (root / name).symlink_to(whole / name)
    assert load(root).ids == load(whole).ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "declares no labels"),
        ({"labels": {"0": "background"}}, "are not 0"),
        ({"labels": {"0": "background", "2": "wall"}}, "label values 0, 2 are not 0"),
        ({"labels": {"1": "atrium", "2": "wall"}}, "label values 1, 2 are not 0"),
        ({"labels": {"0": "background", "1": "wall", "2": "wall"}}, "two labels are called 'wall'"),
        ({"labels": ["background", "wall"]}, "'labels' is not an object"),
        ({"labels": {"background": 0, "wall": "one"}}, "label 'wall' has the value 'one'"),
        ({"labels": {"0": "background", "1": "a\x1b[31m"}}, "not a text"),
        ({"modality": {"0": "T1", "2": "T2"}}, "not numbered 0, 1, … but 0, 2"),
        ({"modality": {"0": 5}}, "a channel's name is not a text but 5"),
        ({"training": []}, "lists no training cases"),
        ({"training": ["imagesTr/heart_000.nii.gz"]}, "do not name an image and a label: entry 1"),
        ({"training": [{"image": 5, "label": "x.nii.gz"}]}, "a path is not a text but 5"),
        ({"training": [{"image": "a.png", "label": "b.png"}]}, "not NIfTI: files a.png, b.png"),
        ({"training": [{"image": "a" * 5000 + ".nii", "label": "."}]}, "not NIfTI: file [.]"),
        ({"training": [{"image": "a" * 5000 + ".nii", "label": "b.nii"}]}, "not there: files aaaa"),
        ({"training": [{"image": "C:/a.nii", "label": "b.nii"}]}, "'a.nii' leads out of the folder"),
        ({"test": {"0": "x"}}, "'test' is not a list"),
    ],
)
def test_a_dataset_json_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        load(decathlon(tmp_path, **changes))
    assert caught.value.mend


def test_a_mask_twice_is_named_by_its_image(tmp_path):
    root = decathlon(tmp_path)
    content = json.loads((root / "dataset.json").read_text())
    content["training"][1]["label"] = content["training"][0]["label"]
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"same file twice: cases imagesTr/heart_000.nii.gz, imagesTr/heart_001.nii.gz"):
        load(root)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\udcff", "[" * 100_000])
def test_a_dataset_json_that_is_no_json(tmp_path, text):
    root = decathlon(tmp_path)
    (root / "dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"not readable JSON|not a JSON object"):
        load(root)


def test_a_mask_value_that_is_not_declared(tmp_path):
    table = load(decathlon(tmp_path, labels={"0": "background", "1": "atrium"}))
    with pytest.raises(DataError, match="holds value 2"):
        table.read_target(table.cases[0], table.read_volume(table.cases[0]))


def test_channels_on_the_fourth_axis(tmp_path):
    root = decathlon(tmp_path, shape=(*SHAPE, 2), modality={"0": "FLAIR", "1": "T1w"}, tensorImageSize="4D")
    config = settle(DataConfig(dataset=root))
    assert config.channels == ["FLAIR", "T1w"]
    assert settle(DataConfig.model_validate(config.model_dump())) == config
    table = load(root)
    volume = table.read_volume(table.cases[1])
    assert volume.array.shape == (2, *SHAPE)
    assert np.array_equal(volume.array, np.moveaxis(noise(1, (*SHAPE, 2)), 3, 0))
    assert [channel.name for channel in volume.channel_info] == ["FLAIR", "T1w"]
    assert np.array_equal(table.read_target(table.cases[1], volume), mask(1))
    with pytest.raises(ConfigError, match=r"data.channels is T1w, FLAIR, and .* gives FLAIR, T1w"):
        load(root, channels=["T1w", "FLAIR"])


def test_channels_of_one_file_are_no_inputs(tmp_path):
    root = decathlon(tmp_path, shape=(*SHAPE, 2), modality={"0": "FLAIR", "1": "T1w"})
    with pytest.raises(ConfigError, match="channels and inputs are both set"):
        load(root, inputs={"FLAIR": {}, "T1w": {}})


def test_another_number_of_channels_than_declared(tmp_path):
    table = load(decathlon(tmp_path, shape=(*SHAPE, 2), modality={"0": "A", "1": "B", "2": "C"}))
    with pytest.raises(DataError, match="channels"):
        table.read_volume(table.cases[0])
    table = load(decathlon(tmp_path, shape=(*SHAPE, 2)))
    with pytest.raises(DataError, match="4 dimensions"):
        table.read_volume(table.cases[0])

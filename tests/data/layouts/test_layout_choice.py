import json

import pytest
from helpers_layouts import class_folders, decathlon, load, nnunet

from medtl_monai.config import DataConfig
from medtl_monai.data.kinds import infer_kind
from medtl_monai.data.layouts import LAYOUTS, detect, settle, with_manifest
from medtl_monai.errors import ConfigError, DataError


def test_every_layout_is_found_by_its_content(tmp_path):
    made = {"decathlon": decathlon, "nnunet": nnunet, "class-folders": class_folders}
    assert made.keys() == LAYOUTS.keys()
    roots = {name: make(tmp_path / name) for name, make in made.items()}
    assert {name: detect(root).name for name, root in roots.items()} == {name: name for name in made}
    assert [infer_kind(DataConfig(dataset=root)) for root in roots.values()] == ["mask", "mask", "class"]


def test_every_layout_can_be_named(tmp_path):
    assert DataConfig.model_fields["layout"].annotation.__args__ == ("auto", *LAYOUTS)
    root = decathlon(tmp_path)
    assert load(root, layout="decathlon").ids == load(root).ids
    with pytest.raises(DataError, match=r"declares no channels|no channel number"):
        load(root, layout="nnunet")
    with pytest.raises(DataError, match=r"no dataset.json"):
        load(class_folders(tmp_path / "classes"), layout="nnunet")


def test_a_layout_without_a_data_set():
    with pytest.raises(ConfigError, match="'nnunet' is named, and no data set"):
        settle(DataConfig(layout="nnunet", labels="x.csv"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "none", "none: no such data set folder"),
        (lambda root: (root / "dataset.json").write_text("{}") and root, "neither the Decathlon's nor nnU-Net's"),
        (lambda root: (root / "x.zip").write_bytes(b"PK") and root / "x.zip", "x.zip: .* not a folder. Unpack it"),
        (lambda root: decathlon(root / "Task02_Heart").parent, "Give one of them: Task02_Heart"),
        (lambda root: root, "no known layout.*dataset.json.*one folder a class"),
        (lambda root: class_folders(root, ("images", "labels")), "look like images and masks"),
        (lambda root: class_folders(root, ("imagesTr", "labelsTr")), "look like images and masks"),
        (lambda root: (root / "a").mkdir() or root, "no known layout"),
    ],
)
def test_other_folders(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        detect(make(tmp_path))


def test_pictures_alone_are_counted(tmp_path):
    for name in ("a/1.png", "a/2.JPG", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG")
    (tmp_path / "cover.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"not read: 2 .png, 1 .jpg \(files a/1.png, a/2.JPG, b/3.png\)"):
        load(tmp_path, "class")


def test_dataset_json_may_mean_something_else(tmp_path):
    assert with_manifest(tmp_path) is None
    (tmp_path / "dataset.json").write_text(json.dumps({"training": "no"}))
    assert with_manifest(tmp_path) is None

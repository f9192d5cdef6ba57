"""Selection rules: the right series, or an error that lists the choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import CORONAL, MR, Recipe, put_pixels, save
from pydicom.uid import generate_uid

from medtl_monai.data.survey import survey
from medtl_monai.dicom import read_volume, read_volumes, scan
from medtl_monai.dicom.select import Rules, narrow
from medtl_monai.errors import ConfigError, DicomError


def described(text: str, kind: list[str]):
    def edit(ds, k):
        ds.SeriesDescription, ds.ImageType = text, kind

    return edit


@pytest.fixture
def study(tmp_path: Path) -> Path:
    uid = generate_uid()
    original = ["ORIGINAL", "PRIMARY", "M"]
    Recipe(study=uid, edit=described("t1 mprage", original), step=1.0).write(tmp_path / "t1")
    Recipe(study=uid, edit=described("t2 flair", original), orientation=CORONAL, step=5.0).write(tmp_path / "t2")
    Recipe(study=uid, edit=described("t1 MIP", ["DERIVED", "SECONDARY", "MIP"])).write(tmp_path / "mip")
    Recipe(study=uid, edit=described("scout", ["ORIGINAL", "PRIMARY", "LOCALIZER"])).write(tmp_path / "scout")
    Recipe(study=uid, edit=described("stub", original), slices=1).write(tmp_path / "stub")
    Recipe(study=uid, modality="CT", edit=described("ct", original)).write(tmp_path / "ct")
    return tmp_path


CHOICES = [
    ({"modality": "CT"}, "ct"),
    ({"modality": ["CT", "PT"]}, "ct"),
    ({"description": "FLAIR$"}, "t2"),
    ({"orientation": "coronal"}, "t2"),
    ({"thickness_mm": [0.5, 1.5]}, "t1"),
    ({"modality": "MR", "orientation": "axial"}, "t1"),
    ({"derived": True}, "mip"),
    ({"localizer": True}, "scout"),
    ({"image_type": ["!M", "!LOCALIZER"]}, "mip"),
    ({"image_type": "LOCALIZER"}, "scout"),
    ({"description": "stub", "min_slices": 1}, "stub"),
    ({"sop_class": MR, "description": "mprage"}, "t1"),
    ({"sop_class": "CT Image Storage"}, "ct"),
]


@pytest.mark.parametrize(("rules", "folder"), CHOICES, ids=[str(c[0]) for c in CHOICES])
def test_rules_choose(rules: dict, folder: str, study: Path) -> None:
    (expected,) = [s for s in scan(study).series if s.files[0].startswith(folder)]
    volume = read_volume(study, select=rules)
    assert volume.series_uid == expected.series_instance_uid
    assert any("left out" in note for note in volume.notes)


def test_several_left_are_listed_best_first(study: Path) -> None:
    with pytest.raises(DicomError) as caught:
        read_volume(study, select={"modality": "MR"})
    text = str(caught.value)
    assert "2 series fit" in text
    assert "(1) MR 7×5×6" in text
    assert "t1/IM" in text
    assert "t2/IM" in text
    assert "scout" not in text


def test_none_left_says_why(study: Path) -> None:
    with pytest.raises(DicomError, match=r"no series fits \(.*modality CT.*"):
        read_volume(study, select={"modality": "US"})


def test_every_reason_is_given(study: Path) -> None:
    left, out = narrow(scan(study).series, Rules())
    assert {s.files[0].split("/")[0] for s in left} == {"t1", "t2", "ct"}
    assert {s.files[0].split("/")[0]: reason for s, reason in out} == {
        "scout": "localizer",
        "mip": "derived",
        "stub": "fewer slices than min_slices",
    }


def test_a_derived_series_alone_is_read_with_a_note(tmp_path: Path) -> None:
    Recipe(edit=described("x", ["DERIVED", "SECONDARY"])).write(tmp_path)
    assert "derived images" in read_volume(tmp_path).notes


@pytest.mark.parametrize(
    "rules", [{"orientation": "diagonal"}, {"description": "("}, {"slices": 3}], ids=["orientation", "regex", "name"]
)
def test_bad_rules(rules: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_volume(tmp_path, select=rules)


def test_all_echoes(tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    for number, echo in enumerate(["10", "9", "100"]):
        recipe = Recipe(study=study, series=series, prefix=f"e{number}", offset=1000 * number)
        recipe.edit = lambda ds, k, echo=echo: setattr(ds, "EchoTime", echo)
        recipe.write(tmp_path)
    volumes = read_volumes(tmp_path)
    assert [v.notes for v in volumes] == [("part EchoTime 9",), ("part EchoTime 10",), ("part EchoTime 100",)]
    assert [int(v.array.min()) for v in volumes] == [1001, 1, 2001]
    assert read_volumes(tmp_path, select={"part": "EchoTime 100"})[0].array.min() == 2001
    Recipe().write(tmp_path / "other")
    with pytest.raises(DicomError, match="4 series fit"):
        read_volumes(tmp_path)


def test_frames_of_a_cine(tmp_path: Path) -> None:
    dataset = Recipe(modality="DX").dataset(0)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.Modality = "XA"
    put_pixels(dataset, np.stack([Recipe().values(k) for k in range(4)]))
    save(dataset, tmp_path / "cine")
    volumes = read_volumes(tmp_path)
    assert len(volumes) == 4
    for k, volume in enumerate(volumes):
        assert np.array_equal(volume.array[..., 0], Recipe().values(k).T)


def test_one_of_several_two_dimensional_images_is_chosen_by_its_number(tmp_path: Path) -> None:
    recipe = Recipe(modality="CR", slices=10, prefix="DOE_JANE-", edit=lambda d, k: delattr(d, "ImagePositionPatient"))
    recipe.write(tmp_path)
    series = scan(tmp_path).series
    assert [item.part for item in series] == [f"image {n:02d}" for n in range(1, 11)]
    assert not any("JANE" in item.part + item.summary() for item in series)
    chosen = read_volume(tmp_path, select={"part": "image 03"})
    assert np.array_equal(chosen.array, read_volume(series[2]).array)
    assert not np.array_equal(chosen.array, read_volume(series[0]).array)
    for volume in read_volumes(tmp_path):
        assert not any("JANE" in note for note in volume.notes)
    assert [line.folder for line in survey(tmp_path).studies[0].series] == [item.files[0] for item in series]

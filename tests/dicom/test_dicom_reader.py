"""The MONAI reader: what read_volume gives, and never another reader's answer instead."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_dicom import ACCESSION, NAME, PATIENT, Recipe, misplacement, put_pixels, save
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import LoadImage, LoadImaged
from pydicom.uid import generate_uid

from medtl_monai.dicom import read_volume
from medtl_monai.dicom.reader import MedtlDicomReader, load_image
from medtl_monai.errors import ConfigError, DicomError

READER = "medtl_monai.dicom.reader.MedtlDicomReader"


@pytest.mark.parametrize("reader", [MedtlDicomReader, MedtlDicomReader(), READER], ids=["class", "instance", "name"])
def test_a_folder_gives_what_read_volume_gives(reader, tmp_path: Path) -> None:
    recipe = Recipe(orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0), slope=0.5, intercept=-5.0).write(tmp_path)
    volume = read_volume(tmp_path)
    image = LoadImage(reader=reader, dtype=np.float32)(tmp_path)
    assert isinstance(image, MetaTensor)
    assert image.dtype == torch.float32
    assert np.array_equal(image.numpy(), volume.array)
    assert misplacement(image.numpy(), image.affine.numpy(), recipe) < 1e-3
    assert np.array_equal(image.affine.numpy(), volume.affine)
    assert np.array_equal(image.meta["original_affine"], volume.affine)
    assert tuple(image.meta["spatial_shape"]) == volume.shape
    assert image.meta["space"] == "RAS"


def test_a_tilted_series_keeps_its_sheared_affine(tmp_path: Path) -> None:
    recipe = Recipe(tilt=(0.0, 0.8, 0.0)).write(tmp_path)
    image = LoadImage(reader=MedtlDicomReader)(tmp_path)
    assert image.meta["geometry"] == "sheared"
    assert misplacement(image.numpy(), image.affine.numpy(), recipe) < 1e-3


def test_no_identifier_and_no_path_but_monais(tmp_path: Path) -> None:
    recipe = Recipe().write(tmp_path / "folder-of-jane")
    meta = LoadImage(reader=MedtlDicomReader)(tmp_path / "folder-of-jane").meta
    assert meta.pop("filename_or_obj") == str(tmp_path / "folder-of-jane")
    texts = [str(meta), str(load_image(tmp_path / "folder-of-jane").meta)]
    for secret in (NAME, PATIENT, ACCESSION, recipe.series, recipe.study, "jane", "19700101", "20200102"):
        assert all(secret not in text for text in texts)


def test_channels(tmp_path: Path) -> None:
    Recipe().write(tmp_path / "grey")
    dataset = Recipe(modality="DX").dataset(0)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    put_pixels(dataset, np.arange(5 * 7 * 3).reshape(5, 7, 3), 8, 8, colour=True)
    save(dataset, tmp_path / "colour")
    load = LoadImage(reader=MedtlDicomReader, ensure_channel_first=True)
    assert load(tmp_path / "grey").shape == (1, 7, 5, 6)
    colour = load(tmp_path / "colour")
    assert colour.shape == (3, 7, 5, 1)
    assert np.array_equal(colour.numpy(), read_volume(tmp_path / "colour").array)
    assert load_image(tmp_path / "grey").shape == (1, 7, 5, 6)
    assert load_image(tmp_path / "colour").shape == (3, 7, 5, 1)


def test_several_paths_are_channels_of_one_grid(tmp_path: Path) -> None:
    Recipe().write(tmp_path / "a")
    Recipe(offset=500).write(tmp_path / "b")
    Recipe(origin=(-20.0, -31.0, 42.5)).write(tmp_path / "moved")
    Recipe(slices=5).write(tmp_path / "short")
    load = LoadImage(reader=MedtlDicomReader, ensure_channel_first=True)
    image = load([tmp_path / "a", tmp_path / "b"])
    assert image.shape == (2, 7, 5, 6)
    assert torch.equal(image[1] - image[0], torch.full((7, 5, 6), 500.0))
    with pytest.raises(DicomError, match=r"moved: voxels lie up to 0\.5 mm"):
        load([tmp_path / "a", tmp_path / "moved"])
    with pytest.raises(DicomError, match=r"short: \(7, 5, 5\) voxels against \(7, 5, 6\)"):
        load([tmp_path / "a", tmp_path / "short"])


def write_gap(folder: Path) -> None:
    Recipe(keep=(0, 1, 3, 4, 5)).write(folder)


def write_two(folder: Path) -> None:
    study = generate_uid()
    Recipe(study=study, prefix="a").write(folder)
    Recipe(study=study, prefix="b").write(folder)


def write_truncated(folder: Path) -> None:
    Recipe().write(folder)
    path = folder / "IM0002"
    path.write_bytes(path.read_bytes()[:-10])


def write_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "readme.txt").write_text("text")


REFUSED = [(write_gap, "gap"), (write_two, "2 series fit"), (write_truncated, "truncated"), (write_text, "no image")]


@pytest.mark.parametrize(("write", "message"), REFUSED, ids=[c[1] for c in REFUSED])
def test_a_refusal_is_final(write, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "case")
    with caplog.at_level(logging.DEBUG, "LoadImage"), pytest.raises(DicomError, match=message):
        LoadImage(reader=MedtlDicomReader)(tmp_path / "case")
    assert "unable to load" not in caplog.text
    with pytest.raises(RuntimeError) as caught:
        Dataset([{"image": tmp_path / "case"}], LoadImaged("image", reader=MedtlDicomReader))[0]
    assert isinstance(caught.value.__cause__, DicomError)


def test_the_reader_monai_would_turn_to_does_accept_a_gap(tmp_path: Path) -> None:
    # Otherwise the test above proves nothing.
    write_gap(tmp_path)
    assert LoadImage(reader="PydicomReader")(tmp_path).shape == (7, 5, 5)


def test_options_reach_the_reading(tmp_path: Path) -> None:
    write_gap(tmp_path / "gap")
    write_two(tmp_path / "two")
    Recipe(modality="CT", slope=1.0, intercept=0.0).write(tmp_path / "two" / "ct")
    image = LoadImage(reader=MedtlDicomReader, on_gap="interpolate")(tmp_path / "gap")
    assert image.shape == (7, 5, 6)
    assert "interpolated" in image.meta["notes"]
    assert LoadImage(MedtlDicomReader, select={"modality": "CT"})(tmp_path / "two").meta["unit"] == "HU"
    assert load_image(tmp_path / "two", select={"modality": "CT"}, units="HU").meta["modality"] == "CT"
    with pytest.raises(ConfigError, match=r"'modlity' is not a rule.*modality"):
        MedtlDicomReader(select={"modlity": "CT"})


def test_other_formats_go_to_their_readers(tmp_path: Path) -> None:
    Recipe().write(tmp_path / "dicom")
    for name in ("mask.nii", "mask.nii.gz"):
        nib.save(nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4)), tmp_path / name)
        load = LoadImaged(["image", "label"], reader=MedtlDicomReader)
        pair = load({"image": tmp_path / "dicom", "label": tmp_path / name})
        assert pair["image"].shape == (7, 5, 6)
        assert pair["label"].sum() == np.arange(24).sum()


def test_suffixes_tell_nothing(tmp_path: Path) -> None:
    Recipe().write(tmp_path / "dicom")
    (tmp_path / "text.dcm").write_text("no DICOM " * 40)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / "image.nii")
    reader = MedtlDicomReader()
    assert reader.verify_suffix(tmp_path / "dicom")
    assert reader.verify_suffix([tmp_path / "dicom" / "IM0001", str(tmp_path / "dicom" / "IM0002")])
    for name in ("text.dcm", "image.nii", "absent.dcm"):
        assert not reader.verify_suffix(tmp_path / name)
    loader = LoadImage()
    loader.register(reader)
    assert loader(tmp_path / "dicom").shape == (7, 5, 6)


def test_batches(tmp_path: Path) -> None:
    for n in range(2):
        Recipe(offset=n).write(tmp_path / str(n))
    write_gap(tmp_path / "2")
    data = [{"image": tmp_path / str(n)} for n in range(3)]
    transform = LoadImaged("image", reader=MedtlDicomReader(on_gap="interpolate"), ensure_channel_first=True)
    (batch,) = DataLoader(Dataset(data, transform), batch_size=3, num_workers=0)
    assert batch["image"].shape == (3, 1, 7, 5, 6)

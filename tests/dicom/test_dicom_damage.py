"""Damages that once brought down the reader, or slipped through it."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import DEFLATED, JPEG_LS, RLE, Frame, Recipe, misplacement, write_seg
from pydicom.dataset import Dataset

from medtl_monai.dicom import pixels, read_seg, read_volume
from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.opened import Bounded
from medtl_monai.errors import DicomError


def test_a_huge_length_behind_compressed_pixels_takes_no_memory(tmp_path: Path) -> None:
    recipe = Recipe(syntax=RLE).write(tmp_path)
    path = tmp_path / recipe.name(3)
    path.write_bytes(path.read_bytes() + struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 1_400_000_000) + bytes(8))
    tracemalloc.start()
    try:
        volume = read_volume(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    except DicomError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    finally:
        tracemalloc.stop()


def test_a_bounded_stream_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 400)
    with path.open("rb") as stream:
        bounded = Bounded(stream)
        assert bounded.read(3) == b"\0\1\2"
        tracemalloc.start()
        assert len(bounded.read(2**31)) == 256 * 400 - 3
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
        bounded.seek(10)
        assert bounded.read() == path.read_bytes()[10:]


def test_a_broken_meta_group_of_a_compressed_file(tmp_path: Path) -> None:
    """The walk skips over it, pydicom does not."""
    recipe = Recipe(syntax=RLE).write(tmp_path)
    path = tmp_path / recipe.name(3)
    data = path.read_bytes()
    assert data[132:140] == b"\2\0\0\0UL\4\0"
    path.write_bytes(data[:138] + b"\2\0-1" + data[144:])
    with pytest.raises(DicomError, match=rf"{path.name}.*damaged"):
        read_volume(tmp_path)


def test_an_element_that_cannot_be_looked_up(tmp_path: Path) -> None:
    """pydicom converts some raw elements as soon as they are asked for, and raises what the bytes provoke."""

    class Broken(Dataset):
        def get_item(self, key):
            raise NotImplementedError("Unknown Value Representation")

    elements = Elements(Broken(), "IM0001")
    for ask in (elements.code, elements.text, elements.number, elements.word):
        with pytest.raises(DicomError, match="IM0001: SOPInstanceUID cannot be read"):
            ask("SOPInstanceUID")


def test_a_huge_meta_group_of_a_deflated_file(tmp_path: Path) -> None:
    recipe = Recipe(syntax=DEFLATED).write(tmp_path)
    path = tmp_path / recipe.name(3)
    data = path.read_bytes()
    path.write_bytes(data[:140] + struct.pack("<I", 0xF0000000) + data[144:])
    tracemalloc.start()
    with pytest.raises(DicomError, match=path.name):
        read_volume(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_jpeg_ls_is_not_given_to_gdcm(tmp_path: Path) -> None:
    """GDCM ends the process on some damaged JPEG-LS data, and pydicom tries it when another decoder fails."""
    from medtl_monai.dicom.parse import parse_file

    recipe = Recipe(syntax=JPEG_LS).write(tmp_path)
    assert pixels._plugin(parse_file(tmp_path, recipe.name(0))) == "pyjpegls"
    Recipe(syntax=RLE, prefix="rle").write(tmp_path)
    assert pixels._plugin(parse_file(tmp_path, f"rle{recipe.name(0)}")) == ""


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "NumberOfFrames"])
def test_a_segmentation_with_more_pixels_than_it_says(keyword: str, tmp_path: Path) -> None:
    recipe = Recipe(rows=20, columns=24).write(tmp_path / "image")
    mask = np.zeros((20, 24), np.uint8)
    mask[5:15, 5:15] = 1
    volume = read_volume(tmp_path / "image")
    frames = [Frame(mask=mask, position=recipe.position(k)) for k in range(4)]

    def edit(ds, _):
        setattr(ds, keyword, 2)
        if keyword == "NumberOfFrames":
            del ds.PerFrameFunctionalGroupsSequence[2:]

    write_seg(tmp_path / "seg", frames, recipe, edit=edit)
    with pytest.raises(DicomError, match="PixelData has 240 bytes"):
        read_seg(tmp_path / "seg", volume)
    write_seg(tmp_path / "seg", frames, recipe)
    assert read_seg(tmp_path / "seg", volume).labels.sum() == 400

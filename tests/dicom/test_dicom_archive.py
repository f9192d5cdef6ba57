"""Zip archives: the same volumes, no traces, and no way out of the temporary folder."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import Recipe, misplacement
from monai.transforms import LoadImage

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import load_cases
from medtl_monai.data.survey import survey
from medtl_monai.dicom import archive, read_volume, read_volumes, scan
from medtl_monai.dicom.reader import MedtlDicomReader
from medtl_monai.errors import DicomError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("MEDTL_ID_KEY", "a key for the tests of this room")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe().write(tmp_path / "tree" / "study" / "T1")


@pytest.fixture
def packed(tmp_path: Path, recipe: Recipe) -> Path:
    (tmp_path / "tree" / "readme.txt").write_text("text")
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "tree")
    return (tmp_path / "export.zip").rename(tmp_path / "export without suffix")


def test_the_same_volume_and_nothing_left(packed: Path, recipe: Recipe, tmp_path: Path, temporary: Path) -> None:
    volume = read_volume(packed)
    assert misplacement(volume.array, volume.affine, recipe) < 1e-3
    assert np.array_equal(volume.array, read_volume(tmp_path / "tree").array)
    assert np.array_equal(read_volumes(packed)[0].array, volume.array)
    assert np.array_equal(LoadImage(reader=MedtlDicomReader)(packed).numpy(), volume.array)
    assert MedtlDicomReader().verify_suffix(packed)
    assert list(temporary.iterdir()) == []


def test_an_index_keeps_the_files_until_it_is_closed(packed: Path, temporary: Path) -> None:
    with scan(packed) as index:
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("IM*")} == {0o600}
        assert index.skipped == {"not DICOM": 1}
        (series,) = index.series
        assert series.files[0].startswith("study/T1/IM")
        assert read_volume(series).shape == (7, 5, 6)
    assert list(temporary.iterdir()) == []
    with pytest.raises(DicomError):
        read_volume(series)


def test_closing_leaves_folders_alone(recipe: Recipe, tmp_path: Path) -> None:
    with scan(tmp_path / "tree") as index:
        assert len(index.series) == 1
    assert len(list((tmp_path / "tree").rglob("IM*"))) == 6


def test_the_end_of_the_process_removes_it(packed: Path, temporary: Path) -> None:
    code = """
import sys, tempfile
tempfile.tempdir = sys.argv[2]
import pathlib
from medtl_monai.dicom import scan
index = scan(sys.argv[1])
print(len(index.series), len(list(pathlib.Path(sys.argv[2]).iterdir())))
"""
    command = [sys.executable, "-c", code, str(packed), str(temporary)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "1 1\n"
    assert list(temporary.iterdir()) == []


def test_an_error_names_the_member_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    Recipe(keep=(0, 1, 3)).write(tmp_path / "tree" / "T1")
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "tree")
    with pytest.raises(DicomError, match=r"between T1/IM000\d and T1/IM000\d: 1 slice.* gap 6 mm"):
        read_volume(tmp_path / "export.zip")
    assert list(temporary.iterdir()) == []


def test_surveys_and_cases(tmp_path: Path, temporary: Path) -> None:
    made = [Recipe(patient=f"P{n}", offset=n).write(tmp_path / "tree" / str(n)) for n in range(4)]
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "tree")
    assert len(survey(tmp_path / "export.zip").studies) == 4
    assert list(temporary.iterdir()) == []
    rows = [f"{recipe.study},{label}\n" for recipe, label in zip(made, "abab", strict=True)]
    (tmp_path / "labels.csv").write_text("StudyInstanceUID,y\n" + "".join(rows))
    config = DataConfig(studies=tmp_path / "export.zip", labels=tmp_path / "labels.csv", target=["y"])
    table = load_cases(config, "class")
    assert table.read_volume(table.cases[3]).array.min() == 4


def test_archives_inside_are_not_opened(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(packed, "inner")
    with scan(tmp_path / "outer.zip") as index:
        assert index.skipped == {"zip archive, not opened": 1}
    assert scan(tmp_path).skipped["zip archive, not opened"] == 2


def entry(name: str, mode: int = 0, **attributes: object) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    info.external_attr = mode << 16
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


HOSTILE = [
    ([entry("../out")], "leads out"),
    ([entry("a/../../out")], "leads out"),
    ([entry("/tmp/out")], "absolute"),
    ([entry("C:/out")], "absolute"),
    ([entry("..\\out")], "absolute"),
    ([entry("a\nb")], "control"),
    ([entry("a" * 300)], "too long"),
    ([entry("link", stat.S_IFLNK | 0o777)], "links or devices"),
    ([entry("pipe", stat.S_IFIFO | 0o600)], "links or devices"),
    ([entry("a"), entry("./a")], "repeats"),
    ([entry("a"), entry("A")], "repeats"),
    ([entry("a"), entry("a/b")], "a file and a folder"),
    ([entry("a", compress_type=zipfile.ZIP_BZIP2)], "method"),
]


@pytest.mark.parametrize(("entries", "message"), HOSTILE, ids=[repr(e[-1].filename)[:12] + m for e, m in HOSTILE])
def test_hostile_members(entries: list, message: str, tmp_path: Path, temporary: Path, recipe: Recipe) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.write(tmp_path / "tree" / "study" / "T1" / "IM0001", "IM0001")
        for info in entries:
            file.writestr(info, b"x" * 10, compress_type=info.compress_type)
    before = sorted(p for p in tmp_path.rglob("*") if p.name != "x.zip")
    with pytest.raises(DicomError, match=message) as caught:
        scan(path)
    assert caught.value.where == "x.zip"
    assert "out" not in caught.value.what.replace("leads out", "")
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "x.zip") == before
    assert list(temporary.iterdir()) == []


def test_bombs(tmp_path: Path, temporary: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_SMALL", 1000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(2**20))
    with pytest.raises(DicomError, match="times its size"):
        scan(path)
    assert len(scan(packed).series) == 1
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    with pytest.raises(DicomError, match="more than 5"):
        scan(packed)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 50)
    monkeypatch.setattr(archive, "MAX_BYTES", 2000)
    with pytest.raises(DicomError, match="expands to more"):
        scan(packed)


def test_sizes_that_lie(packed: Path, temporary: Path) -> None:
    data = bytearray(packed.read_bytes())
    (member, *_) = [m for m in zipfile.ZipFile(packed).infolist() if "IM" in m.filename]
    size = member.file_size.to_bytes(4, "little")
    assert data.count(size) >= 2
    packed.write_bytes(data.replace(size, (member.file_size - 8).to_bytes(4, "little")))
    with pytest.raises(DicomError, match="damaged"):
        scan(packed)
    assert list(temporary.iterdir()) == []


def test_encrypted(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 4)
    packed.write_bytes(data)
    with pytest.raises(DicomError, match="encrypted"):
        scan(packed)


@pytest.mark.parametrize("keep", [0.3, 0.9, -4])
def test_truncated(keep: float, packed: Path, temporary: Path) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data[: int(keep * len(data))] if keep > 0 else data[:-4])
    with pytest.raises(DicomError, match="damaged"):
        read_volume(packed)
    assert list(temporary.iterdir()) == []


def test_a_preamble_that_says_zip_is_dicom(recipe: Recipe, tmp_path: Path) -> None:
    for path in (tmp_path / "tree").rglob("IM*"):
        path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:])
    assert read_volume(tmp_path / "tree").shape == (7, 5, 6)
    assert scan(next((tmp_path / "tree").rglob("IM*"))).temporary is None

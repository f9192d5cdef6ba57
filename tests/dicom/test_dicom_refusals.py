"""Whatever would make a volume wrong is refused with the file, the attribute and the mend, and no identifier."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import (
    ACCESSION,
    CORONAL,
    DEFLATED,
    EXPLICIT,
    PATIENT,
    SC,
    Recipe,
    instance,
    put_pixels,
    save,
    write_enhanced,
)
from pydicom import dcmread
from pydicom.uid import UID, generate_uid

from medtl_monai.dicom import opened, pixels, read_volume, scan
from medtl_monai.errors import DicomError

Maker = Callable[[Path], object]


def on_slice(number: int, change: Callable) -> Maker:
    """Write a series whose slice ``number`` is changed."""
    return lambda folder: Recipe(edit=lambda ds, k: change(ds) if k == number else None).write(folder)


def without(keyword: str, number: int = 2) -> Maker:
    return on_slice(number, lambda ds: ds.__delattr__(keyword))


def having(keyword: str, value: object, number: int = 2) -> Maker:
    return on_slice(number, lambda ds: setattr(ds, keyword, value))


def truncated(size: Callable[[int], int]) -> Maker:
    def make(folder: Path) -> None:
        Recipe().write(folder)
        path = folder / "IM0003"
        path.write_bytes(path.read_bytes()[: size(path.stat().st_size)])

    return make


def two_series(folder: Path) -> None:
    study = generate_uid()
    Recipe(study=study, prefix="a").write(folder)
    Recipe(study=study, prefix="b").write(folder)


def two_patients(folder: Path) -> None:
    study, series = generate_uid(), generate_uid()
    Recipe(study=study, series=series, prefix="a").write(folder)
    Recipe(study=study, series=series, prefix="b", patient="PID-OTHER").write(folder)


def two_orientations(folder: Path) -> None:
    recipe = Recipe(prefix="a").write(folder)
    Recipe(prefix="b", orientation=CORONAL, study=recipe.study, series=recipe.series).write(folder)


def same_uid_other_bytes(folder: Path) -> None:
    Recipe().write(folder)
    dataset = dcmread(folder / "IM0003")
    dataset.PixelData = bytes(len(dataset.PixelData))
    save(dataset, folder / "twin")


def same_place_other_uid(folder: Path) -> None:
    recipe = Recipe().write(folder)
    save(recipe.dataset(3), folder / "twin")


def partial_repeat(folder: Path) -> None:
    recipe = Recipe(edit=lambda ds, k: setattr(ds, "AcquisitionNumber", 1)).write(folder)
    second = Recipe(study=recipe.study, series=recipe.series, prefix="b", keep=[2, 3, 4])
    second.edit = lambda ds, k: setattr(ds, "AcquisitionNumber", 2)
    second.write(folder)


def zero_byte(folder: Path) -> None:
    Recipe(suffix=".dcm", keep=[0, 1, 2, 3, 4]).write(folder)
    (folder / "IM0009.dcm").write_bytes(b"")


def zeros(folder: Path) -> None:
    Recipe(keep=[0, 1, 2, 3, 4]).write(folder)
    (folder / "IM0009").write_bytes(bytes(3000))


def sideways(folder: Path) -> None:
    Recipe(edit=lambda ds, k: ds.ImagePositionPatient.__setitem__(0, -20 + 2 * (k == 3))).write(folder)


def uneven(folder: Path) -> None:
    Recipe(edit=lambda ds, k: ds.ImagePositionPatient.__setitem__(2, 42 + 3 * k + 0.4 * (k > 2))).write(folder)


def missing(*lost: int) -> Maker:
    return lambda folder: Recipe(keep=[k for k in range(6) if k not in lost]).write(folder)


def multi_frame(folder: Path) -> None:
    dataset = Recipe().dataset(0)
    put_pixels(dataset, np.ones((4, 5, 7)))
    save(dataset, folder / "mf")


def cine(folder: Path) -> None:
    dataset = instance(SC, EXPLICIT, generate_uid(), generate_uid())
    dataset.Modality = "US"
    put_pixels(dataset, np.ones((4, 5, 7)), 8, 8)
    save(dataset, folder / "cine")


def enhanced_count(folder: Path) -> None:
    write_enhanced(folder, Recipe(), range(6), lambda ds, k: ds.PerFrameFunctionalGroupsSequence.pop())


def enhanced_position(folder: Path) -> None:
    def edit(ds, k):
        del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence

    write_enhanced(folder, Recipe(), range(6), edit)


def unknown_syntax(folder: Path) -> None:
    def edit(ds, k):
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
        ds["PixelData"].is_undefined_length = True
        from pydicom.encaps import encapsulate

        ds.PixelData = encapsulate([ds.PixelData])

    Recipe(edit=edit).write(folder)


def garbage_jpeg(folder: Path) -> None:
    def edit(ds, k):
        from pydicom.encaps import encapsulate

        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, 7, 5, 0, 0) + bytes(60)])
        ds["PixelData"].is_undefined_length = True

    Recipe(edit=edit).write(folder)


def huge_codestream(folder: Path) -> None:
    def edit(ds, k):
        from pydicom.encaps import encapsulate

        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
        head = b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, 50000, 60000, 0, 0)
        ds.PixelData = encapsulate([head + bytes(60)])
        ds["PixelData"].is_undefined_length = True

    Recipe(edit=edit).write(folder)


def broken_mark(folder: Path) -> None:
    Recipe().write(folder)
    data = bytearray((folder / "IM0003").read_bytes())
    data[129] ^= 4
    (folder / "IM0003").write_bytes(bytes(data))


def trailing(folder: Path) -> None:
    Recipe().write(folder)
    with (folder / "IM0003").open("ab") as stream:
        stream.write(b"\x17\x03\x01")


def too_many_bits(folder: Path) -> None:
    def edit(ds, k):
        ds.BitsStored, ds.HighBit = 6, 5

    Recipe(edit=edit).write(folder)


def raw_value(keyword: str, text: bytes) -> Maker:
    """Replace the bytes of an attribute in one file with others of equal length."""

    def make(folder: Path) -> None:
        Recipe(slope=1.0, intercept=0.0).write(folder)
        path = folder / "IM0003"
        dataset = dcmread(path)
        value = dataset[keyword].value
        old = str(value).encode() if not hasattr(value, "__iter__") else "\\".join(map(str, value)).encode()
        data = path.read_bytes()
        assert data.count(old) >= 1
        path.write_bytes(data.replace(old, text.ljust(len(old))[: len(old)], 1))

    return make


REFUSED: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "missing-slice": (missing(3), ("1 slice(s) missing", "gap 6 mm = 2×3 mm", "IM", "on_gap")),
    "missing-slices": (missing(2, 3), ("2 slice(s) missing", "gap 9 mm = 3×3 mm")),
    "uneven": (uneven, ("unevenly spaced (3 to 3.4 mm)", "on_gap")),
    "two-series": (two_series, ("2 series fit", "MR 7×5×6, 0.7×0.9×3 mm", "select")),
    "two-patients": (two_patients, ("2 series fit",)),
    "two-orientations": (two_orientations, ("2 series fit", "orientation axial", "orientation coronal")),
    "same-uid-other-bytes": (same_uid_other_bytes, ("SOPInstanceUID of IM0003", "twin")),
    "same-place-other-uid": (same_place_other_uid, ("lie at the same position", "twin")),
    "partial-repeat": (partial_repeat, ("lie at the same position",)),
    "other-rows": (on_slice(2, lambda ds: put_pixels(ds, np.ones((6, 7)))), ("Rows is 5 in", "but 6 in", "IM")),
    "other-columns": (on_slice(2, lambda ds: put_pixels(ds, np.ones((5, 8)))), ("Columns is 7 in", "but 8 in")),
    "other-spacing": (having("PixelSpacing", ["0.95", "0.7"]), ("PixelSpacing is 0.9\\0.7 in", "but 0.95\\0.7 in")),
    "other-spacing-slightly": (having("PixelSpacing", ["0.9", "0.702"]), ("PixelSpacing",)),
    "no-position": (without("ImagePositionPatient"), ("ImagePositionPatient is missing", "IM")),
    "no-orientation": (without("ImageOrientationPatient"), ("ImageOrientationPatient is missing", "IM")),
    "no-spacing": (without("PixelSpacing"), ("PixelSpacing is missing", "IM")),
    "no-rows": (without("Rows"), ("Rows is missing", "IM")),
    "no-bits": (without("BitsAllocated"), ("BitsAllocated is missing", "IM")),
    "no-series": (without("SeriesInstanceUID"), ("SeriesInstanceUID is missing", "IM")),
    "no-instance": (without("SOPInstanceUID"), ("SOPInstanceUID is missing", "IM")),
    "no-pixels": (without("PixelData"), ("PixelData is missing", "IM")),
    "zero-spacing": (having("PixelSpacing", ["0", "0.7"]), ("PixelSpacing is 0\\0.7",)),
    "short-position": (having("ImagePositionPatient", ["0", "0"]), ("ImagePositionPatient has 2 values instead of 3",)),
    "skew-orientation": (
        having("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
        ("two perpendicular unit vectors",),
    ),
    "zero-slope": (
        on_slice(2, lambda ds: (setattr(ds, "RescaleSlope", "0"), setattr(ds, "RescaleIntercept", "0"))),
        ("RescaleSlope is 0",),
    ),
    "text-position": (raw_value("ImagePositionPatient", b"left\\right\\up"), ("ImagePositionPatient is not a number",)),
    "nan-position": (raw_value("ImagePositionPatient", b"nan\\0\\0"), ("ImagePositionPatient is not a finite",)),
    "truncated-pixels": (truncated(lambda n: n - 20), ("PixelData is truncated: 50 of 70 bytes", "IM0003")),
    "truncated-header": (truncated(lambda n: 700), ("IM0003",)),
    "truncated-meta": (truncated(lambda n: 300), ("IM0003",)),
    "truncated-preamble": (truncated(lambda n: 100), ("nothing but zeros", "IM0003")),
    "zero-byte": (zero_byte, ("empty file", "IM0009.dcm")),
    "zeros": (zeros, ("nothing but zeros", "IM0009")),
    "more-pixels": (having("Rows", 4), ("PixelData has 70 bytes", "ask for 56")),
    "fewer-pixels": (having("Rows", 60000), ("PixelData has 70 bytes",)),
    "sideways": (sideways, ("mm beside the line", "ImagePositionPatient")),
    "one-slice": (missing(0, 1, 2, 3, 4), ("only 1 slice(s)", "min_slices")),
    "mosaic": (having("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), ("mosaic", "ImageType", "dcm2niix")),
    "multi-frame": (multi_frame, ("multi-frame image without functional groups", "NumberOfFrames")),
    "cine": (cine, ("cine of 4 frames", "NumberOfFrames")),
    "enhanced-count": (enhanced_count, ("PerFrameFunctionalGroupsSequence has 5 items for 6 frames",)),
    "enhanced-position": (enhanced_position, ("ImagePositionPatient is missing", "frame 3")),
    "no-decoder": (unknown_syntax, ("MPEG-4", "cannot be decoded")),
    "garbage-jpeg": (garbage_jpeg, ("JPEG 2000", "cannot be decoded")),
    "other-codestream": (huge_codestream, ("compressed image has 60000×50000 pixels", "Rows×Columns are 5×7")),
    "no-mark": (broken_mark, ("DICM mark is damaged", "IM0003")),
    "bytes-after-pixels": (trailing, ("bytes follow PixelData", "IM0003")),
    "too-many-bits": (too_many_bits, ("BitsStored = 6", "IM")),
    "bits-stored": (having("BitsStored", 40), ("BitsStored is 40",)),
    "samples": (having("SamplesPerPixel", 2), ("SamplesPerPixel is 2",)),
    "photometric": (having("PhotometricInterpretation", "MONOCHROME1"), ("PhotometricInterpretation",)),
    "empty-folder": (lambda folder: None, ("no image series found",)),
    "only-junk": (lambda folder: (folder / "a.txt").write_text("x"), ("no image series found",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_mend(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    folder = tmp_path / "series"
    folder.mkdir()
    make(folder)
    with pytest.raises(DicomError) as caught:
        read_volume(folder)
    text = str(caught.value)
    for word in words:
        assert word in text
    assert caught.value.where
    assert caught.value.mend
    for secret in (PATIENT, ACCESSION, "DOE", str(tmp_path), "1.2.826", "PID-OTHER"):
        assert secret not in text


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="no such file or folder"):
        read_volume(tmp_path / "nowhere")


def test_missing_decoder_names_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage_jpeg(tmp_path)

    class Unavailable:
        is_available = False
        missing_dependencies = ("pylibjpeg - requires pylibjpeg-openjpeg>=2.0",)

    monkeypatch.setattr(pixels, "get_decoder", lambda uid: Unavailable())
    with pytest.raises(DicomError, match=r"JPEG 2000.*pylibjpeg-openjpeg.*pip install medtl-monai\[codecs\]"):
        read_volume(tmp_path)


def test_too_many_lost_slices_are_not_interpolated(tmp_path: Path) -> None:
    Recipe(slices=60, keep=[0, 1, 59]).write(tmp_path)
    with pytest.raises(DicomError, match="57 slice"):
        read_volume(tmp_path, on_gap="interpolate")


def test_deflate_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MAX_INFLATED", 500)
    Recipe(syntax=DEFLATED).write(tmp_path)
    with pytest.raises(DicomError, match="expand to more than"):
        read_volume(tmp_path)


def test_damaged_deflate_is_refused(tmp_path: Path) -> None:
    Recipe(syntax=DEFLATED).write(tmp_path)
    path = tmp_path / "IM0002"
    data = path.read_bytes()
    path.write_bytes(data[:-200])
    with pytest.raises(DicomError, match="IM0002: the deflated data"):
        read_volume(tmp_path)
    assert zlib.DEFLATED


def test_announced_size_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MAX_FILE_BYTES", 60)
    Recipe().write(tmp_path)
    with pytest.raises(DicomError, match="announces"):
        read_volume(tmp_path)


def test_a_file_that_changes_after_the_scan(tmp_path: Path) -> None:
    Recipe().write(tmp_path)
    (series,) = scan(tmp_path).series
    path = tmp_path / "IM0003"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DicomError, match="IM0003: the file became shorter"):
        read_volume(series)


def test_wrong_unit(tmp_path: Path) -> None:
    Recipe().write(tmp_path)
    with pytest.raises(DicomError, match="the values are in any, not HU"):
        read_volume(tmp_path, units="HU")


def test_window_on_mr_is_refused(tmp_path: Path) -> None:
    Recipe().write(tmp_path)
    with pytest.raises(DicomError, match="display window"):
        read_volume(tmp_path, voi=True)


def test_the_same_error_twice_has_its_own_traceback(tmp_path: Path) -> None:
    two_orientations(tmp_path)
    missing(3)(tmp_path / "x")
    broken = next(s for s in scan(tmp_path / "x").series)
    errors = []
    for _ in range(2):
        with pytest.raises(DicomError) as caught:
            read_volume(broken)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert errors[0] is not errors[1]

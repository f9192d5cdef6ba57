"""Every test file of pydicom, and of the package pydicom-data where it is installed: equal to an oracle, or refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fuzz_oracle import judge_bytes
from pydicom.data import get_testdata_file

from medtl_monai.dicom import read_volumes
from medtl_monai.errors import DicomError

SHIPPED = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
_SPEC = importlib.util.find_spec("data_store")
EXTRA = Path(str(_SPEC.origin)).parent / "data" if _SPEC else None

REFUSED = {
    "JPEG-lossy.dcm": "cannot be decoded",  # 12-bit, with a start of scan that no Python decoder takes
    "JPGExtended.dcm": "cannot be decoded",
    "JPEG2000-embedded-sequence-delimiter.dcm": "the compressed image has",
    "JPEGLSNearLossless_08.dcm": "StudyInstanceUID is missing",
    "JPEGLSNearLossless_16.dcm": "StudyInstanceUID is missing",
    "SC_rgb_jls_lossy_line.dcm": "StudyInstanceUID is missing",
    "SC_rgb_jls_lossy_sample.dcm": "StudyInstanceUID is missing",
    "MR_truncated.dcm": "PixelData is truncated: 8130 of 8192 bytes",
    "UN_sequence.dcm": "SOPClassUID is missing",
    "empty_charset_LEI.dcm": "SOPClassUID is missing",
    "meta_missing_tsyntax.dcm": "SOPClassUID is missing",
    "nested_priv_SQ.dcm": "SOPClassUID is missing",
    "no_meta_group_length.dcm": "SOPClassUID is missing",
    "priv_SQ.dcm": "SOPClassUID is missing",
    "liver_1frame.dcm": "a segmentation, not an image",
    "liver_expb_1frame.dcm": "a segmentation, not an image",
    "liver.dcm": "a segmentation, not an image",
    "liver_expb.dcm": "a segmentation, not an image",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "",
    "bad_sequence.dcm": "",
    "explicit_VR-UN.dcm": "SliceThickness is missing",
    **dict.fromkeys(
        [f"emri_small{kind}.dcm" for kind in ("", "_RLE", "_big_endian", "_jpeg_2k_lossless", "_jpeg_ls_lossless")],
        "a multi-frame image without functional groups",
    ),
    "RG1_J2KI.dcm": "PixelSpacing is 0",
    "RG1_J2KR.dcm": "PixelSpacing is 0",
    "RG1_UNCI.dcm": "PixelSpacing is 0",
    "RG1_UNCR.dcm": "PixelSpacing is 0",
}
"""What may be refused although it is an image, and why."""
NO_IMAGE = "no image series found"
NO_PIXELS = "Rows is missing"
"""The DICOMDIR test files had their pixels taken out."""


def files(root: Path | None) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file()) if root else []


def assert_right_or_refused(path: Path) -> bool:
    """Return whether it was read."""
    try:
        volumes = read_volumes(path, select={"min_slices": 1})
    except DicomError as error:
        refusal = str(error)
    else:
        refusal = ""
    if NO_IMAGE in refusal or (NO_PIXELS in refusal and "dicomdirtests" in str(path)):
        return False
    if refusal:
        assert REFUSED.get(path.name, "a file that may not be refused") in refusal
        assert path.name in refusal
        return False
    known = judge_bytes({path.name: path.read_bytes()})
    assert volumes
    for volume in volumes[:3]:
        assert any(one.judge(volume.array, volume.affine, rtol=1e-4).right for one in known)
    return True


def test_shipped_files() -> None:
    read = [path for path in files(SHIPPED) if path.stat().st_size < 2**22 and assert_right_or_refused(path)]
    assert len(read) > 70


@pytest.mark.skipif(EXTRA is None, reason="the package pydicom-data is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("path", files(EXTRA), ids=lambda path: path.name)
def test_files_of_pydicom_data(path: Path) -> None:
    assert_right_or_refused(path)

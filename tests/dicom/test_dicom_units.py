"""PET to SUV by the vendor-neutral rule, checked by hand; every missing attribute is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import Items, Recipe, item

from medtl_monai.dicom import read_volume
from medtl_monai.errors import DicomError

HALF_LIFE = 6586.2


def pet(ds, k=0, **changes):
    tracer = item(
        RadionuclideTotalDose="370000000",
        RadionuclideHalfLife=str(HALF_LIFE),
        RadiopharmaceuticalStartTime="090000",
    )
    values = {
        "Units": "BQML",
        "CorrectedImage": ["ATTN", "DECY", "SCAT"],
        "DecayCorrection": "START",
        "PatientWeight": "74",
        "SeriesDate": "20200102",
        "SeriesTime": "100000.5",
        "AcquisitionDate": "20200102",
        "AcquisitionTime": "100001",
    }
    for name, value in {**values, **changes}.items():
        target = tracer if name.startswith("Radio") else ds
        if value is None and name in target:
            delattr(target, name)
        elif value is not None:
            setattr(target, name, value)
    ds.RadiopharmaceuticalInformationSequence = Items([tracer])


def write(folder: Path, **changes) -> Recipe:
    return Recipe(modality="PT", slope=0.5, intercept=0.0, edit=lambda ds, k: pet(ds, k, **changes)).write(folder)


def factor(folder: Path) -> float:
    plain, suv = read_volume(folder), read_volume(folder, units="SUVbw")
    assert plain.unit == "BQML"
    assert suv.unit == "SUVbw"
    ratio = suv.array / plain.array
    assert np.allclose(ratio, ratio.flat[0], rtol=1e-5)
    return float(ratio.flat[0])


def test_decay_to_the_start_of_the_scan(tmp_path: Path) -> None:
    write(tmp_path)
    expected = 74000 / (370e6 * 2 ** (-3600.5 / HALF_LIFE))
    assert factor(tmp_path) == pytest.approx(expected, rel=1e-6)


def test_decay_to_administration(tmp_path: Path) -> None:
    write(tmp_path, DecayCorrection="ADMIN")
    assert factor(tmp_path) == pytest.approx(74000 / 370e6, rel=1e-6)


def test_injection_before_midnight(tmp_path: Path) -> None:
    write(tmp_path, RadiopharmaceuticalStartTime="233000", SeriesTime="003000", AcquisitionTime="003000")
    assert factor(tmp_path) == pytest.approx(74000 / (370e6 * 2 ** (-3600 / HALF_LIFE)), rel=1e-6)


def test_full_date_of_injection(tmp_path: Path) -> None:
    write(tmp_path, RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20200102080000")
    assert factor(tmp_path) == pytest.approx(74000 / (370e6 * 2 ** (-7200.5 / HALF_LIFE)), rel=1e-6)


REFUSED = {
    "Units": "CNTS",
    "CorrectedImage": ["ATTN"],
    "DecayCorrection": "NONE",
    "PatientWeight": None,
    "RadionuclideTotalDose": None,
    "RadionuclideHalfLife": None,
    "RadiopharmaceuticalStartTime": None,
    "SeriesTime": "120000",
    "SeriesDate": None,
    "AcquisitionTime": None,
}


@pytest.mark.parametrize("keyword", REFUSED)
def test_each_missing_attribute_is_named(keyword: str, tmp_path: Path) -> None:
    write(tmp_path, **{keyword: REFUSED[keyword]})
    with pytest.raises(DicomError, match=f"no SUV: {keyword}"):
        read_volume(tmp_path, units="SUVbw")
    assert read_volume(tmp_path).array.mean() > 0


def test_zero_weight(tmp_path: Path) -> None:
    write(tmp_path, PatientWeight="0")
    with pytest.raises(DicomError, match="PatientWeight is 0"):
        read_volume(tmp_path, units="SUVbw")

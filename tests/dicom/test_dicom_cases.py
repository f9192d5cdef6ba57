"""The catalogue of realities: every one gives the right volume, or a typed error that names file and attribute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases_catalogue import Case, Expected, Refusal
from cases_refused import REFUSALS
from cases_volumes import VOLUMES
from helpers_dicom import ACCESSION, PATIENT, Recipe

from medtl_monai.errors import MedtlError

CASES = [*VOLUMES, *REFUSALS]


@pytest.mark.parametrize("case", VOLUMES, ids=lambda case: case.id)
def test_right_volume(case: Case, tmp_path: Path) -> None:
    truth = case.write(tmp_path)
    volumes = case.read(tmp_path)
    assert len(volumes) == len(truth)
    for volume, expected in zip(volumes, truth, strict=True):
        verdict = expected.judge(volume.array, volume.affine)
        assert verdict.right, verdict.why
        assert np.ptp(expected.array) > 0
        for name, value in expected.attributes.items():
            assert getattr(volume, name) == value
        for note in expected.notes:
            assert note in " | ".join(volume.notes)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_typed_error(case: Case, tmp_path: Path) -> None:
    refusal = case.write(tmp_path)
    with pytest.raises(MedtlError) as caught:
        case.read(tmp_path)
    text = str(caught.value)
    assert type(caught.value) is refusal.error
    for words in (refusal.attribute, refusal.file, refusal.says):
        assert words in text
    assert caught.value.where
    assert caught.value.mend
    for secret in (PATIENT, ACCESSION, "DOE", str(tmp_path), "1.2.826"):
        assert secret not in text


def test_the_catalogue_is_large_and_its_names_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 120
    assert all(case.row for case in CASES)


def test_the_judge_sees_what_is_wrong() -> None:
    expected = Expected.of(Recipe())
    good, affine = expected.array, expected.affine
    assert expected.judge(good, affine).right
    flipped = affine @ np.array([[-1, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert expected.judge(good[::-1], flipped).right
    assert expected.judge(good.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]).right
    wrong = expected.judge(good[::-1], affine)
    assert not wrong.right
    assert wrong.distance_mm == pytest.approx(6 * 0.7)
    assert not expected.judge(good[..., [0, 2, 1, 3, 4, 5]], affine).right
    assert not expected.judge(good + 0.5, affine).right
    assert not expected.judge(good[..., :-1], affine).right
    stretched = affine.copy()
    stretched[:3, 2] *= 1.1
    assert expected.judge(good, stretched).distance_mm == pytest.approx(1.5)
    blank = np.full_like(good, np.nan)
    assert not expected.judge(blank, affine).right
    assert isinstance(Refusal().error, type)

"""Mutated files give the right volume or a typed error: no other exception, no hang, no memory beyond the array's."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz_dicom
import numpy as np
import pytest
from fuzz_mutations import MUTATIONS, elements
from fuzz_oracle import judge_bytes
from helpers_dicom import IMPLICIT, Recipe

LEAST_RIGHT = 0.3
COUNT = int(os.environ.get("MEDTL_FUZZ", "2000"))


def assert_fine(outcomes: list[fuzz_dicom.Outcome]) -> None:
    print(fuzz_dicom.summary(outcomes))
    assert not fuzz_dicom.bad(outcomes)
    right = sum(one.verdict == "right" for one in outcomes)
    assert right >= LEAST_RIGHT * len(outcomes)
    assert sum(one.verdict == "refused" for one in outcomes) > 0.1 * len(outcomes)
    assert {one.base for one in outcomes} == {base.name for base in fuzz_dicom.bases()}


def test_a_few_mutants_of_every_kind() -> None:
    assert_fine(fuzz_dicom.run(10 * len(fuzz_dicom.bases()), seed=7, processes=2))


@pytest.mark.slow
def test_thousands_of_mutants() -> None:
    outcomes = fuzz_dicom.run(COUNT, seed=0, processes=2)
    assert len(outcomes) == COUNT
    assert_fine(outcomes)
    assert max(one.seconds for one in outcomes) < fuzz_dicom.HANG_S


@pytest.mark.parametrize("base", fuzz_dicom.bases(), ids=lambda base: base.name)
def test_what_is_not_mutated_is_right(base: fuzz_dicom.Base, tmp_path: Path) -> None:
    for name, data in base.files.items():
        (tmp_path / name).write_bytes(data)
    volumes = base.read(tmp_path)
    assert len(volumes) == len(base.truth)
    for volume, expected in zip(volumes, base.truth, strict=True):
        assert expected.judge(volume.array, volume.affine).right


@pytest.mark.parametrize("base", fuzz_dicom.bases(), ids=lambda base: base.name)
def test_the_second_opinion_agrees_with_the_truth(base: fuzz_dicom.Base) -> None:
    known = judge_bytes(base.files)
    for expected in base.truth[:1] if base.name == "segmentation" else base.truth:
        assert any(one.judge(expected.array, expected.affine).right for one in known)


def test_a_wrong_volume_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = fuzz_dicom.bases()[0]
    for name, data in base.files.items():
        (tmp_path / name).write_bytes(data)
    (volume,) = base.read(tmp_path)
    mixed = volume.replace(array=np.ascontiguousarray(volume.array[..., [0, 2, 1, 3]]))
    assert "values differ" in fuzz_dicom._wrong(base, [mixed], base.files)
    assert fuzz_dicom._wrong(base, [volume], base.files) == ""


def test_mutants_are_the_same_every_time() -> None:
    for number in (0, 17, 101):
        assert fuzz_dicom.mutant(number, 3)[1:] == fuzz_dicom.mutant(number, 3)[1:]
    assert fuzz_dicom.mutant(17, 3)[2] != fuzz_dicom.mutant(17, 4)[2]


@pytest.mark.parametrize("mutation", dict.fromkeys(MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_mutations_change_files_of_any_kind(mutation, tmp_path: Path) -> None:
    Recipe(slices=1).write(tmp_path)
    Recipe(slices=1, syntax=IMPLICIT, prefix="implicit").write(tmp_path)
    changed = 0
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert len(elements(data)) > 20
        for seed in range(8):
            changed += mutation(data, np.random.default_rng(seed)) != data
        mutation(data[:300], np.random.default_rng(1))
    assert changed >= 3

"""The comparison with other readers judges fairly, hears what is said, and is in the docs as the catalogue stands."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "explanation" / "why-not-loadimage.inc"
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import peers
    import realities
    import why_not_loadimage
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

CASES = {case.id: case for case in realities.catalogue()}


def written(name: str, folder: Path) -> list[object]:
    return realities.truths(CASES[name], realities.write(CASES[name], folder))


@pytest.mark.parametrize("name", ["axial", "gantry-tilt", "enhanced-shuffled", "slope-per-slice", "rgb-by-pixel"])
def test_ours_is_right_and_any_change_of_it_is_wrong(name: str, tmp_path: Path) -> None:
    wanted = written(name, tmp_path)
    array, affine = peers.OURS.read(tmp_path)
    assert len(np.unique(array)) > 30
    assert realities.judge(wanted, array, affine).right
    assert realities.judge(wanted, np.flip(array, -1), affine @ flip(array.shape[-1])).right
    shifted = affine.copy()
    shifted[2, 3] += 0.1
    assert not realities.judge(wanted, array, shifted).right
    assert not realities.judge(wanted, np.flip(array, -1), affine).right
    assert not realities.judge(wanted, array[..., :-1], affine).right
    assert not realities.judge(wanted, array + np.float32(0.5), affine).right
    assert not realities.judge(wanted, np.full_like(array, 7), affine).right


def flip(slices: int) -> np.ndarray:
    matrix = np.diag([1.0, 1.0, -1.0, 1.0])
    matrix[2, 3] = slices - 1
    return matrix


def test_a_stretched_volume_is_wrong_by_its_farthest_voxel(tmp_path: Path) -> None:
    """What a reader makes of a missing slice that divides the length by the number of slices."""
    wanted = written("missing-slice", tmp_path)
    whole = realities.truths(CASES["axial"], CASES["axial"].write(tmp_path / "whole"))[0]
    kept = np.delete(whole.array, 3, axis=2)
    stretched = whole.affine.copy()
    stretched[:3, 2] *= 5 / 4
    found = realities.judge(wanted, kept, stretched)
    assert not found.right
    assert found.mm == pytest.approx(2 * 3.75 - 2 * 3.0)
    assert "missing" in found.why


def test_the_truth_of_uneven_slices_is_where_each_lies(tmp_path: Path) -> None:
    (uneven,) = written("uneven-spacing", tmp_path)
    regular = realities.truths(CASES["axial"], CASES["axial"].write(tmp_path / "regular"))[0]
    assert realities.judge([uneven], regular.array, regular.affine).mm == pytest.approx(0.4)
    assert not realities.judge(written("beside-the-line", tmp_path / "2"), regular.array, regular.affine).right
    assert not realities.judge(written("other-spacing", tmp_path / "3"), regular.array, regular.affine).right
    assert realities.judge(written("no-study-uid", tmp_path / "4"), regular.array, regular.affine).right
    assert not realities.judge([uneven], regular.array, regular.affine).right


def test_one_whole_volume_of_several_is_right(tmp_path: Path) -> None:
    wanted = written("echo-times", tmp_path)
    assert len(wanted) == 2
    for one in wanted:
        assert realities.judge(wanted, one.array, one.affine).right
    mixed = np.concatenate([one.array for one in wanted], 2)
    assert not realities.judge(wanted, mixed, wanted[0].affine).right


def test_wrong_values_on_the_right_grid_have_no_distance(tmp_path: Path) -> None:
    (wanted,) = written("lookup-table", tmp_path)
    found = realities.judge([wanted], wanted.array / 3, wanted.affine)
    assert (found.right, np.isnan(found.mm)) == (False, True)
    assert "values differ" in found.why


def test_slices_in_the_wrong_order_have_a_distance(tmp_path: Path) -> None:
    (wanted,) = written("interleaved-instance-numbers", tmp_path)
    found = realities.judge([wanted], wanted.array[..., [0, 2, 4, 1, 3, 5]], wanted.affine)
    assert not found.right
    assert found.mm == pytest.approx(6.0)


def test_the_colour_axis_may_be_anywhere(tmp_path: Path) -> None:
    (wanted,) = written("rgb-by-pixel", tmp_path)
    for axis in range(4):
        assert realities.judge([wanted], np.moveaxis(wanted.array, 0, axis), wanted.affine).right is (axis != 1)
    assert not realities.judge([wanted], wanted.array[::-1], wanted.affine).right


def test_nothing_is_right_where_there_is_no_image(tmp_path: Path) -> None:
    assert not realities.judge(written("only-junk", tmp_path), np.ones((2, 2, 2)), np.eye(4)).right


def test_instance_numbers_are_shuffled_only_where_the_case_says_so(tmp_path: Path) -> None:
    from pydicom import dcmread

    written("axial", tmp_path / "plain")
    written("interleaved-instance-numbers", tmp_path / "interleaved")
    for name, ordered in (("plain", True), ("interleaved", False)):
        slices = [dcmread(path) for path in (tmp_path / name).iterdir()]
        slices.sort(key=lambda ds: ds.ImagePositionPatient[2])
        assert ([ds.InstanceNumber for ds in slices] == [1, 2, 3, 4, 5, 6]) is ordered


def silent(folder: Path) -> peers.Result:
    return np.ones((7, 5, 6), np.float32), np.eye(4)


def warning(folder: Path) -> peers.Result:
    warnings.warn(f"something is odd with {folder}", stacklevel=1)
    return silent(folder)


def logging_(folder: Path) -> peers.Result:
    logging.getLogger("reader").warning("odd")
    return silent(folder)


def printing(folder: Path) -> peers.Result:
    os.write(2, b"WARNING: In itkReader.cxx (0x55d0): odd\n")
    return silent(folder)


def raising(folder: Path) -> peers.Result:
    raise ValueError("odd")


@pytest.mark.parametrize(
    ("read", "outcome"),
    [(silent, "silent"), (warning, "warned"), (logging_, "warned"), (printing, "stderr"), (raising, "refused")],
)
def test_what_a_wrong_reader_says_is_heard(read, outcome: str, tmp_path: Path) -> None:
    peer = peers.Peer(name="x", package="x", module="x", read=read)
    wanted = written("axial", tmp_path)
    first = why_not_loadimage.read_case(peer, tmp_path, wanted, set())
    assert first["outcome"] == outcome
    usual = {*first["python"], *first["stderr"]}
    again = why_not_loadimage.read_case(peer, tmp_path, wanted, usual)["outcome"]
    assert again == ("refused" if outcome == "refused" else "silent"), "what the plain series causes does not count"


def dying(folder: Path) -> peers.Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_reader_that_crashes_is_a_result(tmp_path: Path) -> None:
    peer = peers.Peer(name="x", package="x", module="x", read=dying)
    target = tmp_path / "result.json"
    found = why_not_loadimage._fork((peer, tmp_path, [], set(), target), target)
    assert found["outcome"] == "refused"
    assert "dies" in found["why"]


def test_the_docs_list_exactly_the_cases_and_their_totals() -> None:
    totals, counted, conventions = (part.splitlines() for part in TABLE.read_text().split("\n\n")[:3])
    listed = [re.search(r"`([^`]+)`", line).group(1) for line in [*counted[2:], *conventions[2:]]]
    assert sorted(listed) == sorted(CASES), "run: python benchmarks/why_not_loadimage.py --markdown"
    assert len(listed) > 100
    assert {re.search(r"`([^`]+)`", line).group(1) for line in conventions[2:]} == {
        case.id for case in CASES.values() if not realities.counted(case)
    }
    heads = [cell.strip() for cell in totals[0].strip("|").split("|")]
    assert heads[1:] == [peer.name for peer in why_not_loadimage.PEERS]
    cells = [[cell.strip(" *").split(" ")[0] for cell in line.strip("|").split("|")] for line in counted[2:]]
    found = [Counter(column) for column in list(zip(*cells, strict=True))[1:]]
    for line in totals[2:]:
        outcome, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
        assert [int(number) for number in numbers] == [column[outcome] for column in found]
    assert set(found[0]) <= {"right", "refused"}, "ours"

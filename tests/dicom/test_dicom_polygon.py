"""Even-odd fill: against shapes known analytically, brute force and matplotlib, and what half-open edges promise."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_rtstruct import box, circle, inside
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from medtl_monai.dicom import polygon
from medtl_monai.dicom.polygon import even_odd

SHAPE = (13, 9)


def fill(*polygons, shape=SHAPE) -> np.ndarray:
    window, mask = even_odd([np.asarray(p, float) for p in polygons], shape)
    out = np.zeros(shape, bool)
    out[window] = mask
    return out


def test_a_rectangle_on_pixel_faces_covers_its_pixels() -> None:
    expected = np.zeros(SHAPE, bool)
    expected[2:7, 3:5] = True
    assert np.array_equal(fill(box(1.5, 2.5, 6.5, 4.5)), expected)


def test_a_rectangle_on_pixel_centres_takes_its_low_side() -> None:
    expected = np.zeros(SHAPE, bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(fill(box(1, 2, 4, 6)), expected)


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("first", range(4))
def test_neither_sense_nor_first_point_matter(turn: int, first: int) -> None:
    points = np.roll(box(0.3, 1, 7.7, 6.2), first, axis=0)[::turn]
    assert np.array_equal(fill(points), fill(box(0.3, 1, 7.7, 6.2)))
    assert fill(points).sum() == 7 * 6


@pytest.mark.parametrize("radius", [0.4, 2.0, 5.3, 17.7])
def test_a_disc_is_a_distance(radius: float) -> None:
    centre = (20.2, 19.7)
    i, j = np.mgrid[:40, :41]
    distance = np.hypot(i - centre[0], j - centre[1])
    mask = fill(circle(centre, radius, 2000), shape=(40, 41))
    # The polygon is within the circle by at most the height of one of its segments.
    sure = np.abs(distance - radius) > radius * 2e-6
    assert np.array_equal(mask[sure], (distance < radius)[sure])
    assert mask.any()


def test_a_ring_and_an_island() -> None:
    outer, inner, island = box(0.5, 0.5, 10.5, 7.5), box(2.5, 1.5, 8.5, 6.5), box(4.5, 2.5, 6.5, 5.5)
    expected = fill(outer) & ~fill(inner) | fill(island)
    assert np.array_equal(fill(outer, inner, island), expected)
    assert expected.sum() == 70 - 30 + 6


@pytest.mark.parametrize("channel", [4.0, 4.25, 4.5])
def test_a_keyhole_is_a_ring(channel: float) -> None:
    outer, inner = box(0.5, 0.5, 10.5, 7.5), box(2.5, 1.5, 8.5, 6.5)
    # Into the hole and back along one line; the inner contour runs the other way round.
    keyhole = [outer[0], (channel, 0.5), (channel, 1.5), inner[0], inner[3], inner[2], inner[1], (channel, 1.5)]
    keyhole += [(channel, 0.5), outer[1], outer[2], outer[3]]
    assert np.array_equal(fill(keyhole), fill(outer, inner))
    assert fill(keyhole).sum() == 70 - 30


def test_the_heart_of_a_star_is_outside() -> None:
    tips = circle((20, 20), 18, 5)[[0, 2, 4, 1, 3]]
    mask = fill(tips, shape=(41, 41))
    assert not mask[20, 20]
    assert mask[33, 20]
    assert 150 < mask.sum() < 700


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, -1.7])
def test_a_shared_edge_leaves_no_gap_and_no_overlap(slope: float) -> None:
    rng = np.random.default_rng(3)
    edge = np.column_stack([4 + slope * (np.arange(8) - 3) + rng.integers(-1, 2, 8), np.arange(8)]).astype(float)
    left = [(-1, 0), *edge, (-1, 7)]
    right = [*edge, (14, 7), (14, 0)]
    whole = fill(box(-1, 0, 14, 7))
    one, other = fill(left), fill(right)
    assert not (one & other).any()
    assert np.array_equal(one | other, whole)
    assert one.any()
    assert other.any()
    assert whole.sum() == 13 * 7


numbers = st.one_of(st.integers(-3, 12).map(float), st.floats(-3, 12, allow_nan=False, width=32))
outlines = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9)


@settings(max_examples=300, deadline=None)
@given(st.lists(outlines, min_size=1, max_size=3), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_equals_brute_force(polygons, shape) -> None:
    assert np.array_equal(fill(*polygons, shape=shape), inside(polygons, shape))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 12, width=32), st.floats(-3, 12, width=32)), min_size=3, max_size=3))
def test_equals_matplotlib_away_from_edges(points) -> None:
    """matplotlib fills by winding number, which for triangles is the same."""
    centres = np.stack(np.meshgrid(np.arange(13), np.arange(9), indexing="ij"), -1).reshape(-1, 2)
    reference = Outline(np.array([*points, points[0]]), closed=True).contains_points(centres)
    corners = np.array(points)
    sides = np.roll(corners, -1, axis=0) - corners
    length = np.maximum(np.hypot(*sides.T), 1e-12)
    along = ((centres[:, None] - corners) * sides).sum(-1) / length**2
    nearest = corners + np.clip(along, 0, 1)[..., None] * sides
    sure = np.hypot(*(centres[:, None] - nearest).transpose(2, 0, 1)).min(1) > 1e-4
    assert np.array_equal(fill(points).ravel()[sure], reference[sure])


def test_parts_outside_are_cut() -> None:
    assert fill(box(-50, -50, 50, 50)).all()
    assert not fill(box(-50, -50, -20, 50)).any()
    assert not fill(box(20, 0, 50, 8)).any()
    assert np.array_equal(fill(box(5, -9, 80, 80)), fill(box(5, -0.5, 12.5, 8.5)))


def test_bounded_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 45, (300, 2))
    whole = fill(points, shape=(40, 41))
    monkeypatch.setattr(polygon, "_CROSSINGS", 7)
    assert np.array_equal(fill(points, shape=(40, 41)), whole)
    assert 0.3 < whole.mean() < 0.7

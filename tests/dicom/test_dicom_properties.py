"""Properties that hold for every series: array and affine together say the truth, whatever the files are like."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases_catalogue import Expected
from helpers_dicom import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    Recipe,
    oblique,
    write_enhanced,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medtl_monai.dicom import read_volume, read_volumes, scan
from medtl_monai.dicom.runs import equal_runs

# The same examples every time: what fails here fails for everyone.
fixed = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)

angles = st.tuples(*[st.floats(-180, 180) for _ in range(3)])
millimetres = st.floats(0.2, 9.0)
lengths = st.integers(2, 9)
orders = st.integers(0, 2**32 - 1)


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Any place, size, spacing, orientation, and a tilt in every other series."""
    step = draw(millimetres)
    tilt = (0.0, 0.0, 0.0)
    if draw(st.booleans()):
        tilt = tuple(step * draw(st.floats(-0.3, 0.3)) for _ in range(3))
    return {
        "orientation": oblique(*draw(angles)),
        "spacing": (draw(millimetres), draw(millimetres)),
        "step": step,
        "tilt": tilt,
        "origin": tuple(draw(st.floats(-500, 500)) for _ in range(3)),
        "rows": draw(lengths),
        "columns": draw(lengths),
        "slices": draw(lengths),
        "seed": draw(orders),
    }


@st.composite
def pixels(draw: st.DrawFn) -> dict[str, Any]:
    """Any sign, width, syntax and rescale that can hold the values."""
    allocated = draw(st.sampled_from([8, 16, 32]))
    syntaxes = [EXPLICIT, IMPLICIT, BIG, DEFLATED]
    if allocated == 16:
        syntaxes += [RLE, JPEG_LS, JPEG_LOSSLESS]
    signed = draw(st.booleans())
    form: dict[str, Any] = {"allocated": allocated, "signed": signed, "syntax": draw(st.sampled_from(syntaxes))}
    if form["syntax"] in (JPEG_LS, JPEG_LOSSLESS):
        form["signed"] = signed = False
    if allocated == 16:
        form["stored"] = draw(st.integers(12, 16))
    # Quarters and eighths are exact in binary and in decimal text.
    kinds = st.sampled_from([0.125, 0.25, 0.5, 1.0] if allocated > 8 else [1.0])
    form["slope"] = [
        draw(kinds) * draw(st.sampled_from([1, -1]) if allocated > 8 and signed else st.just(1)) for _ in range(9)
    ]
    form["intercept"] = [float(draw(st.integers(-40, 1))) if allocated > 8 else 0.0 for _ in range(9)]
    return form


def read(recipe: Recipe, folder: str) -> tuple[Expected, Any]:
    recipe.write(Path(folder))
    return Expected.of(recipe), read_volume(folder)


def assert_right(expected: Expected, volume: Any) -> None:
    # Coordinates are written with twelve digits, and 500 mm away an angle counts.
    verdict = dataclasses.replace(expected, mm=5e-3).judge(volume.array, volume.affine)
    assert verdict.right, verdict.why
    assert len(np.unique(expected.array)) == expected.array.size


@settings(fixed, max_examples=80)
@given(geometries())
def test_any_geometry(geometry: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        expected, volume = read(Recipe(**geometry), folder)
        assert_right(expected, volume)
        assert volume.shape == (geometry["columns"], geometry["rows"], geometry["slices"])


@settings(fixed, max_examples=60)
@given(pixels(), orders)
def test_any_pixels(form: dict[str, Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(rows=5, columns=6, slices=4, seed=seed, **form)
        top = 2 ** (recipe.stored or recipe.allocated) - 1
        stored = [(recipe.values(k) - recipe.rescale(k)[1]) / recipe.rescale(k)[0] for k in range(4)]
        low, high = (-(top // 2), top // 2) if recipe.signed else (0, top)
        assume(all(values.min() >= low and values.max() <= high for values in stored))
        expected, volume = read(recipe, folder)
        assert_right(expected, volume)


@fixed
@given(geometries(), st.permutations(range(4)), st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=4, max_size=4))
def test_frames_of_an_enhanced_image_in_any_order(
    geometry: dict[str, Any], order: list[int], slopes: list[float]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(**{**geometry, "slices": 4}, slope=slopes, intercept=-3.0)
        write_enhanced(Path(folder), recipe, order)
        assert_right(Expected.of(recipe), read_volume(folder))


@fixed
@given(
    st.permutations([f"{name}{suffix}" for name in "abc" for suffix in ("", ".dcm")]),
    st.lists(st.integers(-5, 9), min_size=6, max_size=6),
)
def test_names_and_numbers_change_nothing(names: list[str], numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = Recipe(edit=lambda ds, k: setattr(ds, "InstanceNumber", numbers[k])).write(folder / "series")
        for k, new in enumerate(names):
            (folder / "series" / recipe.name(k)).rename(folder / "series" / f"x{new}")
        volume = read_volume(folder)
        assert_right(Expected.of(recipe), volume)


@fixed
@given(st.lists(st.booleans(), min_size=12, max_size=12), orders, st.booleans())
def test_two_series_never_mix(first: list[bool], seed: int, same_place: bool) -> None:
    assume(any(first) and not all(first))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = "1.2.826.0.1.3680043.8.498.7"
        origin = (-20.0, -31.0, 42.0) if same_place else (3.0, 4.0, 43.5)
        one = Recipe(study=study, seed=seed, prefix="x").write(folder)
        two = Recipe(study=study, seed=seed + 1, prefix="y", offset=1000, origin=origin).write(folder)
        # The files of both, mixed over two folders.
        for number, path in enumerate(sorted(p for p in folder.iterdir())):
            target = folder / ("left" if first[number % 12] else "right")
            target.mkdir(exist_ok=True)
            path.rename(target / path.name)
        found = {series.series_instance_uid: read_volume(series) for series in scan(folder).series}
        assert set(found) == {one.series, two.series}
        assert_right(Expected.of(one), found[one.series])
        assert_right(Expected.of(two), found[two.series])


@fixed
@given(st.sets(st.integers(0, 11), min_size=6, max_size=11), orders)
def test_whatever_is_missing_is_never_hidden(keep: set[int], seed: int) -> None:
    """With gaps: an error, or the whole series by interpolation, or runs that are right each."""
    assume(0 in keep and 11 in keep and 1 in keep)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(slices=12, keep=sorted(keep), seed=seed).write(Path(folder))
        whole = Expected.of(recipe)
        assert_right(whole, read_volume(folder, on_gap="interpolate"))
        with pytest.raises(Exception, match="missing"):
            read_volume(folder)
        runs = read_volumes(folder, on_gap="split")
        total = 0
        for volume in runs:
            at = int(np.rint((np.linalg.inv(whole.affine) @ volume.affine[:, 3])[2]))
            stride = int(np.rint(volume.spacing_mm[2] / 3.0))
            planes = [at + stride * n for n in range(volume.shape[2])]
            assert set(planes) <= keep
            assert np.allclose(volume.array, whole.array[..., planes])
            total += len(planes)
        assert total >= 2


@fixed
@given(st.lists(st.sampled_from([1.0, 1.004, 2.0, 3.0, 3.3]), min_size=1, max_size=14))
def test_runs_are_regular_and_read_the_same_from_either_end(steps: list[float]) -> None:
    runs = equal_runs(steps)
    kept = sum(end - start + 1 for start, end in runs)
    backwards = equal_runs(steps[::-1])
    assert kept == sum(end - start + 1 for start, end in backwards)
    for start, end in runs:
        assert max(steps[start:end]) - min(steps[start:end]) <= 0.01 * min(steps[start:end])


def test_a_large_compressed_image(tmp_path: Path) -> None:
    """JPEG 2000 needs images that its wavelet can divide."""
    recipe = Recipe(rows=40, columns=48, slices=3, syntax=JPEG_2000, orientation=oblique(3, 50, 7))
    expected, volume = read(recipe, str(tmp_path))
    assert_right(expected, volume)

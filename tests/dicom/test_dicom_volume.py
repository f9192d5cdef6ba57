"""Assembly: every case yields the right volume, judged by voxels that encode their place."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import (
    AXIAL,
    BIG,
    CORONAL,
    DEFLATED,
    IMPLICIT,
    RLE,
    SAGITTAL,
    Recipe,
    misplacement,
    oblique,
    put_pixels,
    save,
    write_enhanced,
)
from pydicom.uid import generate_uid

from medtl_monai.dicom import read_volume, scan
from medtl_monai.errors import ConfigError
from medtl_monai.notices import listening

GOOD = {
    "axial": {},
    "coronal": {"orientation": CORONAL},
    "sagittal": {"orientation": SAGITTAL},
    "oblique": {"orientation": oblique(20, -13, 41)},
    "oblique-steep": {"orientation": oblique(80, 35, -120)},
    "reversed-columns": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "feet-first": {"orientation": (-1, 0, 0, 0, -1, 0)},
    "decubitus": {"orientation": (0, -1, 0, 1, 0, 0)},
    "spacing-wide-rows": {"spacing": (2.5, 0.4)},
    "spacing-wide-columns": {"spacing": (0.4, 2.5), "orientation": oblique(5, 60, 7)},
    "thin": {"step": 0.3},
    "thick": {"step": 12.5},
    "two-slices": {"slices": 2},
    "one-row": {"rows": 1},
    "tall": {"rows": 23, "columns": 3},
    "far-origin": {"origin": (1234.5, -987.25, 4321.125)},
    "implicit": {"syntax": IMPLICIT},
    "big-endian": {"syntax": BIG},
    "big-endian-32": {"syntax": BIG, "allocated": 32},
    "big-endian-8": {"syntax": BIG, "allocated": 8},
    "big-endian-8-odd": {"syntax": BIG, "allocated": 8, "rows": 5, "columns": 5},
    "deflated": {"syntax": DEFLATED},
    "rle": {"syntax": RLE},
    "8-bit": {"allocated": 8},
    "8-bit-odd": {"allocated": 8, "rows": 3, "columns": 3, "slices": 4},
    "32-bit": {"allocated": 32},
    "12-bit": {"stored": 12},
    "12-bit-signed": {"stored": 12, "signed": True, "slope": 1.0, "intercept": 105.0},
    "signed": {"signed": True, "slope": 1.0, "intercept": 150.0},
    "signed-big-endian": {"signed": True, "slope": 1.0, "intercept": 150.0, "syntax": BIG},
    "ct": {"modality": "CT", "slope": 1.0, "intercept": -1024.0},
    "fractional-slope": {"slope": 0.25, "intercept": -7.5},
    "slope-per-slice": {"slope": [0.5, 0.25, 1.0, 0.125, 0.5, 1.0], "intercept": [0, -8, 1, 1, -2, 1]},
    "integer-slope-first": {"slope": [1.0, 0.5, 0.25, 0.125, 0.5, 0.25], "intercept": 0.0},
    "tilted": {"tilt": (0.0, 0.8, 0.0)},
    "tilted-oblique": {"orientation": oblique(20, -13, 41), "tilt": (0.3, 0.8, 0.0)},
    "suffix": {"suffix": ".dcm"},
    "wrong-suffix": {"suffix": ".txt"},
    "many": {"slices": 40, "rows": 3, "columns": 4},
}


@pytest.mark.parametrize("name", GOOD)
def test_right_place_and_value(name: str, tmp_path: Path) -> None:
    recipe = Recipe(**GOOD[name]).write(tmp_path)
    volume = read_volume(tmp_path)
    assert volume.shape == (recipe.columns, recipe.rows, recipe.slices)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    assert volume.array.dtype == np.float32
    assert (volume.geometry == "sheared") == name.startswith("tilted")


def test_spacing_goes_with_its_direction(tmp_path: Path) -> None:
    Recipe(spacing=(2.0, 0.5), step=3.0).write(tmp_path)
    assert read_volume(tmp_path).spacing_mm == pytest.approx((0.5, 2.0, 3.0))


def test_instance_numbers_never_order(tmp_path: Path) -> None:
    recipe = Recipe(edit=lambda ds, k: setattr(ds, "InstanceNumber", 1)).write(tmp_path)
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_without_frame_of_reference(tmp_path: Path) -> None:
    recipe = Recipe(edit=lambda ds, k: ds.__delattr__("FrameOfReferenceUID")).write(tmp_path)
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_from_a_series_of_a_scan(tmp_path: Path) -> None:
    recipe = Recipe().write(tmp_path / "a" / "b")
    (series,) = scan(tmp_path).series
    volume = read_volume(series)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    assert volume.series_uid == recipe.series
    assert recipe.series not in repr(volume)


@pytest.mark.parametrize("missing", [(2,), (1, 4), (2, 3)])
def test_interpolates_missing_slices(missing: tuple[int, ...], tmp_path: Path) -> None:
    recipe = Recipe(keep=[k for k in range(6) if k not in missing]).write(tmp_path)
    volume = read_volume(tmp_path, on_gap="interpolate")
    # Values are linear in k, so linear interpolation restores them exactly.
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    assert any(f"{len(missing)} slice(s) interpolated" in note for note in volume.notes)


def test_resamples_uneven_slices(tmp_path: Path) -> None:
    places = [0.0, 1.0, 2.5, 4.0, 5.0]

    def edit(ds, k):
        ds.ImagePositionPatient[2] = 42.0 + places[k] * 2
        put_pixels(ds, np.full((5, 7), 100 + 10 * places[k]))

    Recipe(slices=5, edit=edit).write(tmp_path)
    volume = read_volume(tmp_path, on_gap="interpolate")
    assert volume.shape == (7, 5, 6)
    assert volume.spacing_mm[2] == pytest.approx(2.0)
    z = volume.affine[2, 3] + volume.affine[2, 2] * np.arange(6)
    expected = np.interp(z, [42.0 + 2 * p for p in places], [100 + 10 * p for p in places])
    assert np.allclose(volume.array[3, 2], expected)


def test_drops_exact_duplicates(tmp_path: Path, caplog) -> None:
    recipe = Recipe().write(tmp_path)
    copy = tmp_path / "copy"
    copy.write_bytes((tmp_path / "IM0003").read_bytes())
    told: list[str] = []
    with caplog.at_level(logging.DEBUG), listening(told.append):
        volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    assert "1 duplicate file(s) left out" in volume.notes
    assert told == ["copy repeats IM0003 and is left out"]
    assert "IM0003" not in caplog.text


def test_files_without_preamble(tmp_path: Path) -> None:
    recipe = Recipe().write(tmp_path)
    for path in list(tmp_path.iterdir())[:3]:
        data = path.read_bytes()
        length = int.from_bytes(data[140:144], "little")
        path.write_bytes(data[132:] if path.name.endswith(("1", "3")) else data[144 + length :])
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_messy_folder(tmp_path: Path) -> None:
    recipe = Recipe(keep=[0, 1, 2]).write(tmp_path / "one")
    Recipe(keep=[3, 4, 5], study=recipe.study, series=recipe.series).write(tmp_path / "two" / "deep")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "one" / "Thumbs.db").write_bytes(bytes(range(256)) * 4)
    (tmp_path / ".DS_Store").write_bytes(b"")
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_localizer_inside_the_series_is_left_out(tmp_path: Path, caplog) -> None:
    recipe = Recipe().write(tmp_path)
    scout = Recipe(orientation=CORONAL, slices=1, study=recipe.study, series=recipe.series, prefix="scout")
    scout.edit = lambda ds, k: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.write(tmp_path)
    told: list[str] = []
    with caplog.at_level(logging.DEBUG), listening(told.append):
        volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    assert any("localizer" in note for note in volume.notes)
    assert told == ["scoutIM0000 is a localizer or lies across the other slices and is left out"]
    assert "scout" not in caplog.text


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("AcquisitionNumber", (1, 2)),
        ("EchoTime", ("4.9", "7.3")),
        ("EchoNumbers", (1, 2)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("TriggerTime", ("0", "120")),
        ("DiffusionBValue", (0.0, 1000.0)),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ],
)
def test_splits_two_volumes_at_one_place(keyword: str, values: tuple[object, object], tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    recipes = []
    for number, value in enumerate(values):
        recipe = Recipe(study=study, series=series, prefix=f"v{number}", offset=1000 * number, seed=number)
        recipe.edit = lambda ds, k, value=value: setattr(ds, keyword, value)
        recipes.append(recipe.write(tmp_path))
    found = scan(tmp_path).series
    assert [s.part.split()[0] for s in found] == [keyword, keyword]
    for item, recipe in zip(found, recipes, strict=True):
        volume = read_volume(item)
        assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    chosen = read_volume(tmp_path, select={"part": found[1].part})
    assert np.array_equal(chosen.array, read_volume(found[1]).array)


def test_splits_echoes_by_magnitude_and_phase(tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    for number, (echo, kind) in enumerate([("4.9", "M"), ("4.9", "P"), ("7.3", "M"), ("7.3", "P")]):
        recipe = Recipe(study=study, series=series, prefix=f"v{number}", offset=1000 * number)

        def edit(ds, k, echo=echo, kind=kind):
            ds.EchoTime, ds.ImageType = echo, ["ORIGINAL", "PRIMARY", kind]

        recipe.edit = edit
        recipe.write(tmp_path)
    found = scan(tmp_path).series
    assert len(found) == 4
    assert all(item.shape == (7, 5, 6) and item.problem is None for item in found)


@pytest.mark.parametrize("order", [range(6), [3, 0, 5, 1, 4, 2]])
def test_enhanced_multi_frame(order, tmp_path: Path) -> None:
    recipe = Recipe(orientation=oblique(10, 20, 30), slope=[0.5, 0.25, 1.0, 0.125, 0.5, 1.0], intercept=-3.0)
    write_enhanced(tmp_path, recipe, list(order))
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_padding_becomes_air(tmp_path: Path) -> None:
    def edit(ds, k):
        values = np.frombuffer(ds.PixelData, "<i2").reshape(5, 7).copy()
        values[0] = -2000
        put_pixels(ds, values, signed=True)
        ds.add_new("PixelPaddingValue", "SS", -2000)

    recipe = Recipe(modality="CT", slope=1.0, intercept=-1024.0, signed=True, edit=edit).write(tmp_path)
    volume = read_volume(tmp_path)
    assert (volume.array[:, 0] == -1024).all()
    assert np.array_equal(volume.array[:, 1:, 2], recipe.values(2).T[:, 1:])
    assert any("padding" in note and "20.00%" in note for note in volume.notes)


def test_padding_range_of_mr_becomes_its_lowest_value(tmp_path: Path) -> None:
    def edit(ds, k):
        values = np.frombuffer(ds.PixelData, "<u2").reshape(5, 7).copy()
        values[0] = 60000 + k
        put_pixels(ds, values)
        ds.add_new("PixelPaddingValue", "US", 60000)
        ds.add_new("PixelPaddingRangeLimit", "US", 60010)

    Recipe(edit=edit).write(tmp_path)
    volume = read_volume(tmp_path)
    assert volume.array.max() < 300
    assert (volume.array[:, 0] == 8).all()


def test_monochrome1_of_a_radiograph_is_inverted(tmp_path: Path) -> None:
    dataset = Recipe(modality="DX", stored=12).dataset(0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.ImagerPixelSpacing = ["0.2", "0.1"]
    save(dataset, tmp_path / "dx")
    volume = read_volume(tmp_path / "dx")
    assert volume.shape == (7, 5, 1)
    assert np.array_equal(volume.array[..., 0], 4095 - Recipe().values(0).T)
    assert volume.spacing_mm[:2] == pytest.approx((0.1, 0.2))
    assert any("MONOCHROME1" in note for note in volume.notes)


def test_monochrome1_of_mr_is_kept(tmp_path: Path) -> None:
    recipe = Recipe(edit=lambda ds, k: setattr(ds, "PhotometricInterpretation", "MONOCHROME1")).write(tmp_path)
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3
    assert any("not inverted" in note for note in volume.notes)


def test_radiograph_of_unknown_spacing(tmp_path: Path) -> None:
    dataset = Recipe(modality="CR").dataset(0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    save(dataset, tmp_path / "cr")
    (series,) = scan(tmp_path).series
    assert series.spacing_mm is None
    assert not series.volumetric
    volume = read_volume(series)
    assert not volume.spacing_known
    assert volume.spacing_mm == (1.0, 1.0, 1.0)


def test_window_is_applied_on_request_only(tmp_path: Path) -> None:
    dataset = Recipe(modality="DX").dataset(0)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = "18", "36", "LINEAR_EXACT"
    save(dataset, tmp_path / "dx")
    plain, shown = read_volume(tmp_path / "dx"), read_volume(tmp_path / "dx", voi=True)
    assert np.array_equal(plain.array[..., 0], Recipe().values(0).T)
    assert np.allclose(shown.array[..., 0], np.clip(Recipe().values(0).T / 36, 0, 1), atol=1e-6)


def test_colour_is_channels_first(tmp_path: Path) -> None:
    def edit(ds, k):
        put_pixels(ds, np.stack([Recipe().values(k)] * 3, -1) + np.array([0, 1, 2]), 8, 8, colour=True)

    recipe = Recipe(edit=edit).write(tmp_path)
    volume = read_volume(tmp_path)
    assert volume.array.shape == (3, 7, 5, 6)
    assert misplacement(volume.array[0], volume.affine, recipe) < 2e-3
    assert np.array_equal(volume.array[2] - volume.array[0], np.full((7, 5, 6), 2))


def test_overlay_bits_are_masked(tmp_path: Path) -> None:
    def edit(ds, k):
        values = np.frombuffer(ds.PixelData, "<u2") | 0x8000
        ds.PixelData = values.tobytes()
        ds.add_new(0x60000102, "US", 15)

    recipe = Recipe(stored=12, edit=edit).write(tmp_path)
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_signed_12_bit_without_sign_extension(tmp_path: Path) -> None:
    def edit(ds, k):
        ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") & 0x0FFF).astype("<u2").tobytes()

    recipe = Recipe(stored=12, signed=True, slope=1.0, intercept=105.0, edit=edit).write(tmp_path)
    volume = read_volume(tmp_path)
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_modality_lut(tmp_path: Path) -> None:
    from helpers_dicom import Items, item

    table = np.arange(256, dtype="<u2") * 3

    def edit(ds, k):
        lut = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
        lut.add_new("LUTData", "OW", table.tobytes())
        ds.ModalityLUTSequence = Items([lut])

    recipe = Recipe(edit=edit).write(tmp_path)
    volume = read_volume(tmp_path)
    assert misplacement(volume.array / 3, volume.affine, recipe) < 2e-3


def test_lone_slice_on_request(tmp_path: Path) -> None:
    recipe = Recipe(slices=1).write(tmp_path)
    volume = read_volume(tmp_path, select={"min_slices": 1})
    assert misplacement(volume.array, volume.affine, recipe) < 2e-3


def test_units(tmp_path: Path) -> None:
    Recipe(modality="CT", slope=1.0, intercept=-1024.0).write(tmp_path / "ct")
    Recipe(modality="CT").write(tmp_path / "raw")
    Recipe().write(tmp_path / "mr")
    Recipe(modality="PT", slope=0.5, intercept=0.0, edit=lambda ds, k: setattr(ds, "Units", "BQML")).write(
        tmp_path / "pt"
    )
    assert {n: read_volume(tmp_path / n).unit for n in ("ct", "raw", "mr", "pt")} == {
        "ct": "HU",
        "raw": "any",
        "mr": "any",
        "pt": "BQML",
    }
    assert read_volume(tmp_path / "ct", units="HU").modality == "CT"


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    Recipe().write(tmp_path)
    with pytest.raises(ConfigError, match="on_gap"):
        read_volume(tmp_path, on_gap="guess")
    with pytest.raises(ConfigError, match="Did you mean 'modality'"):
        read_volume(tmp_path, select={"modalty": "CT"})


def test_identity_orientation_constant() -> None:
    assert AXIAL == (1, 0, 0, 0, 1, 0)

"""A description from headers equals the volume that reading gives, and nothing is decoded for it."""

import dataclasses

import numpy as np
import pytest
from helpers_dicom import (
    BIG,
    CORONAL,
    DEFLATED,
    DX,
    MR,
    RLE,
    SC,
    Recipe,
    instance,
    item,
    oblique,
    put_pixels,
    save,
    write_enhanced,
)
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

from medtl_monai.dicom import describe, pixels, read_volume, scan
from medtl_monai.errors import DicomError

KINDS = {
    "axial": {},
    "coronal": {"orientation": CORONAL},
    "oblique": {"orientation": oblique(20, -13, 41), "spacing": (2.5, 0.4)},
    "tilted": {"tilt": (0.0, 0.9, 0.0)},
    "gap": {"slices": 9, "keep": [0, 1, 2, 4, 5, 8]},
    "ct": {"modality": "CT", "slope": 1.0, "intercept": -1000.0, "offset": 0, "signed": True},
    "ct-unscaled": {"modality": "CT"},
    "big-endian": {"syntax": BIG},
    "deflated": {"syntax": DEFLATED},
    "rle": {"syntax": RLE},
}


def only(folder):
    (series,) = scan(folder).series
    return series


def pet(ds, _=0):
    ds.Units, ds.CorrectedImage, ds.DecayCorrection, ds.PatientWeight = "BQML", ["ATTN", "DECY"], "ADMIN", "70"
    ds.RadiopharmaceuticalInformationSequence = Items([item(RadionuclideTotalDose="350000000")])


def single(folder, sop_class, modality, values, colour=False, **attributes):
    folder.mkdir()
    ds = instance(sop_class, "1.2.840.10008.1.2.1", generate_uid(), generate_uid())
    ds.Modality, ds.ImageType = modality, ["ORIGINAL", "PRIMARY"]
    put_pixels(ds, values, 8 if colour else 16, 8 if colour else 16, colour=colour)
    for name, value in attributes.items():
        setattr(ds, name, value)
    save(ds, folder / "image")


@pytest.fixture
def undecoded(monkeypatch):
    """Whatever decodes fails, until the fixture is called."""

    def refuse(*_, **__):
        raise AssertionError("a pixel was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(pixels.FrameReader, "stored", refuse)
        patch.setattr(pixels.FrameReader, "dataset", refuse)
        yield patch.undo


def same(folder, undecoded, **options):
    series = only(folder)
    said = describe(series, **options)
    undecoded()
    volume = read_volume(series, **options)
    fields = [f.name for f in dataclasses.fields(said) if f.name != "affine"]
    assert {n: getattr(said, n) for n in fields} == {n: getattr(volume, n) for n in fields}
    assert np.array_equal(said.affine, volume.affine)
    return said


@pytest.mark.parametrize("name", KINDS)
def test_it_equals_the_volume(name, tmp_path, undecoded):
    recipe = Recipe(**KINDS[name]).write(tmp_path / "s")
    said = same(tmp_path / "s", undecoded, on_gap="interpolate")
    assert said.shape == (recipe.columns, recipe.rows, recipe.slices)
    assert (said.geometry == "sheared") == (name == "tilted")
    assert said.unit == ("HU" if name == "ct" else "any")


def test_uneven_slices(tmp_path, undecoded):
    def move(ds, k):
        ds.ImagePositionPatient = [0, 0, [0, 1, 2.5, 3.5][k]]

    Recipe(slices=4, edit=move).write(tmp_path / "s")
    assert same(tmp_path / "s", undecoded, on_gap="interpolate").shape == (7, 5, 4)


def test_enhanced(tmp_path, undecoded):
    write_enhanced(tmp_path / "s", Recipe(), [3, 0, 5, 1, 4, 2])
    assert same(tmp_path / "s", undecoded).shape == (7, 5, 6)


def test_parts_of_one_series(tmp_path, undecoded):
    study, series = generate_uid(), generate_uid()
    for n in range(2):
        Recipe(
            study=study, series=series, prefix=f"e{n}", slices=4,
            edit=lambda ds, _, n=n: setattr(ds, "EchoTime", 10 * n + 5),
        ).write(tmp_path / "s")  # fmt: skip
    parts = scan(tmp_path / "s").series
    said = [describe(part) for part in parts]
    undecoded()
    assert [d.shape for d in said] == [read_volume(part).shape for part in parts] == [(7, 5, 4)] * 2


@pytest.mark.parametrize("spacing", [None, [0.2, 0.3]])
def test_radiograph(spacing, tmp_path, undecoded):
    more = {"PixelSpacing": spacing} if spacing else {}
    single(tmp_path / "s", DX, "DX", np.arange(20).reshape(4, 5), **more)
    said = same(tmp_path / "s", undecoded)
    assert (said.shape, said.spacing_known) == ((5, 4, 1), spacing is not None)


def test_colour(tmp_path, undecoded):
    single(tmp_path / "s", SC, "XC", np.arange(60).reshape(4, 5, 3), colour=True)
    assert same(tmp_path / "s", undecoded).channels == 3


def test_lone_slice_on_request(tmp_path, undecoded):
    Recipe(slices=1).write(tmp_path / "s")
    assert same(tmp_path / "s", undecoded, select={"min_slices": 1}).shape == (7, 5, 1)


@pytest.mark.parametrize("units", [None, "SUVbw", "BQML"])
def test_pet(units, tmp_path, undecoded):
    Recipe(modality="PT", slope=1.0, intercept=0.0, edit=pet).write(tmp_path / "s")
    assert same(tmp_path / "s", undecoded, units=units).unit == (units or "BQML")


def refused(folder, **options):
    series = only(folder)
    with pytest.raises(DicomError) as said:
        describe(series, **options)
    with pytest.raises(DicomError) as read:
        read_volume(series, **options)
    assert str(said.value) == str(read.value)
    return str(said.value)


def test_it_refuses_what_reading_refuses(tmp_path, monkeypatch):
    Recipe(slices=6, keep=[0, 1, 3, 4, 5]).write(tmp_path / "gap")
    assert "missing: gap" in refused(tmp_path / "gap")
    Recipe(slices=1).write(tmp_path / "stub")
    assert "only 1 slice" in refused(tmp_path / "stub")
    Recipe().write(tmp_path / "mr")
    assert "not HU" in refused(tmp_path / "mr", units="HU")
    assert "not SUVbw" in refused(tmp_path / "mr", units="SUVbw")
    Recipe(modality="PT", edit=lambda ds, k: (pet(ds), delattr(ds, "PatientWeight"))).write(tmp_path / "pet")
    assert "PatientWeight is missing" in refused(tmp_path / "pet", units="suvbw")
    Recipe(edit=lambda ds, _: delattr(ds, "PixelSpacing")).write(tmp_path / "geometry")
    assert "PixelSpacing is missing" in refused(tmp_path / "geometry")
    single(tmp_path / "cine", MR[:-1] + "6.1", "US", np.zeros((3, 4, 5)))
    assert "a cine of 3 frames" in refused(tmp_path / "cine")
    monkeypatch.setattr("medtl_monai.dicom.volume.MAX_VOLUME_BYTES", 100)
    assert "larger than" in refused(tmp_path / "mr")


def test_a_missing_decoder_is_told(tmp_path, monkeypatch):
    Recipe(syntax=RLE).write(tmp_path / "s")
    monkeypatch.setattr("medtl_monai.dicom.pixels.get_decoder", lambda uid: type("D", (), {
        "is_available": False, "missing_dependencies": ["gdcm"]}))  # fmt: skip
    assert "no decoder for RLE" in refused(tmp_path / "s")


def test_a_vanished_file_is_told(tmp_path):
    Recipe(modality="PT", slope=1.0, intercept=0.0, edit=pet).write(tmp_path / "s")
    series = only(tmp_path / "s")
    for path in (tmp_path / "s").iterdir():
        path.unlink()
    with pytest.raises(DicomError, match="cannot be read any more"):
        describe(series, units="suvbw")

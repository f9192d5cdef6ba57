"""Realities that must be read, and what they must give. Values encode places wherever the reality allows it."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases_catalogue import Case, Expected, Truth
from helpers_dicom import (
    BIG,
    CORONAL,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    SAGITTAL,
    SC,
    Frame,
    Items,
    Recipe,
    instance,
    item,
    oblique,
    put_pixels,
    save,
    write_enhanced,
    write_seg,
)
from pydicom.uid import generate_uid

Maker = Callable[[Path], Truth]
SLOPES = [0.5, 0.25, 1.0, 0.125, 0.5, 1.0]


def regular(**recipe: Any) -> Maker:
    """Write one recipe; its own values and places are the truth."""
    return lambda folder: (Expected.of(Recipe(**recipe).write(folder)),)


def edited(edit: Callable[..., object], **recipe: Any) -> Maker:
    """Write one recipe whose data sets are edited in ways that must not matter."""
    return regular(edit=edit, **recipe)


def having(keyword: str, value: object, **recipe: Any) -> Maker:
    return edited(lambda ds, k: setattr(ds, keyword, value), **recipe)


def without(keyword: str, **recipe: Any) -> Maker:
    return edited(lambda ds, k: delattr(ds, keyword), **recipe)


def changed(recipe: Recipe, folder: Path, array: Callable[[np.ndarray], np.ndarray], **more: Any) -> Truth:
    """Write a recipe whose truth is another array on its grid."""
    expected = Expected.of(recipe.write(folder))
    return (dataclasses.replace(expected, array=array(expected.array.copy()), **more),)


# Order, place


def jittered(folder: Path) -> Truth:
    noise = np.random.default_rng(0).uniform(-0.004, 0.004, (6, 3)) * [1, 1, 0]

    def edit(ds, k):
        ds.ImagePositionPatient = [float(p) + d for p, d in zip(ds.ImagePositionPatient, noise[k], strict=True)]

    return (Expected.of(Recipe(edit=edit).write(folder), mm=0.02),)


def interleaved(ds, k) -> None:
    ds.InstanceNumber = 1 + k // 2 + 3 * (k % 2)


def lying(ds, k) -> None:
    ds.SliceLocation, ds.SpacingBetweenSlices, ds.SliceThickness = 100 - k, "7", "5"


# Folders


def messy(folder: Path) -> Truth:
    recipe = Recipe(keep=[0, 1, 2]).write(folder / "one")
    Recipe(keep=[3, 4, 5], study=recipe.study, series=recipe.series).write(folder / "two" / "deep")
    (folder / "notes.txt").write_text("hello")
    (folder / "one" / "Thumbs.db").write_bytes(bytes(range(256)) * 4)
    (folder / ".DS_Store").write_bytes(b"")
    return (Expected.of(recipe),)


def zipped(folder: Path) -> Truth:
    """An archive of the series lies beside its files and is not opened."""
    recipe = Recipe().write(folder)
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        for k in range(6):
            archive.write(folder / recipe.name(k), f"p/{k}")
    return (Expected.of(recipe),)


def with_directory(folder: Path) -> Truth:
    recipe = Recipe().write(folder)
    directory = instance("1.2.840.10008.1.3.10", EXPLICIT, recipe.study, recipe.series)
    directory.FileSetID, directory.DirectoryRecordSequence = "X", Items([])
    save(directory, folder / "DICOMDIR")
    return (Expected.of(recipe),)


def without_preamble(folder: Path) -> Truth:
    recipe = Recipe().write(folder)
    for k in (0, 2, 4):
        path = folder / recipe.name(k)
        data = path.read_bytes()
        meta = 144 + int.from_bytes(data[140:144], "little")
        path.write_bytes(data[132:] if k == 2 else data[meta:])
    return (Expected.of(recipe),)


def with_objects(folder: Path) -> Truth:
    recipe = Recipe().write(folder)
    write_seg(folder / "seg", [Frame(mask=np.ones((5, 7), np.uint8), position=recipe.position(1))], recipe)
    for name, sop_class, modality in (
        ("sr", "1.2.840.10008.5.1.4.1.1.88.22", "SR"),
        ("rtstruct", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("gsps", "1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        ("ecg", "1.2.840.10008.5.1.4.1.1.9.1.1", "ECG"),
        ("pdf", "1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    ):
        dataset = instance(sop_class, EXPLICIT, recipe.study, generate_uid())
        dataset.Modality = modality
        save(dataset, folder / name)
    return (Expected.of(recipe),)


def duplicates(folder: Path) -> Truth:
    recipe = Recipe().write(folder)
    (folder / "copies").mkdir()
    for k in (0, 3):
        (folder / "copies" / f"again{k}").write_bytes((folder / recipe.name(k)).read_bytes())
    return (Expected.of(recipe, notes=("2 duplicate file(s) left out",)),)


# Several series


def two_series(folder: Path) -> Truth:
    first = Recipe(edit=lambda ds, k: setattr(ds, "SeriesDescription", "t1 mprage"), prefix="a").write(folder)
    Recipe(study=first.study, edit=lambda ds, k: setattr(ds, "SeriesDescription", "t2 flair"), prefix="b").write(folder)
    return (Expected.of(first, notes=("other series left out: 1 (description)",)),)


def scout_inside(folder: Path, *, localizer: bool, **shape: Any) -> Truth:
    recipe = Recipe().write(folder)
    scout = Recipe(orientation=CORONAL, slices=1, study=recipe.study, series=recipe.series, prefix="scout", **shape)
    if localizer:
        scout.edit = lambda ds, k: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.write(folder)
    return (Expected.of(recipe, notes=("1 localizer or crossing slice(s) left out",)),)


def beside(image_type: list[str], **recipe: Any) -> Maker:
    """Another series of the given ImageType lies beside the one that is wanted."""

    def make(folder: Path) -> Truth:
        wanted = Recipe(prefix="a").write(folder)
        edit = lambda ds, k: setattr(ds, "ImageType", image_type)  # noqa: E731
        Recipe(study=wanted.study, prefix="b", edit=edit, **recipe).write(folder)
        return (Expected.of(wanted),)

    return make


def repeats(keyword: str, *values: object) -> Maker:
    """Complete volumes at one place, told apart by one attribute."""

    def make(folder: Path) -> Truth:
        study, series = generate_uid(), generate_uid()
        made = []
        for n, value in enumerate(values):
            recipe = Recipe(study=study, series=series, prefix=f"v{n}", offset=1000 * n, seed=n)
            recipe.edit = lambda ds, k, value=value: setattr(ds, keyword, value)
            made.append(Expected.of(recipe.write(folder), notes=(f"part {keyword}",)))
        return tuple(made)

    return make


def echoes_by_phase(folder: Path) -> Truth:
    study, series = generate_uid(), generate_uid()
    made = []
    for n, (echo, kind) in enumerate([("4.9", "M"), ("4.9", "P"), ("7.3", "M"), ("7.3", "P")]):
        recipe = Recipe(study=study, series=series, prefix=f"v{n}", offset=1000 * n)

        def edit(ds, k, echo=echo, kind=kind):
            ds.EchoTime, ds.ImageType = echo, ["ORIGINAL", "PRIMARY", kind]

        recipe.edit = edit
        made.append(Expected.of(recipe.write(folder), notes=(f"EchoTime {echo}", f"ImageType {kind}")))
    return tuple(made)


def second_echo(folder: Path) -> Truth:
    return (dataclasses.replace(repeats("EchoTime", "4.9", "7.3")(folder)[1], notes=()),)


# Gaps


def missing(*lost: int) -> Maker:
    def make(folder: Path) -> Truth:
        recipe = Recipe(keep=[k for k in range(6) if k not in lost]).write(folder)
        # Values are linear in k, so linear interpolation restores them exactly.
        return (Expected.of(recipe, notes=(f"{len(lost)} slice(s) interpolated",)),)

    return make


def uneven(folder: Path) -> Truth:
    places = [0.0, 1.0, 2.5, 4.0, 5.0]

    def edit(ds, k):
        ds.ImagePositionPatient[2] = 42.0 + places[k] * 3
        put_pixels(ds, np.round(100 + 10 * places[k] + np.zeros((5, 7))))

    Recipe(slices=5, edit=edit).write(folder)
    array = np.broadcast_to(100 + 10 * np.arange(6.0), (7, 5, 6))
    return (dataclasses.replace(Expected.of(Recipe()), array=array, notes=("1 slice(s) interpolated",)),)


def split(*lost: int, runs: tuple[tuple[int, int], ...], left_out: int = 0) -> Maker:
    """A series of ten that lacks some slices, as its runs."""

    def make(folder: Path) -> Truth:
        recipe = Recipe(slices=10, keep=[k for k in range(10) if k not in lost]).write(folder)
        extra = (f"{left_out} slice(s) between gaps left out",) if left_out else ()
        whole = Expected.of(recipe)
        return tuple(whole.slices(a, b, notes=(f"run {n} of {len(runs)}", *extra)) for n, (a, b) in enumerate(runs, 1))

    return make


def chosen(make: Maker, number: int) -> Maker:
    """The case whose one volume is a part of another's."""

    def one(folder: Path) -> Truth:
        truth = make(folder)
        assert isinstance(truth, tuple)
        return (dataclasses.replace(truth[number], notes=()),)

    return one


def thin_then_thick(folder: Path) -> Truth:
    """Four slices at 3 mm, three at 5 mm, a jump, and two at 3 mm."""
    heights = np.cumsum([0, 3, 3, 3, 5, 5, 5, 17, 3])

    def edit(ds, k):
        ds.ImagePositionPatient[2] = 42.0 + float(heights[k])

    whole = Expected.of(Recipe(slices=9, edit=edit).write(folder))
    made = []
    for first, last, step in ((0, 3, 3.0), (4, 6, 5.0), (7, 8, 3.0)):
        affine = whole.affine.copy()
        affine[:3, 2], affine[2, 3] = (0, 0, step), 42.0 + heights[first]
        made.append(dataclasses.replace(whole.slices(first, last), affine=affine))
    return tuple(made)


# Pixels


def padded(folder: Path) -> Truth:
    def edit(ds, k):
        values = np.frombuffer(ds.PixelData, "<i2").reshape(5, 7).copy()
        values[0] = -2000
        put_pixels(ds, values, signed=True)
        ds.add_new("PixelPaddingValue", "SS", -2000)

    def truth(array):
        array[:, 0] = -1024
        return array

    recipe = Recipe(modality="CT", slope=1.0, intercept=-1024.0, signed=True, edit=edit)
    return changed(recipe, folder, truth, notes=("padding pixels (20.00%) set to -1024",))


def padding_range(folder: Path) -> Truth:
    def edit(ds, k):
        values = np.frombuffer(ds.PixelData, "<u2").reshape(5, 7).copy()
        values[0] = 60000 + k
        put_pixels(ds, values)
        ds.add_new("PixelPaddingValue", "US", 60000)
        ds.add_new("PixelPaddingRangeLimit", "US", 60010)

    def truth(array):
        array[:, 0] = 8  # the lowest value left
        return array

    return changed(Recipe(edit=edit), folder, truth)


def overlays(ds, k) -> None:
    ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | 0x8000).tobytes()
    ds.add_new(0x60000102, "US", 15)


def shifted_bits(ds, k) -> None:
    ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") << 4).astype("<u2").tobytes()
    ds.HighBit = 15


def unextended(ds, k) -> None:
    ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") & 0x0FFF).astype("<u2").tobytes()


def lookup(folder: Path) -> Truth:
    table = (np.arange(256, dtype="<u2") * 3).tobytes()

    def edit(ds, k):
        lut = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
        lut.add_new("LUTData", "OW", table)
        ds.ModalityLUTSequence = Items([lut])

    return changed(Recipe(edit=edit), folder, lambda array: array * 3)


def colour(planar: int) -> Maker:
    def edit(ds, k):
        values = np.stack([Recipe().values(k) % 251] * 3, -1) + np.array([0, 1, 2])
        put_pixels(ds, values, 8, 8, colour=True)
        if planar:
            raw = np.frombuffer(ds.PixelData, "u1")[: values.size].reshape(values.shape)
            data = np.ascontiguousarray(raw.transpose(2, 0, 1)).tobytes()
            ds.PlanarConfiguration, ds.PixelData = 1, data + b"\0" * (len(data) % 2)

    def truth(array):
        return np.stack([array % 251 + n for n in range(3)])

    return lambda folder: changed(Recipe(edit=edit), folder, truth)


def palette(folder: Path) -> Truth:
    def edit(ds, k):
        put_pixels(ds, Recipe().values(k) % 251, 8, 8)
        ds.PhotometricInterpretation = "PALETTE COLOR"
        for n, name in enumerate(("Red", "Green", "Blue")):
            table = ((np.arange(256) * 7 + n) % 256).astype("u1")
            setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
            setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())

    def truth(array):
        return np.stack([(array % 251 * 7 + n) % 256 for n in range(3)])

    return changed(Recipe(edit=edit), folder, truth)


# Enhanced


def enhanced(order: tuple[int, ...] = (3, 0, 5, 1, 4, 2), edit: Callable[..., object] | None = None, **more) -> Maker:
    def make(folder: Path) -> Truth:
        recipe = Recipe(**more)
        write_enhanced(folder, recipe, order, edit)
        return (Expected.of(recipe),)

    return make


def enhanced_echoes(folder: Path) -> Truth:
    """Twelve frames: two echoes of six slices, mixed."""
    recipe = Recipe()
    order = [0, 0, 3, 3, 1, 1, 5, 5, 2, 2, 4, 4]

    def edit(ds, _):
        values = [recipe.values(k) + 1000 * (n % 2) for n, k in enumerate(order)]
        put_pixels(ds, np.stack(values))
        for n, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            group.MREchoSequence = Items([item(EffectiveEchoTime=4.9 + n % 2)])

    write_enhanced(folder, recipe, order, edit)
    return (Expected.of(recipe), Expected.of(dataclasses.replace(recipe, offset=1000)))


# Units


def pet(*, start: str = "101112", scan: str = "111112", decay: str = "START", factor: float) -> Maker:
    """A PET series of 70 kg and 100 MBq of a tracer with a half-life of one hour."""

    def edit(ds, k):
        ds.Units, ds.CorrectedImage, ds.DecayCorrection = "BQML", ["DECY", "ATTN"], decay
        ds.PatientWeight, ds.SeriesDate, ds.SeriesTime = "70", "20200102", scan
        ds.AcquisitionDate, ds.AcquisitionTime = "20200102", scan
        tracer = item(RadiopharmaceuticalStartTime=start, RadionuclideTotalDose="1e8", RadionuclideHalfLife="3600")
        ds.RadiopharmaceuticalInformationSequence = Items([tracer])

    recipe = Recipe(modality="PT", slope=1.0, intercept=0.0, edit=edit)
    return lambda folder: changed(recipe, folder, lambda a: a * factor, attributes={"unit": "SUVbw"})


# Two-dimensional images


def radiograph(
    edit: Callable[..., object] | None = None, *, spacing: tuple[float, float] | None, modality: str = "DX"
) -> Recipe:
    """A lone image without a place; ``spacing`` is what its affine must say (between rows, between columns)."""

    def strip(ds, k):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            delattr(ds, keyword)
        if edit is not None:
            edit(ds, k)

    return Recipe(
        modality=modality, slices=1, stored=12, edit=strip, step=1.0, origin=(0, 0, 0), spacing=spacing or (1.0, 1.0)
    )


def planar(edit=None, *, spacing=None, modality="DX", array=lambda a: a, **attributes: Any) -> Maker:
    attributes |= {"spacing_known": spacing is not None}
    recipe = radiograph(edit, spacing=spacing, modality=modality)
    return lambda folder: changed(recipe, folder, array, attributes=attributes)


def bright_is_low(ds, k) -> None:
    ds.PhotometricInterpretation, ds.ImagerPixelSpacing = "MONOCHROME1", ["0.2", "0.1"]


def windowed(ds, k) -> None:
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "18", "36", "LINEAR_EXACT"


def two_views(folder: Path) -> Truth:
    study, series = generate_uid(), generate_uid()
    made = []
    for n, view in enumerate(("CC", "MLO")):

        def edit(ds, k, view=view):
            ds.ViewPosition, ds.ImageLaterality, ds.Modality = view, "L", "MG"

        recipe = radiograph(edit, spacing=None)
        recipe = dataclasses.replace(recipe, study=study, series=series, prefix=view, offset=100 * n)
        made.append(Expected.of(recipe.write(folder)))
    return (made[1],)


def cine(folder: Path) -> Truth:
    dataset = instance(SC, EXPLICIT, generate_uid(), generate_uid())
    dataset.Modality = "US"
    recipe = Recipe(spacing=(1.0, 1.0), step=1.0, origin=(0, 0, 0), slices=1)
    frames = [recipe.values(0) + 40 * n for n in range(4)]
    put_pixels(dataset, np.stack(frames), 8, 8)
    save(dataset, folder / "cine")
    return tuple(
        Expected.of(dataclasses.replace(recipe, offset=40 * n), notes=(f"frame {n + 1}",)) for n in range(len(frames))
    )


# Unusual but legal headers


def long_header(ds, k) -> None:
    for n in range(40):
        ds.add_new(0x00091001 + n, "OB", bytes(2048))
    ds.add_new(0x00090001, "LO", "PRIVATE")


def private_sequences(ds, k) -> None:
    inner = item(PatientComments="x", ImagePositionPatient=["9", "9", "9"], Rows=99)
    ds.ReferencedImageSequence = Items([item(ReferencedSOPInstanceUID=generate_uid(), PixelSpacing=["5", "5"])])
    ds.RequestAttributesSequence = Items([inner])
    ds["ReferencedImageSequence"].is_undefined_length = True


def foreign_names(ds, k) -> None:
    ds.SpecificCharacterSet, ds.PatientName, ds.SeriesDescription = "ISO_IR 192", "Ärzte^Öl", "Schädel"


SPLIT: dict[str, Any] = {"options": {"on_gap": "split"}}


def run(which: object) -> dict[str, Any]:
    return {"options": {"on_gap": "split", "select": {"run": which}}}


VOLUMES = [
    Case(id=name, row=row, make=make, **more)
    for name, row, make, more in (
        ("axial", "orientation", regular(), {}),
        ("coronal", "orientation", regular(orientation=CORONAL), {}),
        ("sagittal", "orientation", regular(orientation=SAGITTAL), {}),
        ("oblique", "orientation", regular(orientation=oblique(20, -13, 41)), {}),
        ("steep-oblique", "orientation", regular(orientation=oblique(80, 35, -120)), {}),
        ("head-first-prone", "orientation", regular(orientation=(-1, 0, 0, 0, -1, 0)), {}),
        ("decubitus", "orientation", regular(orientation=(0, -1, 0, 1, 0, 0)), {}),
        ("feet-first", "orientation", regular(orientation=(-1, 0, 0, 0, 1, 0)), {}),
        ("wide-rows", "anisotropic pixels", regular(spacing=(2.5, 0.4)), {}),
        ("wide-columns-turned", "anisotropic pixels", regular(spacing=(0.4, 2.5), orientation=oblique(5, 60, 7)), {}),
        ("far-from-the-origin", "place", regular(origin=(1234.5, -987.25, 4321.125)), {}),
        ("two-slices", "place", regular(slices=2), {}),
        ("thin-slices", "place", regular(step=0.3), {}),
        ("positions-jitter-in-plane", "place", jittered, {}),
        ("no-frame-of-reference", "place", without("FrameOfReferenceUID"), {}),
        ("shuffled-names", "slice order", regular(seed=7, suffix=".dcm"), {}),
        ("one-instance-number", "slice order", having("InstanceNumber", 1), {}),
        ("no-instance-number", "slice order", without("InstanceNumber"), {}),
        ("interleaved-instance-numbers", "slice order", edited(interleaved), {}),
        ("lying-location-and-thickness", "slice order", edited(lying), {}),
        ("nested-folders-and-junk", "messy folder", messy, {}),
        ("wrong-extension", "messy folder", regular(suffix=".txt"), {}),
        ("archive-beside", "messy folder", zipped, {}),
        ("dicomdir", "DICOMDIR", with_directory, {}),
        ("no-preamble", "no preamble", without_preamble, {}),
        ("reports-and-labels-beside", "other objects", with_objects, {}),
        ("exact-duplicates", "duplicates", duplicates, {}),
        ("two-series-one-asked-for", "selection", two_series, {"options": {"select": {"description": "mprage"}}}),
        ("scout-inside", "localizer", lambda f: scout_inside(f, localizer=True), {}),
        ("scout-of-other-size-inside", "localizer", lambda f: scout_inside(f, localizer=True, rows=9, columns=8), {}),
        ("crossing-slice-inside", "localizer", lambda f: scout_inside(f, localizer=False), {}),
        ("scout-series-beside", "localizer", beside(["ORIGINAL", "PRIMARY", "LOCALIZER"], slices=3), {}),
        ("derived-beside", "derived", beside(["DERIVED", "SECONDARY", "REFORMATTED"], slices=9), {}),
        ("projection-beside", "derived", beside(["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"], slices=9), {}),
        ("acquisitions", "several volumes", repeats("AcquisitionNumber", 1, 2), {"several": True}),
        ("echo-times", "several volumes", repeats("EchoTime", "4.9", "7.3"), {"several": True}),
        ("echo-numbers", "several volumes", repeats("EchoNumbers", 1, 2), {"several": True}),
        ("time-points", "several volumes", repeats("TemporalPositionIdentifier", 1, 2, 10), {"several": True}),
        ("cardiac-phases", "several volumes", repeats("TriggerTime", "0", "120", "1000"), {"several": True}),
        ("b-values", "several volumes", repeats("DiffusionBValue", 0.0, 50.0, 1000.0), {"several": True}),
        (
            "magnitude-and-phase",
            "several volumes",
            repeats("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
            {"several": True},
        ),
        ("echoes-by-magnitude-and-phase", "several volumes", echoes_by_phase, {"several": True}),
        ("one-echo-asked-for", "several volumes", second_echo, {"options": {"select": {"part": "EchoTime 7.3"}}}),
        ("gap-interpolated", "gaps", missing(2), {"options": {"on_gap": "interpolate"}}),
        ("gaps-interpolated", "gaps", missing(1, 4), {"options": {"on_gap": "interpolate"}}),
        ("wide-gap-interpolated", "gaps", missing(2, 3), {"options": {"on_gap": "interpolate"}}),
        ("uneven-interpolated", "uneven spacing", uneven, {"options": {"on_gap": "interpolate"}}),
        ("gap-split", "gaps", split(4, runs=((0, 3), (5, 9))), SPLIT | {"several": True}),
        ("gaps-split", "gaps", split(2, 6, runs=((0, 1), (3, 5), (7, 9))), SPLIT | {"several": True}),
        (
            "lone-slice-between-gaps",
            "gaps",
            split(3, 5, runs=((0, 2), (6, 9)), left_out=1),
            SPLIT | {"several": True},
        ),
        ("uneven-split", "uneven spacing", thin_then_thick, SPLIT | {"several": True}),
        ("longest-run", "gaps", chosen(split(4, runs=((0, 3), (5, 9))), 1), run("longest")),
        ("run-by-number", "gaps", chosen(split(4, runs=((0, 3), (5, 9))), 0), run(1)),
        (
            "run-by-part",
            "gaps",
            chosen(split(4, runs=((0, 3), (5, 9))), 0),
            {"options": {"on_gap": "split", "select": {"part": "run 1 of"}}},
        ),
        ("one-run-left", "gaps", chosen(split(1, runs=((2, 9),), left_out=1), 0), SPLIT),
        ("split-without-a-gap", "gaps", regular(), SPLIT),
        ("gantry-tilt", "gantry tilt", regular(tilt=(0.0, 0.8, 0.0)), {}),
        (
            "gantry-tilt-oblique",
            "gantry tilt",
            regular(orientation=oblique(20, -13, 41), tilt=(0.3, 0.8, 0.0)),
            {},
        ),
        ("enhanced", "enhanced", enhanced((0, 1, 2, 3, 4, 5)), {}),
        ("enhanced-shuffled", "enhanced", enhanced(orientation=oblique(10, 20, 30)), {}),
        ("enhanced-rescale-per-frame", "enhanced", enhanced(slope=SLOPES, intercept=-3.0), {}),
        (
            "enhanced-no-frame-of-reference",
            "enhanced",
            enhanced(edit=lambda ds, _: ds.pop("FrameOfReferenceUID", None)),
            {},
        ),
        ("enhanced-echoes", "enhanced", enhanced_echoes, {"several": True}),
        ("slope-per-slice", "rescale", regular(slope=SLOPES, intercept=[0, -8, 1, 1, -2, 1]), {}),
        ("integer-slope-first", "rescale", regular(slope=[1.0, *SLOPES[:5]], intercept=0.0), {}),
        ("negative-slope", "rescale", regular(slope=-0.5, intercept=300.0), {}),
        ("hounsfield", "rescale", regular(modality="CT", slope=1.0, intercept=-1024.0), {}),
        ("lookup-table", "rescale", lookup, {}),
        ("signed", "pixels", regular(signed=True, slope=1.0, intercept=150.0), {}),
        ("8-bit-odd-length", "pixels", regular(allocated=8, rows=3, columns=3, slices=4), {}),
        ("32-bit", "pixels", regular(allocated=32), {}),
        ("12-bit-signed", "pixels", regular(stored=12, signed=True, slope=1.0, intercept=105.0), {}),
        (
            "12-bit-not-sign-extended",
            "pixels",
            edited(unextended, stored=12, signed=True, slope=1.0, intercept=105.0),
            {},
        ),
        ("12-bit-in-the-high-bits", "pixels", edited(shifted_bits, stored=12), {}),
        ("overlay-in-the-high-bits", "pixels", edited(overlays, stored=12), {}),
        ("padding-of-ct", "padding", padded, {}),
        ("padding-range-of-mr", "padding", padding_range, {}),
        ("rgb-by-pixel", "colour", colour(0), {}),
        ("rgb-by-plane", "colour", colour(1), {}),
        ("palette", "colour", palette, {}),
        ("implicit-little", "transfer syntax", regular(syntax=IMPLICIT), {}),
        ("big-endian", "transfer syntax", regular(syntax=BIG), {}),
        ("big-endian-signed", "transfer syntax", regular(syntax=BIG, signed=True, slope=1.0, intercept=150.0), {}),
        ("big-endian-8-bit", "transfer syntax", regular(syntax=BIG, allocated=8, rows=5, columns=5), {}),
        ("deflated", "transfer syntax", regular(syntax=DEFLATED), {}),
        ("rle", "transfer syntax", regular(syntax=RLE), {}),
        ("jpeg-ls", "transfer syntax", regular(syntax=JPEG_LS), {}),
        ("jpeg-lossless", "transfer syntax", regular(syntax=JPEG_LOSSLESS), {}),
        ("jpeg-2000", "transfer syntax", regular(syntax=JPEG_2000, rows=48, columns=64, slices=3), {}),
        ("long-private-header", "header", edited(long_header), {}),
        ("sequences-hold-other-geometry", "header", edited(private_sequences), {}),
        ("names-in-unicode", "header", edited(foreign_names), {}),
        ("no-rescale-type", "header", without("RescaleType", modality="CT", slope=1.0, intercept=-1024.0), {}),
        ("suv-start", "PET", pet(factor=70e3 / 0.5e8), {"options": {"units": "SUVbw"}}),
        ("suv-admin", "PET", pet(decay="ADMIN", factor=70e3 / 1e8), {"options": {"units": "SUVbw"}}),
        (
            "suv-across-midnight",
            "PET",
            pet(start="233000", scan="003000", factor=70e3 / 0.5e8),
            {"options": {"units": "SUVbw"}},
        ),
        (
            "monochrome1-radiograph",
            "MONOCHROME1",
            planar(bright_is_low, spacing=(0.2, 0.1), array=lambda a: 4095 - a),
            {},
        ),
        ("monochrome1-of-mr", "MONOCHROME1", having("PhotometricInterpretation", "MONOCHROME1"), {}),
        ("radiograph-without-spacing", "2D", planar(modality="CR"), {}),
        (
            "radiograph-imager-spacing",
            "2D",
            planar(lambda ds, k: setattr(ds, "ImagerPixelSpacing", ["0.2", "0.1"]), spacing=(0.2, 0.1)),
            {},
        ),
        (
            "window-on-request",
            "2D",
            planar(windowed, array=lambda a: np.clip(a / 36, 0, 1)),
            {"options": {"voi": True}},
        ),
        ("window-not-applied", "2D", planar(windowed), {}),
        ("one-view-of-two", "2D", two_views, {"options": {"select": {"part": "MLO"}}}),
        ("cine", "cine", cine, {"several": True}),
        ("lone-slice-on-request", "few slices", regular(slices=1), {"options": {"select": {"min_slices": 1}}}),
    )
]

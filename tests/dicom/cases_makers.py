"""Makers of the realities that must be read: each writes files and returns what they must give."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases_catalogue import Expected, Truth
from helpers_dicom import (
    CORONAL,
    EXPLICIT,
    SC,
    Frame,
    Items,
    Recipe,
    instance,
    item,
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


def enhanced_stacks(folder: Path) -> Truth:
    """Twelve frames of one file: an axial and a coronal stack, mixed."""
    first, second = Recipe(), Recipe(orientation=CORONAL, offset=1000)
    order = [(recipe, k) for k in (0, 3, 1, 5, 2, 4) for recipe in (first, second)]

    def edit(ds, _):
        put_pixels(ds, np.stack([recipe.values(k) for recipe, k in order]))
        del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
        for group, (recipe, k) in zip(ds.PerFrameFunctionalGroupsSequence, order, strict=True):
            group.PlanePositionSequence = Items([item(ImagePositionPatient=[f"{v:.6g}" for v in recipe.position(k)])])
            orientation = [f"{v:g}" for v in recipe.orientation]
            group.PlaneOrientationSequence = Items([item(ImageOrientationPatient=orientation)])
            group.FrameContentSequence = Items([item(StackID="1" if recipe is first else "2")])

    write_enhanced(folder, first, [k for _, k in order], edit)
    return (Expected.of(first, notes=("part orientation axial",)), Expected.of(second))


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


def floats(ds, k) -> None:
    values = np.frombuffer(ds.PixelData, "<u2").astype("<f4")
    del ds.PixelData
    ds.FloatPixelData, ds.BitsAllocated, ds.BitsStored, ds.HighBit = values.tobytes(), 32, 32, 31

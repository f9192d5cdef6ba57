"""Realities that must be refused: the file and the attribute that the error names."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases_catalogue import Case, Refusal
from helpers_dicom import (
    CORONAL,
    DEFLATED,
    EXPLICIT,
    SC,
    Recipe,
    ds_text,
    instance,
    oblique,
    put_pixels,
    save,
    write_enhanced,
)
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

Change = Callable[..., object]
Maker = Callable[[Path], Refusal]


def one(change: Change, *, slice_: int = 2, attribute: str = "", says: str = "", **recipe: Any) -> Maker:
    """Change the data set of one slice, which the error must name."""

    def make(folder: Path) -> Refusal:
        made = Recipe(edit=lambda ds, k: change(ds) if k == slice_ else None, **recipe).write(folder)
        return Refusal(attribute=attribute, file=made.name(slice_), says=says)

    return make


def without(keyword: str, **more: Any) -> Maker:
    return one(lambda ds: delattr(ds, keyword), attribute=keyword, says=f"{keyword} is missing", **more)


def having(keyword: str, value: object, says: str = "", **more: Any) -> Maker:
    return one(lambda ds: setattr(ds, keyword, value), attribute=keyword, says=says, **more)


def bytes_of(change: Callable[[bytes], bytes], *, attribute: str = "", says: str = "", **recipe: Any) -> Maker:
    """Change the bytes of one file, which the error must name."""

    def make(folder: Path) -> Refusal:
        made = Recipe(**recipe).write(folder)
        path = folder / made.name(2)
        path.write_bytes(change(path.read_bytes()))
        return Refusal(attribute=attribute, file=path.name, says=says)

    return make


def text_of(keyword: str, text: bytes, says: str) -> Maker:
    """Put other text of equal length into an attribute of one file."""

    def change(data: bytes) -> bytes:
        at = data.index(struct.pack("<HH", *divmod(int(dcmtag(keyword)), 0x10000)))
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        return data[: at + 8] + text.ljust(length)[:length] + data[at + 8 + length :]

    return bytes_of(change, attribute=keyword, says=says)


def dcmtag(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(keyword) or 0


def folder_of(write: Callable[[Path], object], **refusal: Any) -> Maker:
    def make(folder: Path) -> Refusal:
        write(folder)
        return Refusal(**refusal)

    return make


def gap(*lost: int, says: str) -> Maker:
    def make(folder: Path) -> Refusal:
        made = Recipe(keep=[k for k in range(6) if k not in lost]).write(folder)
        return Refusal(attribute="ImagePositionPatient", file=made.name(min(lost) - 1), says=says)

    return make


def uneven(folder: Path) -> None:
    Recipe(edit=lambda ds, k: ds.ImagePositionPatient.__setitem__(2, 42 + 3 * k + 0.4 * (k > 2))).write(folder)


def two_series(folder: Path, **second: Any) -> None:
    study = generate_uid()
    Recipe(study=study, prefix="a").write(folder)
    Recipe(study=study, prefix="b", **second).write(folder)


def one_uid(folder: Path, **second: Any) -> None:
    """Two stacks under one SeriesInstanceUID."""
    first = Recipe(prefix="a").write(folder)
    Recipe(prefix="b", study=first.study, series=first.series, **second).write(folder)


def two_volumes(folder: Path) -> None:
    study, series = generate_uid(), generate_uid()
    for n, echo in enumerate(("4.9", "7.3")):
        edit = lambda ds, k, echo=echo: setattr(ds, "EchoTime", echo)  # noqa: E731
        Recipe(study=study, series=series, prefix=f"v{n}", edit=edit).write(folder)


def same_uid_other_bytes(folder: Path) -> None:
    recipe = Recipe().write(folder)
    dataset = dcmread(folder / recipe.name(3))
    dataset.PixelData = bytes(len(dataset.PixelData))
    save(dataset, folder / "twin")


def same_place_other_uid(folder: Path) -> None:
    save(Recipe().write(folder).dataset(3), folder / "twin")


def partial_repeat(folder: Path) -> None:
    first = Recipe(edit=lambda ds, k: setattr(ds, "AcquisitionNumber", 1)).write(folder)
    second = Recipe(study=first.study, series=first.series, prefix="b", keep=[2, 3, 4])
    second.edit = lambda ds, k: setattr(ds, "AcquisitionNumber", 2)
    second.write(folder)


def blank(content: bytes) -> Maker:
    def make(folder: Path) -> Refusal:
        Recipe(suffix=".dcm", keep=[0, 1, 2, 3, 4]).write(folder)
        (folder / "IM0009.dcm").write_bytes(content)
        return Refusal(file="IM0009.dcm")

    return make


def multi_frame(folder: Path) -> None:
    dataset = Recipe().dataset(0)
    put_pixels(dataset, np.ones((4, 5, 7)))
    save(dataset, folder / "mf")


def cine(folder: Path) -> None:
    dataset = instance(SC, EXPLICIT, generate_uid(), generate_uid())
    dataset.Modality = "US"
    put_pixels(dataset, np.ones((4, 5, 7)), 8, 8)
    save(dataset, folder / "cine")


def enhanced(edit: Change) -> Callable[[Path], object]:
    return lambda folder: write_enhanced(folder, Recipe(), range(6), lambda ds, _: edit(ds))


def encapsulated(ds, syntax: str, data: bytes) -> None:
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([data])
    ds["PixelData"].is_undefined_length = True


def codestream(rows: int, columns: int) -> bytes:
    return b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, columns, rows, 0, 0) + bytes(60)


def bits(ds) -> None:
    ds.BitsStored, ds.HighBit = 6, 5


def pet(keyword: str, value: object = None, *, says: str = "") -> Maker:
    """A PET series whose SUV cannot be told, for one reason."""

    def edit(ds, k):
        from helpers_dicom import Items, item

        ds.Units, ds.CorrectedImage, ds.DecayCorrection = "BQML", ["DECY", "ATTN"], "START"
        ds.PatientWeight, ds.SeriesDate, ds.SeriesTime = "70", "20200102", "111112"
        ds.AcquisitionDate, ds.AcquisitionTime = "20200102", "111112"
        tracer = item(RadiopharmaceuticalStartTime="101112", RadionuclideTotalDose="1e8", RadionuclideHalfLife="3600")
        ds.RadiopharmaceuticalInformationSequence = Items([tracer])
        where = tracer if keyword in tracer else ds
        delattr(where, keyword) if value is None else setattr(where, keyword, value)

    return folder_of(
        lambda folder: Recipe(modality="PT", slope=1.0, intercept=0.0, edit=edit).write(folder),
        attribute=keyword,
        file="IM",
        says=says or f"{keyword} is missing",
    )


J2K, MPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.102"
SPLIT = {"options": {"on_gap": "split"}}
SUV = {"options": {"units": "SUVbw"}}
POSITION = "ImagePositionPatient"

REFUSALS = [
    Case(id=name, row=row, make=make, **more)
    for name, row, make, more in (
        ("missing-slice", "gaps", gap(3, says="1 slice(s) missing: gap 6 mm = 2×3 mm"), {}),
        ("missing-slices", "gaps", gap(2, 3, says="2 slice(s) missing: gap 9 mm = 3×3 mm"), {}),
        ("uneven-spacing", "uneven spacing", folder_of(uneven, attribute=POSITION, file="IM", says="3 to 3.4 mm"), {}),
        ("runs-not-chosen", "gaps",
         folder_of(lambda f: Recipe(slices=10, keep=[0, 1, 2, 5, 6, 7, 8]).write(f), says="run 2 of 2"), SPLIT),
        ("no-third-run", "gaps",
         folder_of(lambda f: Recipe(slices=9, keep=[0, 1, 2, 5, 6]).write(f), says="there is no run 3"),
         {"options": {"on_gap": "split", "select": {"run": 3}}}),
        ("no-longest-run", "gaps",
         folder_of(lambda f: Recipe(slices=9, keep=[0, 1, 5, 6]).write(f), says="none is the longest"),
         {"options": {"on_gap": "split", "select": {"run": "longest"}}}),
        ("far-too-many-missing", "gaps",
         folder_of(lambda f: Recipe(slices=60, keep=[0, 1, 59]).write(f), attribute=POSITION, says="57 slice(s)"),
         {"options": {"on_gap": "interpolate"}}),
        ("two-series", "selection", folder_of(two_series, says="2 series fit: (1) MR 7×5×6, 0.7×0.9×3 mm"), {}),
        ("two-patients", "selection", folder_of(lambda f: one_uid(f, patient="PID-2"), says="2 series fit"), {}),
        ("no-series-fits", "selection", folder_of(two_series, says="no series fits (MR 7×5×6"),
         {"options": {"select": {"modality": "CT"}}}),
        ("two-orientations", "localizer",
         folder_of(lambda f: one_uid(f, orientation=CORONAL), says="orientation coronal"), {}),
        ("two-volumes-not-chosen", "several volumes", folder_of(two_volumes, says="EchoTime 4.9"), {}),
        ("same-place-other-uid", "several volumes",
         folder_of(same_place_other_uid, attribute=POSITION, file="twin", says="lie at the same position"), {}),
        ("partial-repeat", "several volumes",
         folder_of(partial_repeat, attribute=POSITION, file="IM", says="lie at the same position"), {}),
        ("same-uid-other-bytes", "duplicates",
         folder_of(same_uid_other_bytes, attribute="SOPInstanceUID", file="twin", says="other contents"), {}),
        ("other-rows", "mixed sizes",
         one(lambda ds: put_pixels(ds, np.ones((6, 7))), attribute="Rows", says="but 6 in"), {}),
        ("other-columns", "mixed sizes",
         one(lambda ds: put_pixels(ds, np.ones((5, 8))), attribute="Columns", says="but 8 in"), {}),
        ("other-spacing", "mixed sizes", having("PixelSpacing", ["0.95", "0.7"], "but 0.95\\0.7 in"), {}),
        ("other-photometric", "mixed sizes", having("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME2"), {}),
        ("other-units", "mixed sizes", having("Units", "CNTS", "but CNTS in", modality="PT"), {}),
        ("other-rescale-type", "mixed sizes",
         having("RescaleType", "US", "but US in", modality="CT", slope=1.0, intercept=0.0), {}),
        ("other-class", "mixed sizes",
         one(lambda ds: setattr(ds, "SOPClassUID", UID("1.2.840.10008.5.1.4.1.1.2")), attribute="SOPClassUID",
             says="CT Image Storage in"), {}),
        ("rescale-lost", "rescale",
         one(lambda ds: [ds.pop("RescaleSlope"), ds.pop("RescaleIntercept")], attribute="RescaleSlope",
             says="absent in", modality="CT", slope=1.0, intercept=-1024.0), {}),
        ("slope-lost", "rescale",
         one(lambda ds: delattr(ds, "RescaleSlope"), attribute="RescaleSlope", says="is missing beside",
             modality="CT", slope=2.0, intercept=-1024.0), {}),
        ("intercept-lost", "rescale",
         one(lambda ds: delattr(ds, "RescaleIntercept"), attribute="RescaleIntercept", says="is missing beside",
             modality="CT", slope=1.0, intercept=-1024.0), {}),
        ("enhanced-intercept-lost", "rescale",
         folder_of(enhanced(lambda ds: delattr(
             ds.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0], "RescaleIntercept")),
                   attribute="RescaleIntercept", file="enhanced"), {}),
        ("slightly-turned-slice", "localizer",
         one(lambda ds: setattr(ds, "ImageOrientationPatient", list(map(ds_text, oblique(3, 0, 0)))),
             attribute="ImageOrientationPatient", says="turned by 3°"), {}),
        ("beside-the-line", "place",
         one(lambda ds: ds.ImagePositionPatient.__setitem__(0, -18), attribute=POSITION, says="beside the line"), {}),
        ("no-position", "missing attributes", without("ImagePositionPatient"), {}),
        ("no-orientation", "missing attributes", without("ImageOrientationPatient"), {}),
        ("no-pixel-spacing", "missing attributes", without("PixelSpacing"), {}),
        ("no-rows", "missing attributes", without("Rows"), {}),
        ("no-bits-stored", "missing attributes", without("BitsStored"), {}),
        ("no-pixel-representation", "missing attributes", without("PixelRepresentation"), {}),
        ("no-samples", "missing attributes", without("SamplesPerPixel"), {}),
        ("no-photometric", "missing attributes", without("PhotometricInterpretation"), {}),
        ("no-bits-allocated", "missing attributes", without("BitsAllocated"), {}),
        ("no-series-uid", "missing attributes", without("SeriesInstanceUID"), {}),
        ("no-study-uid", "missing attributes", without("StudyInstanceUID"), {}),
        ("no-instance-uid", "missing attributes", without("SOPInstanceUID"), {}),
        ("no-sop-class", "missing attributes", without("SOPClassUID"), {}),
        ("no-pixels", "missing attributes", without("PixelData"), {}),
        ("zero-spacing", "impossible values", having("PixelSpacing", ["0", "0.7"], "is 0\\0.7"), {}),
        ("two-coordinates", "impossible values", having(POSITION, ["0", "0"], "has 2 values instead of 3"), {}),
        ("skew-orientation", "impossible values",
         having("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], "perpendicular"), {}),
        ("words-for-a-position", "impossible values", text_of(POSITION, b"left\\right\\up", "is not a number"), {}),
        ("nan-position", "impossible values", text_of(POSITION, b"nan\\0\\0", "is not a finite number"), {}),
        ("zero-slope", "impossible values", having("RescaleSlope", "0", "is 0", slope=1.0, intercept=0.0), {}),
        ("bits-stored", "impossible values", having("BitsStored", 40, "is 40"), {}),
        ("two-samples", "impossible values", having("SamplesPerPixel", 2, "is 2"), {}),
        ("values-over-bits-stored", "impossible values", one(bits, attribute="BitsStored", says="= 6 bits"), {}),
        ("truncated-pixels", "truncated", bytes_of(lambda b: b[:-20], attribute="PixelData", says="50 of 70"), {}),
        ("truncated-header", "truncated", bytes_of(lambda b: b[:700]), {}),
        ("truncated-meta", "truncated", bytes_of(lambda b: b[:300]), {}),
        ("truncated-preamble", "truncated", bytes_of(lambda b: b[:100], says="nothing but zeros"), {}),
        ("truncated-deflate", "truncated", bytes_of(lambda b: b[:-200], says="deflated", syntax=DEFLATED), {}),
        ("zero-bytes", "truncated", blank(b""), {}),
        ("only-zeros", "truncated", blank(bytes(3000)), {}),
        ("no-dicm", "truncated",
         bytes_of(lambda b: b[:129] + b"X" + b[130:], says="DICM mark is damaged"), {}),
        ("dicm-displaced", "truncated", bytes_of(lambda b: b[40:], says="not at byte 128", slices=3), {}),
        ("dicm-displaced-by-text", "truncated", bytes_of(lambda b: b"HTTP/1.1 200 OK\r\n\r\n" + b,
         says="not at byte 128", slices=3), {}),
        ("first-block-zeroed", "truncated", bytes_of(lambda b: bytes(512) + b[512:], slices=3), {}),
        ("bytes-after-the-pixels", "truncated", bytes_of(lambda b: b + b"\x17\x03\x01", says="bytes follow PixelData"),
         {}),
        ("fewer-rows-than-pixels", "truncated", having("Rows", 4, "PixelData has 70 bytes"), {}),
        ("more-rows-than-pixels", "bombs", having("Rows", 60000, "PixelData has 70 bytes"), {}),
        ("huge-codestream", "bombs",
         one(lambda ds: encapsulated(ds, J2K, codestream(60000, 50000)), attribute="Rows", says="60000×50000"), {}),
        ("garbage-codestream", "transfer syntax",
         one(lambda ds: encapsulated(ds, J2K, codestream(5, 7)), attribute="PixelData", says="JPEG 2000"), {}),
        ("video-syntax", "transfer syntax",
         one(lambda ds: encapsulated(ds, MPEG, bytes(64)), says="cannot be decoded by any package"), {}),
        ("mosaic", "mosaic", having("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "dcm2niix"), {}),
        ("frames-without-groups", "enhanced", folder_of(multi_frame, attribute="NumberOfFrames", file="mf"), {}),
        ("enhanced-group-lost", "enhanced",
         folder_of(enhanced(lambda ds: ds.PerFrameFunctionalGroupsSequence.pop()),
                   attribute="PerFrameFunctionalGroupsSequence", file="enhanced", says="5 items for 6 frames"), {}),
        ("enhanced-frame-without-place", "enhanced",
         folder_of(enhanced(lambda ds: ds.PerFrameFunctionalGroupsSequence[2].pop("PlanePositionSequence")),
                   attribute=POSITION, file="enhanced frame 3", says="is missing"), {}),
        ("suv-no-weight", "PET", pet("PatientWeight"), SUV),
        ("suv-no-dose", "PET", pet("RadionuclideTotalDose"), SUV),
        ("suv-no-half-life", "PET", pet("RadionuclideHalfLife"), SUV),
        ("suv-no-injection-time", "PET", pet("RadiopharmaceuticalStartTime"), SUV),
        ("suv-not-attenuation-corrected", "PET", pet("CorrectedImage", ["DECY"], says="does not contain ATTN"), SUV),
        ("suv-of-counts", "PET", pet("Units", "CNTS", says="is CNTS, not BQML"), SUV),
        ("suv-no-decay-correction", "PET", pet("DecayCorrection", "NONE", says="is NONE"), SUV),
        ("wrong-unit", "units", folder_of(lambda f: Recipe().write(f), attribute="RescaleType", file="IM"),
         {"options": {"units": "HU"}}),
        ("window-on-mr", "units", folder_of(lambda f: Recipe().write(f), file="IM", says="display window"),
         {"options": {"voi": True}}),
        ("cine-as-one-volume", "cine", folder_of(cine, attribute="NumberOfFrames", file="cine"), {}),
        ("one-slice", "few slices", folder_of(lambda f: Recipe(keep=[2]).write(f), file="IM", says="only 1 slice"), {}),
        ("empty-folder", "messy folder", folder_of(lambda f: None, says="the folder is empty"), {}),
        ("only-junk", "messy folder", folder_of(lambda f: (f / "a").write_text("x"), says="1 × not DICOM"), {}),
    )
]  # fmt: skip

"""Writes small valid DICOM series whose voxels encode their own place, so that array and affine are judged together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, generate_uid

CT, MR, PT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
CR, DX, SC = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7"
ENHANCED_MR, SEG = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
CLASSES = {"CT": CT, "MR": MR, "PT": PT, "CR": CR, "DX": DX}
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"

NAME, PATIENT, ACCESSION = "DOE^JANE", "PID-SENTINEL-7", "ACC-SENTINEL-9"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)

Edit = Callable[[Dataset, int], object]


def oblique(*degrees: float) -> tuple[float, ...]:
    """Return the axial plane turned about x, y and z."""
    x, y, z = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turned = rz @ ry @ rx
    return (*turned[:, 0], *turned[:, 1])


def ds_text(value: float) -> str:
    """Write a decimal string of at most 16 characters."""
    return f"{value:.12g}" if len(f"{value:.12g}") <= 16 else f"{value:.8g}"


@dataclasses.dataclass(kw_only=True)
class Recipe:
    """A regular series. The value of voxel (i, j, k) is 1 + i + columns·(j + rows·k), after rescaling."""

    columns: int = 7
    rows: int = 5
    slices: int = 6
    spacing: tuple[float, float] = (0.9, 0.7)
    """Between rows, between columns."""
    step: float = 3.0
    orientation: Sequence[float] = AXIAL
    origin: tuple[float, float, float] = (-20.0, -31.0, 42.0)
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to every step, LPS mm."""
    modality: str = "MR"
    slope: float | Sequence[float] | None = None
    intercept: float | Sequence[float] | None = None
    signed: bool = False
    allocated: int = 16
    stored: int | None = None
    syntax: str = EXPLICIT
    keep: Iterable[int] | None = None
    """Indices of the slices that are written."""
    seed: int = 0
    prefix: str = ""
    suffix: str = ""
    edit: Edit | None = None
    study: str = dataclasses.field(default_factory=generate_uid)
    series: str = dataclasses.field(default_factory=generate_uid)
    patient: str = PATIENT
    offset: int = 0
    """Added to every value."""

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def advance(self) -> np.ndarray:
        """The way from one slice to the next, LPS mm."""
        return self.normal * self.step + np.array(self.tilt)

    @property
    def affine_lps(self) -> np.ndarray:
        affine = np.eye(4)
        affine[:3, 0] = np.array(self.orientation[:3]) * self.spacing[1]
        affine[:3, 1] = np.array(self.orientation[3:]) * self.spacing[0]
        affine[:3, 2] = self.advance
        affine[:3, 3] = self.origin
        return affine

    def position(self, k: float) -> np.ndarray:
        return np.array(self.origin) + k * self.advance

    def values(self, k: int) -> np.ndarray:
        """Return the modality values ``[rows, columns]`` of slice k."""
        j, i = np.mgrid[: self.rows, : self.columns]
        return 1 + self.offset + i + self.columns * (j + self.rows * k)

    def rescale(self, k: int) -> tuple[float, float]:
        slope = self.slope[k] if isinstance(self.slope, Sequence) else self.slope
        intercept = self.intercept[k] if isinstance(self.intercept, Sequence) else self.intercept
        return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)

    def write(self, folder: Path) -> Recipe:
        """Write the series into a folder under shuffled names with shuffled InstanceNumbers."""
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(self.slices) if self.keep is None else self.keep:
            dataset = self.dataset(k, number=self._number(k) + 1)
            if self.edit is not None:
                self.edit(dataset, k)
            save(dataset, folder / self.name(k))
        return self

    def _number(self, k: int) -> int:
        return int(np.random.default_rng(self.seed).permutation(self.slices)[k])

    def name(self, k: int) -> str:
        """Return the name of the file that holds slice k."""
        return f"{self.prefix}IM{self._number(k):04d}{self.suffix}"

    def dataset(self, k: int, number: int = 1) -> Dataset:
        """Return slice k."""
        slope, intercept = self.rescale(k)
        stored = np.round((self.values(k) - intercept) / slope)
        dataset = instance(CLASSES[self.modality], self.syntax, self.study, self.series, self.patient)
        dataset.Modality = self.modality
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber = number
        dataset.FrameOfReferenceUID = self.study[:60] + ".1"
        dataset.ImagePositionPatient = [ds_text(v) for v in self.position(k)]
        dataset.ImageOrientationPatient = [ds_text(v) for v in self.orientation]
        dataset.PixelSpacing = [ds_text(v) for v in self.spacing]
        dataset.SliceThickness = ds_text(self.step)
        if self.slope is not None:
            dataset.RescaleSlope = ds_text(slope)
            dataset.RescaleIntercept = ds_text(intercept)
            dataset.RescaleType = "HU" if self.modality == "CT" else "US"
        put_pixels(dataset, stored, self.allocated, self.stored or self.allocated, self.signed)
        return dataset


def instance(sop_class: str, syntax: str, study: str, series: str, patient: str = PATIENT) -> Dataset:
    """Return a data set with the identifying attributes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = NAME, patient, ACCESSION
    dataset.PatientBirthDate, dataset.PatientSex, dataset.ReferringPhysicianName = "19700101", "O", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200102", "101112", "1"
    dataset.SeriesNumber, dataset.Manufacturer = 1, "synthetic"
    return dataset


def put_pixels(
    ds: Dataset,
    values: np.ndarray,
    allocated: int = 16,
    stored: int = 16,
    signed: bool = False,
    colour: bool = False,
) -> None:
    """Set the image pixels from ``[rows, columns]``, ``[frames, rows, columns]`` or colour ``[rows, columns, 3]``."""
    ds.Rows, ds.Columns = values.shape[:2] if colour else values.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    if values.ndim == 3 and not colour:
        ds.NumberOfFrames = values.shape[0]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1
    ds.PixelRepresentation = int(signed)
    order = ">" if ds.file_meta.TransferSyntaxUID == BIG else "<"
    raw = values.astype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    data = raw.tobytes() + b"\0" * (raw.nbytes % 2)
    if allocated == 8 and order == ">":  # bytes in OW are swapped in pairs
        data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
    ds.PixelData = data
    ds["PixelData"].VR = "OB" if allocated == 8 and order == "<" else "OW"


def save(dataset: Dataset, path: Path) -> None:
    """Write a data set in the transfer syntax of its file meta."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax in (RLE, JPEG_LS, JPEG_2000) and not dataset["PixelData"].is_undefined_length:
        dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        dataset.compress(UID(syntax), generate_instance_uid=False)
    if syntax == JPEG_LOSSLESS and not dataset["PixelData"].is_undefined_length:
        dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        dataset.save_as(path, enforce_file_format=True)
        _recode(path)
        return
    dataset.save_as(path, enforce_file_format=True)


def _recode(path: Path) -> None:
    """Compress a file's pixels as JPEG lossless, which pydicom cannot write."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    assert reader.Read()
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def misplacement(array: np.ndarray, affine: np.ndarray, recipe: Recipe) -> float:
    """Return the largest distance in mm between where a voxel is said to be and where its value says it is.

    Also checks that every voxel of the recipe is there, once.
    """
    codes = np.rint(array).astype(int) - 1 - recipe.offset
    assert np.array_equal(np.sort(codes.ravel()), np.arange(recipe.columns * recipe.rows * recipe.slices))
    assert np.abs(array - np.rint(array)).max() < 1e-3
    i, j, k = codes % recipe.columns, codes // recipe.columns % recipe.rows, codes // (recipe.columns * recipe.rows)
    true = recipe.affine_lps @ np.stack([i.ravel(), j.ravel(), k.ravel(), np.ones(codes.size)])
    true[:2] *= -1
    said = affine @ np.concatenate([np.indices(array.shape).reshape(3, -1), np.ones((1, codes.size))])
    return float(np.linalg.norm((true - said)[:3], axis=0).max())


def write_enhanced(folder: Path, recipe: Recipe, order: Sequence[int], edit: Edit | None = None) -> Path:
    """Write a recipe as one enhanced MR file with frames in the given order."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = instance(ENHANCED_MR, recipe.syntax, recipe.study, recipe.series)
    dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "NONE"]
    dataset.InstanceNumber = 1
    frames = []
    for k in order:
        slope, intercept = recipe.rescale(k)
        frames.append(np.round((recipe.values(k) - intercept) / slope))
    put_pixels(dataset, np.stack(frames))
    dataset.SharedFunctionalGroupsSequence = Items([_shared(recipe)])
    dataset.PerFrameFunctionalGroupsSequence = Items([_per_frame(recipe, k) for k in order])
    if edit is not None:
        edit(dataset, 0)
    path = folder / "enhanced"
    save(dataset, path)
    return path


def item(**attributes: object) -> Dataset:
    """Return a sequence item."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def _shared(recipe: Recipe) -> Dataset:
    spacing = [ds_text(v) for v in recipe.spacing]
    orientation = [ds_text(v) for v in recipe.orientation]
    return item(
        PixelMeasuresSequence=Items([item(PixelSpacing=spacing, SliceThickness=ds_text(recipe.step))]),
        PlaneOrientationSequence=Items([item(ImageOrientationPatient=orientation)]),
    )


def _per_frame(recipe: Recipe, k: int) -> Dataset:
    slope, intercept = recipe.rescale(k)
    position = [ds_text(v) for v in recipe.position(k)]
    transform = item(RescaleSlope=ds_text(slope), RescaleIntercept=ds_text(intercept), RescaleType="US")
    return item(
        PlanePositionSequence=Items([item(ImagePositionPatient=position)]),
        PixelValueTransformationSequence=Items([transform]),
        FrameContentSequence=Items([item(FrameAcquisitionNumber=1)]),
    )


@dataclasses.dataclass(kw_only=True)
class Frame:
    """One stored frame of a segmentation: its mask ``[rows, columns]`` and its plane."""

    mask: np.ndarray
    position: Sequence[float]
    orientation: Sequence[float] = AXIAL
    spacing: tuple[float, float] = (0.9, 0.7)
    segment: int = 1


def frames_of(labels: np.ndarray, recipe: Recipe, *, flip: str = "") -> list[Frame]:
    """Cut labels ``[i, j, k]`` on a recipe's grid into frames, empty ones left out.

    ``flip``: ``i`` and ``j`` turn the frame's axes round, ``t`` exchanges them; the place stays the same.
    """
    frames = []
    for k in range(labels.shape[2]):
        for segment in range(1, int(labels.max()) + 1):
            mask = (labels[:, :, k] == segment).T
            if not mask.any():
                continue
            right, down = np.array(recipe.orientation[:3]), np.array(recipe.orientation[3:])
            spacing, origin = recipe.spacing, recipe.position(k)
            if "i" in flip:
                mask, origin, right = mask[:, ::-1], origin + right * spacing[1] * (recipe.columns - 1), -right
            if "j" in flip:
                mask, origin, down = mask[::-1], origin + down * spacing[0] * (recipe.rows - 1), -down
            if "t" in flip:
                mask, right, down, spacing = mask.T, down, right, spacing[::-1]
            frames.append(
                Frame(mask=mask, position=origin, orientation=(*right, *down), spacing=spacing, segment=segment)
            )
    return frames


def write_seg(
    path: Path,
    frames: Sequence[Frame],
    recipe: Recipe,
    *,
    kind: str = "BINARY",
    names: Sequence[str] = ("left part", "right part"),
    edit: Edit | None = None,
) -> Path:
    """Write frames as a DICOM SEG. FRACTIONAL masks hold 0 … 1; LABELMAP masks hold segment numbers."""
    dataset = instance(LABELMAP if kind == "LABELMAP" else SEG, EXPLICIT, recipe.study, generate_uid())
    dataset.Modality, dataset.ImageType, dataset.InstanceNumber = "SEG", ["DERIVED", "PRIMARY"], 1
    dataset.SegmentationType = kind
    if kind == "FRACTIONAL":
        dataset.SegmentationFractionalType, dataset.MaximumFractionalValue = "PROBABILITY", 200
    dataset.SegmentSequence = Items([item(SegmentNumber=n, SegmentLabel=s) for n, s in enumerate(names, 1)])
    dataset.ReferencedSeriesSequence = Items([item(SeriesInstanceUID=recipe.series)])
    dataset.SharedFunctionalGroupsSequence = Items([Dataset()])
    dataset.PerFrameFunctionalGroupsSequence = Items([_seg_groups(frame, kind) for frame in frames])
    masks = np.stack([frame.mask for frame in frames])
    if kind == "BINARY":
        put_pixels(dataset, masks.astype(np.uint8), 8, 8)
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.HighBit = 0
        packed = np.packbits(masks.ravel().astype(bool), bitorder="little").tobytes()
        dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    else:
        put_pixels(dataset, masks * 200 if kind == "FRACTIONAL" else masks, 8, 8)
    if edit is not None:
        edit(dataset, 0)
    save(dataset, path)
    return path


def _seg_groups(frame: Frame, kind: str) -> Dataset:
    group = item(
        PlanePositionSequence=Items([item(ImagePositionPatient=[ds_text(v) for v in frame.position])]),
        PlaneOrientationSequence=Items([item(ImageOrientationPatient=[ds_text(v) for v in frame.orientation])]),
        PixelMeasuresSequence=Items([item(PixelSpacing=[ds_text(v) for v in frame.spacing])]),
    )
    if kind != "LABELMAP":
        group.SegmentIdentificationSequence = Items([item(ReferencedSegmentNumber=frame.segment)])
    return group

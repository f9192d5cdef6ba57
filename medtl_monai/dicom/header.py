"""What is kept of one DICOM file's header: plain values, small, picklable; pixels stay in the file."""

from __future__ import annotations

import dataclasses

Vector = tuple[float, float, float]

SPLITTERS = (
    "AcquisitionNumber",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "DiffusionBValue",
    "ImageType",
    "ImageComments",
    "AcquisitionTime",
    "ContentTime",
)
"""Attributes that may tell apart images at one position, in the order in which they are tried."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plane:
    """One slice: where it lies, how its stored values are scaled, what tells it from others at its place.

    Attributes:
        position: ImagePositionPatient, LPS millimetres, or None.
        orientation: ImageOrientationPatient (row direction, then column direction), or None.
        spacing: PixelSpacing (between rows, between columns) in millimetres, or None.
        thickness: SliceThickness in millimetres, or None.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        rescale_type: RescaleType; empty where absent.
        rescaled: Whether slope and intercept were in the file.
        splits: Values of :data:`SPLITTERS`.
    """

    position: Vector | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    rescale_type: str = ""
    rescaled: bool = False
    splits: tuple[str, ...] = ("",) * len(SPLITTERS)


@dataclasses.dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of a file are stored; equal for all slices of a volume.

    Attributes:
        rows: Rows.
        columns: Columns.
        samples: SamplesPerPixel.
        photometric: PhotometricInterpretation.
        allocated: BitsAllocated.
        stored: BitsStored.
        high_bit: HighBit.
        signed: PixelRepresentation is 1.
        planar: PlanarConfiguration.
    """

    rows: int
    columns: int
    samples: int = 1
    photometric: str = "MONOCHROME2"
    allocated: int = 16
    stored: int = 16
    high_bit: int = 15
    signed: bool = False
    planar: int = 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame (rounded up for single-bit pixels)."""
        return (self.rows * self.columns * self.samples * self.allocated + 7) // 8


@dataclasses.dataclass(frozen=True, slots=True)
class PixelData:
    """Where the pixels are inside the file.

    Attributes:
        syntax: TransferSyntaxUID.
        offset: First byte of the value, in the (inflated) file.
        length: Length of the value in bytes; -1 for undefined length (encapsulated).
        little_endian: Byte order.
        element: Keyword of the element: PixelData, FloatPixelData or DoubleFloatPixelData.
    """

    syntax: str
    offset: int
    length: int
    little_endian: bool = True
    element: str = "PixelData"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One image file.

    Attributes:
        path: File, relative to the root of the scan, with forward slashes.
        patient_id: PatientID.
        issuer: IssuerOfPatientID.
        study_uid: StudyInstanceUID.
        accession_number: AccessionNumber.
        series_uid: SeriesInstanceUID.
        instance_uid: SOPInstanceUID.
        sop_class: SOPClassUID.
        modality: Modality.
        image_type: ImageType.
        description: SeriesDescription (may hold anything a technician typed).
        frames: NumberOfFrames.
        format: How pixels are stored.
        pixels: Where they are.
        planes: One entry a frame, or a single one that holds for all.
        enhanced: Whether the planes come from functional groups.
        padding: PixelPaddingValue and PixelPaddingRangeLimit as stored integers (equal when there is no range).
        lut: Whether the Modality LUT is a table.
        units: Units (PET).
        overlay_bits: Whether overlays are embedded in unused high bits.
        colour_table: Whether there is a palette.
        laterality: ImageLaterality.
        view: ViewPosition.
        frame_of_reference: FrameOfReferenceUID.
    """

    path: str
    patient_id: str = dataclasses.field(default="", repr=False)
    issuer: str = dataclasses.field(default="", repr=False)
    study_uid: str = dataclasses.field(default="", repr=False)
    accession_number: str = dataclasses.field(default="", repr=False)
    series_uid: str = dataclasses.field(default="", repr=False)
    instance_uid: str = dataclasses.field(default="", repr=False)
    sop_class: str = ""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    description: str = dataclasses.field(default="", repr=False)
    frames: int = 1
    format: PixelFormat
    pixels: PixelData
    planes: tuple[Plane, ...]
    enhanced: bool = False
    padding: tuple[int, int] | None = None
    lut: bool = False
    units: str = ""
    overlay_bits: bool = False
    laterality: str = ""
    view: str = ""
    frame_of_reference: str = dataclasses.field(default="", repr=False)

    def plane(self, frame: int) -> Plane:
        """Return the plane of frame ``frame`` (counted from 0)."""
        return self.planes[frame] if len(self.planes) > 1 else self.planes[0]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHeader:
    """One file that holds no image of its own: a segmentation, a structure set, a report.

    Attributes:
        path: File, relative to the root of the scan.
        patient_id: PatientID.
        issuer: IssuerOfPatientID.
        study_uid: StudyInstanceUID.
        accession_number: AccessionNumber.
        series_uid: SeriesInstanceUID.
        instance_uid: SOPInstanceUID.
        sop_class: SOPClassUID.
        modality: Modality.
        references: SeriesInstanceUIDs the object refers to.
    """

    path: str
    patient_id: str = dataclasses.field(default="", repr=False)
    issuer: str = dataclasses.field(default="", repr=False)
    study_uid: str = dataclasses.field(default="", repr=False)
    accession_number: str = dataclasses.field(default="", repr=False)
    series_uid: str = dataclasses.field(default="", repr=False)
    instance_uid: str = dataclasses.field(default="", repr=False)
    sop_class: str = ""
    modality: str = ""
    references: tuple[str, ...] = dataclasses.field(default=(), repr=False)

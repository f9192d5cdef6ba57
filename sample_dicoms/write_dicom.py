"""Write a volume as one CT or MR series and its mask as a DICOM SEG, byte for byte the same at every run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from phantom import Grid, Modality
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

# Below pydicom's root, which it lends to its users; numbered, not random, so that every run gives the same UIDs.
UID_ROOT = "1.2.826.0.1.3680043.8.498.2611"
IMPLEMENTATION = "MEDTL_SAMPLES"
TIME = "120000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Who and when: everything a study's headers say besides the image."""

    case: int
    patient: int
    study_date: str
    age: int
    sex: str
    site: str

    @property
    def patient_id(self) -> str:
        """PatientID."""
        return f"SYN{self.patient:03d}"

    @property
    def accession_number(self) -> str:
        """AccessionNumber; leading zeros keep readers honest about keys being strings."""
        return f"00{self.case:03d}"

    def uid(self, *parts: int) -> str:
        """Return a UID of this study, numbered by ``parts``."""
        return ".".join(map(str, (UID_ROOT, self.case, *parts)))


def write_series(
    folder: Path,
    who: Identity,
    *,
    volume: NDArray[np.int16],
    modality: Modality,
    grid: Grid,
    names: list[str],
    numbers: list[int],
) -> list[Dataset]:
    """Write one file a slice.

    Args:
        folder: Made if absent.
        who: The study.
        volume: ``[slices, rows, columns]`` in HU (CT) or signal (MR).
        modality: CT or MR.
        grid: Where the voxels lie.
        names: File name of each slice.
        numbers: InstanceNumber of each slice.

    Returns:
        The datasets in the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    datasets = []
    for k, (name, number) in enumerate(zip(names, numbers, strict=True)):
        ds = _study_header(who)
        _image_header(ds, who, modality, grid, k=k, number=number)
        stored = volume[k].astype(np.int32) + (1024 if modality == "CT" else 0)
        ds.PixelData = stored.astype("<i2").tobytes()
        _save(ds, folder / name)
        datasets.append(ds)
    return datasets


def write_seg(path: Path, who: Identity, images: list[Dataset], mask: NDArray[np.bool_]) -> None:
    """Write ``mask`` (``[slices, rows, columns]``, on the grid of ``images``) as a BINARY SEG with one segment."""
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    seg = hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=who.uid(4),
        series_number=4,
        sop_instance_uid=who.uid(4, 1),
        instance_number=1,
        manufacturer="SYNTHETIC",
        manufacturer_model_name="PHANTOM",
        software_versions="1",
        device_serial_number="1",
        content_label="LESION",
        content_creator_name="SYNTHETIC^MAKER",
        series_description="Lesion",
    )
    _fix_moments(seg, who, mask.any(axis=(1, 2)))
    _save(seg, path)


def _study_header(who: Identity) -> Dataset:
    ds = Dataset()
    ds.StudyDate = who.study_date
    ds.StudyTime = TIME
    ds.AccessionNumber = who.accession_number
    ds.Manufacturer = "SYNTHETIC"
    ds.InstitutionName = f"SITE {who.site}"
    ds.ReferringPhysicianName = ""
    ds.PatientName = f"SYNTHETIC^{who.patient:03d}"
    ds.PatientID = who.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = who.sex
    ds.PatientAge = f"{who.age:03d}Y"
    ds.StudyInstanceUID = who.uid(1)
    ds.SeriesInstanceUID = who.uid(2)
    ds.StudyID = str(who.case)
    ds.SeriesNumber = 2
    ds.FrameOfReferenceUID = who.uid(3)
    ds.PositionReferenceIndicator = ""
    return ds


def _image_header(ds: Dataset, who: Identity, modality: Modality, grid: Grid, *, k: int, number: int) -> None:
    ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    ds.SOPInstanceUID = who.uid(2, k + 1)
    ds.Modality = modality
    ds.BodyPartExamined = "ABDOMEN"
    ds.PatientPosition = "HFS"
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = number
    ds.SliceThickness = _decimal(grid.spacing[0])
    ds.ImagePositionPatient = [_decimal(v) for v in grid.position(k)]
    ds.ImageOrientationPatient = [_decimal(v) for v in (*grid.row_cosine, *grid.column_cosine)]
    ds.PixelSpacing = [_decimal(v) for v in grid.spacing[1:]]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    (_ct_header if modality == "CT" else _mr_header)(ds)


def _ct_header(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP = "120"
    ds.RescaleIntercept = "-1024"
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    ds.WindowCenter = "80"
    ds.WindowWidth = "500"


def _mr_header(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence = "SE"
    ds.SequenceVariant = "NONE"
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime = "500"
    ds.EchoTime = "12"
    ds.EchoTrainLength = "1"


def _fix_moments(seg: Dataset, who: Identity, present: NDArray[np.bool_]) -> None:
    """Overwrite what highdicom takes from the clock and the random generator."""
    for keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        if keyword in seg:
            setattr(seg, keyword, who.study_date)
    for keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        if keyword in seg:
            setattr(seg, keyword, TIME)
    organisation = who.uid(5)
    for item in seg.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = organisation
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = organisation
    for keyword in ("ContributingEquipmentSequence",):
        if keyword in seg:
            delattr(seg, keyword)
    if len(seg.PerFrameFunctionalGroupsSequence) != int(present.sum()):
        raise RuntimeError("the SEG does not hold one frame for each slice with a lesion")


def _decimal(value: float) -> str:
    """Return a DICOM decimal string: five places, no trailing zeros, no negative zero."""
    return f"{round(float(value), 5) + 0.0:.5f}".rstrip("0").rstrip(".")


def _save(ds: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Given, because pydicom would otherwise write its own version into every file.
    meta.ImplementationClassUID = f"{UID_ROOT}.0"
    meta.ImplementationVersionName = IMPLEMENTATION
    ds.file_meta = meta
    ds.preamble = b"\0" * 128
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)

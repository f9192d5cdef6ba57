"""Writes a synthetic CT series with the headers of a clinical scanner: about 150 elements, private ones among them.

The image is an ellipse of tissue in air with noise, so that compressors have something ordinary to do. Everything is
the same at every run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpegls": "1.2.840.10008.1.2.4.80",
    "j2k": "1.2.840.10008.1.2.4.90",
}
_UID = "1.2.826.0.1.3680043.8.498."
_SPACING = 0.703125
_STEP = 1.25
_ORIGIN = (-180.0, -175.5, -310.25)
_TEXTS = {
    "StudyDate": "20250101", "SeriesDate": "20250101", "AcquisitionDate": "20250101", "ContentDate": "20250101",
    "StudyTime": "101112.000", "SeriesTime": "101210.500", "AcquisitionTime": "101211.250", "ContentTime": "101213.0",
    "AccessionNumber": "A1", "Manufacturer": "synthetic", "InstitutionName": "none", "ReferringPhysicianName": "none",
    "StationName": "CT1", "StudyDescription": "CT chest", "SeriesDescription": "thin axial", "OperatorsName": "none",
    "ManufacturerModelName": "benchmark", "PatientName": "synthetic", "PatientID": "P1", "PatientBirthDate": "19700101",
    "PatientSex": "O", "PatientAge": "055Y", "PatientWeight": "70", "BodyPartExamined": "CHEST",
    "ScanOptions": "HELICAL MODE", "KVP": "120", "DataCollectionDiameter": "500", "SoftwareVersions": "1.0",
    "ProtocolName": "chest", "ReconstructionDiameter": "360", "DistanceSourceToDetector": "949.075",
    "DistanceSourceToPatient": "541", "GantryDetectorTilt": "0", "TableHeight": "151.5", "RotationDirection": "CW",
    "ExposureTime": "500", "XRayTubeCurrent": "300", "Exposure": "150", "FilterType": "BODY", "GeneratorPower": "36000",
    "FocalSpots": "1.2", "ConvolutionKernel": "STANDARD", "PatientPosition": "FFS", "StudyID": "1", "SeriesNumber": "2",
    "AcquisitionNumber": "1", "PositionReferenceIndicator": "SN", "PatientOrientation": "", "WindowCenter": "40",
    "WindowWidth": "400", "RescaleIntercept": "-1024", "RescaleSlope": "1", "RescaleType": "HU",
    "PerformedProcedureStepStartDate": "20250101", "PerformedProcedureStepStartTime": "101112",
    "PerformedProcedureStepID": "1", "PerformedProcedureStepDescription": "CT chest",
    "DateOfLastCalibration": "20241231", "TimeOfLastCalibration": "060000", "DeviceSerialNumber": "1",
    "AdditionalPatientHistory": "none",
    "ContrastBolusAgent": "none", "ContrastBolusRoute": "IV", "ContrastBolusVolume": "80", "ImageComments": "",
    "RequestingPhysician": "none", "RequestedProcedureDescription": "CT chest", "RequestedProcedureID": "1",
    "TableFeedPerRotation": "39.37", "SpiralPitchFactor": "0.984375", "SingleCollimationWidth": "0.625",
    "TotalCollimationWidth": "40", "TableSpeed": "78.75", "RevolutionTime": "0.5", "CTDIvol": "8.5",
    "ExposureModulationType": "ANGULAR", "IssuerOfPatientID": "", "EthnicGroup": "", "Occupation": "",
    "PatientComments": "", "LossyImageCompression": "00", "BurnedInAnnotation": "NO", "TimezoneOffsetFromUTC": "+0000",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtSeries:
    """What is written.

    Attributes:
        size: Rows and columns.
        slices: Number of files.
        syntax: A key of :data:`SYNTAXES`.
        bits: BitsStored: 16 (signed) or 12 (unsigned).
    """

    size: int = 512
    slices: int = 128
    syntax: str = "explicit"
    bits: int = 16

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel ``[i, j, k]`` to RAS millimetres."""
        spacing = _SPACING * 512 / self.size
        affine = np.diag([-spacing, -spacing, _STEP, 1.0])
        affine[:3, 3] = -_ORIGIN[0], -_ORIGIN[1], _ORIGIN[2]
        return affine

    def truth(self) -> NDArray[np.int16]:
        """Return the values in HU, ``[i, j, k]``, a view of the stored order."""
        return np.stack([self._hu(k) for k in range(self.slices)]).T

    def _hu(self, k: int) -> NDArray[np.int16]:
        j, i = np.mgrid[-1 : 1 : self.size * 1j, -1 : 1 : self.size * 1j]
        wide = 0.8 + 0.1 * np.sin(k / self.slices * np.pi)
        body = (i / wide) ** 2 + (j / 0.6) ** 2 < 1
        lung = ((np.abs(i) - 0.35) / 0.25) ** 2 + (j / 0.4) ** 2 < 1
        values = np.where(body, np.where(lung, -850, 40), -1000) + 60 * np.sin(7 * i + 5 * j + k / 9) * body
        noise = np.random.default_rng(k).normal(0, 12, values.shape)
        return np.clip(np.rint(values + noise), -1024, 3071).astype(np.int16)

    def write(self, folder: Path) -> None:
        """Write the series; file names and InstanceNumber are in the order of the slices, which suits every reader."""
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(self.slices):
            dataset = self._dataset(k)
            if self.syntax not in ("explicit", "implicit"):
                dataset.compress(UID(SYNTAXES[self.syntax]), generate_instance_uid=False)
            dataset.save_as(folder / f"IM{k + 1:04d}.dcm", enforce_file_format=True)

    def _dataset(self, k: int) -> Dataset:
        ds = Dataset()
        for keyword, text in _TEXTS.items():
            number = dictionary_VR(keyword) == "FD"
            setattr(ds, keyword, float(text) if number else text)
        ds.file_meta = FileMetaDataset()
        plain = self.syntax if self.syntax in ("explicit", "implicit") else "explicit"
        ds.file_meta.TransferSyntaxUID = UID(SYNTAXES[plain])
        ds.ImageType, ds.Modality, ds.SOPClassUID = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", CTImageStorage
        ds.SOPInstanceUID, ds.InstanceNumber = f"{_UID}3.{k + 1}", k + 1
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{_UID}1", f"{_UID}2", f"{_UID}4"
        position = (_ORIGIN[0], _ORIGIN[1], _ORIGIN[2] + k * _STEP)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = list(position), [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.SliceLocation = [_SPACING * 512 / self.size] * 2, _STEP, position[2]
        ds.SpacingBetweenSlices = _STEP
        _add_sequences(ds)
        _add_private(ds, k)
        ds.Rows = ds.Columns = self.size
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, self.bits, self.bits - 1
        ds.PixelRepresentation = int(self.bits == 16)
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 0, 4095
        ds.PixelData = (self._hu(k) + 1024).astype("<i2").tobytes()
        ds["PixelData"].VR = "OW"
        return ds


def _add_sequences(ds: Dataset) -> None:
    for keyword in ("ProcedureCodeSequence", "RequestAttributesSequence", "ReferencedStudySequence"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "synthetic"
        setattr(ds, keyword, Sequence([item]))
    references = [Dataset() for _ in range(2)]
    for number, item in enumerate(references):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, f"{_UID}5.{number + 1}"
    ds.ReferencedImageSequence = Sequence(references)


def _add_private(ds: Dataset, k: int) -> None:
    """Add four private blocks of twelve elements, as scanners do: numbers, texts, and some binary."""
    for group in (0x0009, 0x0019, 0x0027, 0x0045):
        block = ds.private_block(group, "SYNTHETIC 01", create=True)
        for offset in range(4):
            block.add_new(offset, "DS", f"{k * 0.5 + offset:.4f}")
            block.add_new(offset + 16, "SL", k + offset)
            block.add_new(offset + 32, "LO", f"value {offset}")
        block.add_new(0x40, "OB", bytes(range(256)))

"""A series, or the part of one that makes a single volume, and the index of a tree of studies."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from medtl_monai.dicom.archive import remove
from medtl_monai.dicom.header import Header, ObjectHeader
from medtl_monai.errors import DicomError


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """One frame of one file."""

    header: Header
    frame: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One candidate volume: a whole series, or one part of it (an echo, an orientation, one radiograph).

    Attributes:
        root: Folder that file names are relative to.
        patient_id: PatientID.
        issuer_of_patient_id: IssuerOfPatientID.
        study_instance_uid: StudyInstanceUID.
        accession_number: AccessionNumber.
        series_instance_uid: SeriesInstanceUID.
        modality: Modality.
        description: SeriesDescription; free text, may hold names.
        shape: Size (columns, rows, slices), which is the volume's ``[i, j, k]``.
        spacing_mm: Voxel size along i, j, k; None where it is unknown or the series has a problem.
        slices: The frames, in order along the slice normal where that is known. In a series of a large or remembered
            tree they are fetched from the index when they are looked at; the first one always is there.
        part: What tells this part from others of the same series, such as ``"EchoTime 20"``; empty for a whole series.
        volumetric: Whether the images are slices of a volume; False for radiographs, ultrasound, photographs.
        localizer: Whether the images are localizers (scouts).
        derived: Whether the images are derived secondary images or projections.
        problem: Why it cannot be read, as far as headers tell; raised by ``read_volume``.
        gap: Missing or uneven slices, as an error that names them; raised by ``read_volume`` unless ``on_gap`` says
            what to do about them.
        notes: What was left out or is unusual, without identifiers or file names.
    """

    root: Path = dataclasses.field(repr=False)
    patient_id: str = dataclasses.field(default="", repr=False)
    issuer_of_patient_id: str = dataclasses.field(default="", repr=False)
    study_instance_uid: str = dataclasses.field(default="", repr=False)
    accession_number: str = dataclasses.field(default="", repr=False)
    series_instance_uid: str = dataclasses.field(default="", repr=False)
    modality: str = ""
    description: str = dataclasses.field(default="", repr=False)
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing_mm: tuple[float, float, float] | None = None
    slices: Sequence[Slice] = dataclasses.field(default=(), repr=False)
    part: str = ""
    volumetric: bool = True
    localizer: bool = False
    derived: bool = False
    problem: DicomError | None = None
    gap: DicomError | None = None
    notes: tuple[str, ...] = ()

    @property
    def first_file(self) -> str:
        """The first of its files."""
        return self.slices[0].header.path

    @property
    def file_count(self) -> int:
        """Number of its files; of single-frame files without fetching them."""
        return len(self.slices) if self.slices[0].header.frames == 1 else len(self.files)

    @property
    def files(self) -> tuple[str, ...]:
        """Its files, relative to ``root``, each once, in order of first use."""
        return tuple(dict.fromkeys(item.header.path for item in self.slices))

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Issuer, patient, study and series: what a series is identified by."""
        return (self.issuer_of_patient_id, self.patient_id, self.study_instance_uid, self.series_instance_uid)

    def summary(self) -> str:
        """Describe the series in one line without identifiers: modality, size, spacing, part."""
        size = "×".join(map(str, self.shape))
        spacing = "×".join(f"{s:.4g}" for s in self.spacing_mm) + " mm" if self.spacing_mm else "spacing unknown"
        marks = [self.part, "localizer" * self.localizer, "derived" * self.derived]
        extra = "".join(f", {mark}" for mark in marks if mark)
        return f"{self.modality or 'no modality'} {size}, {spacing}{extra}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A segmentation, structure set or report found beside the images.

    Attributes:
        root: Folder that the file name is relative to.
        header: Its identifiers and the series it refers to.
    """

    root: Path = dataclasses.field(repr=False)
    header: ObjectHeader

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.header.path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The series and segmentations that share patient and study.

    Attributes:
        patient_id: PatientID.
        issuer_of_patient_id: IssuerOfPatientID.
        study_instance_uid: StudyInstanceUID.
        accession_number: AccessionNumber.
        series: Its candidate volumes.
        segmentations: Its segmentation objects.
    """

    patient_id: str = dataclasses.field(repr=False)
    issuer_of_patient_id: str = dataclasses.field(repr=False)
    study_instance_uid: str = dataclasses.field(repr=False)
    accession_number: str = dataclasses.field(repr=False)
    series: tuple[Series, ...] = ()
    segmentations: tuple[Reference, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyIndex:
    """What a scan found.

    Attributes:
        root: The scanned folder (the parent, for a single file).
        series: Every candidate volume, by the first file name of its series, parts in their own order.
        segmentations: DICOM SEG objects.
        structure_sets: RTSTRUCT objects.
        skipped_files: Reason → files that are no image, relative to ``root``.
        damaged: Files that are DICOM but cannot be used, each with its error; series that they may belong to
            carry the error as their ``problem``.
        temporary: The folder an archive was unpacked into; :meth:`close` removes it.
    """

    root: Path = dataclasses.field(repr=False)
    series: list[Series]
    segmentations: list[Reference] = dataclasses.field(default_factory=list)
    structure_sets: list[Reference] = dataclasses.field(default_factory=list)
    skipped_files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict, repr=False)
    damaged: Mapping[str, DicomError] = dataclasses.field(default_factory=dict, repr=False)
    temporary: Path | None = dataclasses.field(default=None, repr=False)

    def close(self) -> None:
        """Remove what an archive was unpacked into: its series cannot be read any more. Folders are left alone."""
        if self.temporary is not None:
            remove(self.temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def skipped(self) -> dict[str, int]:
        """Reason → number of files."""
        return {reason: len(files) for reason, files in self.skipped_files.items()}

    @property
    def studies(self) -> list[Study]:
        """The series and segmentations by study, in order of first series."""
        series: dict[tuple[str, str, str], list[Series]] = defaultdict(list)
        segmentations: dict[tuple[str, str, str], list[Reference]] = defaultdict(list)
        accessions: dict[tuple[str, str, str], str] = {}
        for item in self.series:
            series[item.group[:3]].append(item)
            accessions.setdefault(item.group[:3], item.accession_number)
        for seg in self.segmentations:
            key = (seg.header.issuer, seg.header.patient_id, seg.header.study_uid)
            segmentations[key].append(seg)
            accessions.setdefault(key, seg.header.accession_number)
        return [
            Study(
                issuer_of_patient_id=key[0],
                patient_id=key[1],
                study_instance_uid=key[2],
                accession_number=accession,
                series=tuple(series[key]),
                segmentations=tuple(segmentations[key]),
            )
            for key, accession in accessions.items()
        ]

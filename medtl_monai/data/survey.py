"""What a DICOM tree holds, study by study: which series would be each study's image, and why the others would not."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medtl_monai.data.identity import load_key, pseudonym
from medtl_monai.data.inputs import Inputs, StudyImages, choose_inputs
from medtl_monai.data.redaction import Redactor
from medtl_monai.data.scanning import scan_studies
from medtl_monai.dicom import Reference, Series, Study, StudyIndex
from medtl_monai.dicom.select import orientation_name
from medtl_monai.dicom.volume import refusal
from medtl_monai.errors import MedtlError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_USABLE = ("kept", "missing, filled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesLine:
    """One candidate volume of a study.

    Attributes:
        modality: Modality.
        shape: Size (i, j, k).
        spacing_mm: Voxel size; None where unknown.
        plane: axial, coronal, sagittal, or empty.
        part: What tells it from others of its series.
        files: Number of files.
        folder: Where they are, below the root; the file itself for one of several two-dimensional images.
        verdict: ``"kept"``, ``"refused"``, ``"left out"``, or ``"one of several"``.
        reason: Why it is not kept.
        input: The input that it would be, or would be one of several for; empty where a study has one image.
        description: SeriesDescription: free text that may name people.
    """

    modality: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    plane: str
    part: str
    files: int
    folder: str
    verdict: str
    reason: str = ""
    input: str = ""
    description: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyLine:
    """One study.

    Attributes:
        case_id: Pseudonym of the study.
        patient: Pseudonym of the patient.
        series: Its candidate volumes, those that are kept first, in the order of the inputs.
        inputs: Input → ``"kept"``, or what is wrong with it; empty where a study has one image.
        segmentations: Number of DICOM SEG objects.
        structure_sets: Number of RTSTRUCT objects.
        masks: The SEG and RTSTRUCT files that refer to the series that is kept, below the root.
        study: The study itself.
    """

    case_id: str
    patient: str
    series: tuple[SeriesLine, ...]
    segmentations: int
    structure_sets: int = 0
    masks: tuple[str, ...] = ()
    study: Study = dataclasses.field(repr=False)
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def image(self) -> SeriesLine | None:
        """The series that training would read (of several, the first), if it is clear which."""
        clear = all(state in _USABLE for state in self.inputs.values())
        return next((line for line in self.series if line.verdict == "kept"), None) if clear else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What a tree holds.

    Attributes:
        studies: Studies that have images.
        segmentations: Number of DICOM SEG objects.
        structure_sets: Number of RTSTRUCT objects.
        skipped: Reason → number of files that are no image.
        damaged: File and what is wrong with it.
        unpacked: Whether the tree is an archive, in which training finds images but no masks by path.
    """

    studies: tuple[StudyLine, ...]
    segmentations: int
    structure_sets: int
    skipped: dict[str, int]
    damaged: tuple[tuple[str, str], ...]
    unpacked: bool = False


def survey(
    path: Path,
    *,
    inputs: Inputs | None = None,
    skip: Sequence[str] = (),
    redact_paths: bool = False,
    workers: int | None = None,
    remember: bool = True,
) -> Survey:
    """Scan a tree and say what training would make of each study.

    Args:
        path: The data root, or a zip archive.
        inputs: Which series are a study's images.
        skip: Patterns of files to leave out.
        redact_paths: Put pseudonyms in place of file and folder names.
        workers: Processes that parse headers; None takes one a core.
        remember: Whether the next scan need read only what has changed, see
            :func:`medtl_monai.data.scanning.scan_studies`.

    Raises:
        DicomError: ``path`` does not exist, or is an archive that may not be unpacked.
    """
    key = load_key()
    with scan_studies(path, workers=workers, skip=skip, remember=remember) as found:
        return _survey(found, key, inputs or Inputs(), Redactor([path] if redact_paths else (), key=key))


def _survey(index: StudyIndex, key: bytes, inputs: Inputs, redactor: Redactor) -> Survey:
    rest = (key, inputs, redactor)
    contours: dict[tuple[str, str, str], list[Reference]] = defaultdict(list)
    for reference in index.structure_sets:
        contours[_owner(reference)].append(reference)
    return Survey(
        studies=tuple(
            _study(study, contours[(study.issuer_of_patient_id, study.patient_id, study.study_instance_uid)], *rest)
            for study in index.studies
            if study.series
        ),
        segmentations=len(index.segmentations),
        structure_sets=len(index.structure_sets),
        skipped=index.skipped,
        damaged=tuple(
            (redactor.path(name), redactor.text(printable(_said(error, name)))) for name, error in index.damaged.items()
        ),
        unpacked=index.temporary is not None,
    )


def _owner(reference: Reference) -> tuple[str, str, str]:
    return reference.header.issuer, reference.header.patient_id, reference.header.study_uid


def case_rows(found: Survey, *, redact_paths: bool = False) -> list[dict[str, str]]:
    """Return the rows of a labels table: one a study, with the identifiers that join it and tell it apart.

    The column ``mask`` names the SEG or RTSTRUCT file that refers to the study's image, relative to the root, where
    there is exactly one; it stays empty where the tree is an archive. The table holds identifiers; it is the user's own
    working file. Cells that a spreadsheet would run as a formula get an apostrophe in front; the joining
    StudyInstanceUID never needs one.

    Args:
        found: A survey.
        redact_paths: Leave folder and mask out.
    """
    return [_case_row(line, redact_paths, found.unpacked) for line in found.studies]


def _case_row(line: StudyLine, redact_paths: bool, unpacked: bool) -> dict[str, str]:
    image = line.image
    several = f"; {len(line.masks)} segmentations refer to it" if len(line.masks) > 1 else ""
    shown = image or line.series[0]
    spacing = "x".join(f"{s:.4g}" for s in shown.spacing_mm) if image and shown.spacing_mm else ""
    row = {
        "StudyInstanceUID": line.study.study_instance_uid,
        "PatientID": _inert(line.study.patient_id),
        "AccessionNumber": _inert(line.study.accession_number),
        "case_id": line.case_id,
        "modality": _inert(shown.modality),
        "shape": "x".join(map(str, shown.shape)) if image else "",
        "spacing_mm": spacing,
        "folder": _inert(shown.folder),
        "mask": _inert(line.masks[0]) if len(line.masks) == 1 and not unpacked else "",
        "verdict": f"kept{several}" if image else _inert(_problem(line)),
    }
    row |= {f"input {name}": _inert(state) for name, state in line.inputs.items()}
    if redact_paths:
        del row["folder"], row["mask"]
    return row


def _problem(line: StudyLine) -> str:
    why = {series.input: f": {series.reason}" for series in line.series if series.verdict == "refused"}
    wrong = [f"{name}: {state}{why.get(name, '')}" for name, state in line.inputs.items() if state not in _USABLE]
    return "; ".join(wrong) or f"{line.series[0].verdict}: {line.series[0].reason}"


def _inert(text: str) -> str:
    """Keep a spreadsheet from running a cell as a formula."""
    return f"'{printable(text)}" if text.startswith(_FORMULA) else printable(text)


def _study(
    study: Study, structure_sets: Sequence[Reference], key: bytes, inputs: Inputs, redactor: Redactor
) -> StudyLine:
    images = choose_inputs(study, inputs)
    judged = [_judge(item, n, images, inputs, redactor) for n, item in enumerate(study.series)]
    states = {}
    if any(item.name for item in inputs.items):
        lines = [line for _, line in judged]
        states = {item.name: _state(n, images, inputs, lines) for n, item in enumerate(inputs.items)}
    # Masks lie on the grid of the first input.
    kept = {
        item.series_instance_uid
        for item, ((place, _), line) in zip(study.series, judged, strict=True)
        if place == 0 and line.verdict == "kept"
    }
    masks = [r.header.path for r in (*study.segmentations, *structure_sets) if kept & set(r.header.references)]
    return StudyLine(
        case_id=pseudonym(key, study.study_instance_uid),
        patient=pseudonym(key, "patient", study.issuer_of_patient_id.strip(), study.patient_id.strip()),
        series=tuple(line for _, line in sorted(judged, key=lambda pair: pair[0])),
        segmentations=len(study.segmentations),
        structure_sets=len(structure_sets),
        masks=tuple(printable(redactor.path(mask)) for mask in masks),
        study=study,
        inputs=states,
    )


def _judge(
    item: Series, place: int, images: StudyImages, inputs: Inputs, redactor: Redactor
) -> tuple[tuple[int, int], SeriesLine]:
    """Return what a series would be, and what orders it: inputs first, best first, then what is left out."""
    wanted = [n for n, choice in enumerate(images.choices) if any(item is other for other in choice.left)]
    if not wanted:
        reasons = {c.name: why for c in images.choices for other, why in c.dropped if other is item}
        reason = "; ".join(f"{name}: {why}" if name else why for name, why in reasons.items())
        return (len(images.choices), place), _series(item, "left out", reason, redactor)
    n = wanted[0]
    choice = images.choices[n]
    names = [images.choices[m].name for m in wanted]
    reason = refusal(item, select=inputs.items[n].rules)
    verdict = "refused" if reason else "kept"
    if not reason and len(wanted) > 1:
        verdict, reason = "one of several", f"it could be {' or '.join(names)}"
    elif not reason and not choice.clear:
        verdict, reason = "one of several", f"{len(choice.left)} series could be {choice.name or 'the image'}"
    rank = next(m for m, other in enumerate(choice.left) if other is item)
    return (n, rank), _series(item, verdict, reason, redactor, " or ".join(names))


def _state(n: int, images: StudyImages, inputs: Inputs, lines: Sequence[SeriesLine]) -> str:
    choice, item = images.choices[n], inputs.items[n]
    if not choice.left:
        return {"fill": "missing, filled", "drop": "missing, the study is left out"}.get(item.missing, "missing")
    if not choice.clear:
        return f"{len(choice.left)} series could be it"
    pairs = [pair[:2] for pair in images.clashes]
    twins = [name for pair in pairs if item.name in pair for name in pair if name != item.name]
    if twins:
        return f"the same series as {' and '.join(twins)}"
    refused = [line for line in lines if line.input == item.name and line.verdict == "refused"]
    return "refused" if refused else "kept"


def _series(item: Series, verdict: str, reason: str, redactor: Redactor, name: str = "") -> SeriesLine:
    return SeriesLine(
        modality=printable(item.modality),
        shape=item.shape,
        spacing_mm=item.spacing_mm,
        plane=orientation_name(item) if item.volumetric and item.problem is None else "",
        part=printable(redactor.text(item.part)),
        files=item.file_count,
        folder=printable(redactor.path(_place(item))),
        verdict=verdict,
        reason=printable(redactor.text(reason)),
        input=name,
        description=printable(redactor.text(item.description)),
    )


def _place(item: Series) -> str:
    """The folder of a series; of a two-dimensional image among others the file: its number alone does not tell."""
    alone = not item.volumetric and "image " in item.part
    return item.first_file if alone else str(PurePosixPath(item.first_file).parent)


def printable(text: str) -> str:
    """Replace control characters: values and file names may hold what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _said(error: MedtlError, name: str) -> str:
    """The error's text without the file's name in front, which stands beside it."""
    where = error.where.removeprefix(name).lstrip(", ")
    return str(type(error)(error.what, where=where, mend=error.mend))

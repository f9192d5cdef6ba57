"""Headers of one series → candidate volumes: drop duplicates, refuse what is not readable, split what is several."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from medtl_monai.dicom import sop, stack
from medtl_monai.dicom.header import SPLITTERS, Header
from medtl_monai.dicom.series import Series, Slice
from medtl_monai.errors import DicomError
from medtl_monai.notices import tell

_PROJECTIONS = frozenset({"PROJECTION IMAGE", "MPR", "MIP", "MIN_IP", "MINIP", "VOLREN", "MAX_IP"})

_CROSSING = np.cos(np.deg2rad(15.0))
"""Cosine of the angle from which on a lone slice is taken to cross a stack on purpose, as a localizer does."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """Slices that belong together, and why."""

    slices: tuple[Slice, ...]
    label: str = ""
    notes: tuple[str, ...] = ()
    problem: DicomError | None = None


def split_series(root: Path, headers: Sequence[Header]) -> list[Series]:
    """Return the candidate volumes of the files of one series.

    Args:
        root: Folder the files' names are relative to.
        headers: All files of the series.
    """
    try:
        parts = _parts(root, headers)
    except DicomError as error:
        parts = [_Part(_slices(headers), problem=error)]
    return [_series(root, part) for part in parts]


def _slices(headers: Iterable[Header]) -> tuple[Slice, ...]:
    return tuple(Slice(header, frame) for header in headers for frame in range(header.frames if header.enhanced else 1))


def _parts(root: Path, headers: Sequence[Header]) -> list[_Part]:
    headers, notes = _unique(root, headers)
    parts = []
    volumetric = [header for header in headers if _is_volumetric(header)]
    for number, header in enumerate(headers, 1):
        if not _is_volumetric(header):
            parts.append(_planar(header, number, len(headers), notes))
    for group in _by_kind(volumetric):
        parts.extend(_volumes(_slices(group), notes))
    return parts


def _by_kind(headers: Sequence[Header]) -> list[list[Header]]:
    """Keep what cannot be stacked together apart: classic and enhanced files."""
    groups: dict[bool, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.enhanced].append(header)
    return list(groups.values())


def _is_volumetric(header: Header) -> bool:
    plane = header.planes[0]
    placed = plane.position is not None and plane.orientation is not None and header.frames == 1
    return header.enhanced or header.modality in sop.VOLUMETRIC or (placed and header.modality not in sop.PROJECTION)


# Duplicates


def _unique(root: Path, headers: Sequence[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """Drop files that repeat an instance byte for byte in their pixels.

    Raises:
        DicomError: Two files share SOPInstanceUID but not their pixels or place.
    """
    first: dict[str, Header] = {}
    dropped = 0
    for header in sorted(headers, key=lambda h: h.path):
        earlier = first.setdefault(header.instance_uid, header)
        if earlier is header:
            continue
        if not same_instance(root, earlier, header):
            raise DicomError(
                f"the file has the SOPInstanceUID of {earlier.path} but other contents",
                where=header.path,
                mend="Remove the wrong one of the two files",
            )
        dropped += 1
        tell(f"{header.path} repeats {earlier.path} and is left out")
    notes = (f"{dropped} duplicate file(s) left out",) if dropped else ()
    return list(first.values()), notes


def same_instance(root: Path, one: Header, other: Header) -> bool:
    """Whether two files with one SOPInstanceUID have the same geometry, format and pixel bytes."""
    if (one.planes, one.format, one.frames, one.pixels.syntax) != (
        other.planes,
        other.format,
        other.frames,
        other.pixels.syntax,
    ):
        return False
    if one.pixels.syntax == sop.DEFLATED:
        return (root / one.path).read_bytes() == (root / other.path).read_bytes()
    return _pixel_bytes(root, one) == _pixel_bytes(root, other)


def _pixel_bytes(root: Path, header: Header) -> bytes:
    with open(root / header.path, "rb") as stream:
        stream.seek(header.pixels.offset)
        return stream.read(header.pixels.length)


# Two-dimensional images


def _planar(header: Header, number: int, siblings: int, notes: tuple[str, ...]) -> _Part:
    words = [header.view, header.laterality]
    label = " ".join(word for word in words if word)
    if siblings > 1:
        # Not the file's name: a part's label is noted in run folders. With zeros, "image 01" is not in "image 10".
        label = f"{label} image {number:0{len(str(siblings))}d}".strip()
    return _Part((Slice(header),), label, notes, _planar_problem(header))


def _planar_problem(header: Header) -> DicomError | None:
    try:
        stack.check_spacing(Slice(header))
    except DicomError as error:
        return error
    return None


# Volumes


def _volumes(slices: tuple[Slice, ...], notes: tuple[str, ...]) -> list[_Part]:
    for item in slices:
        _refuse_unreadable(item.header)
        stack.require_geometry(item)
    groups = _by_orientation(slices)
    groups, dropped = _without_localizers(groups)
    notes += dropped
    parts = []
    for group in groups:
        label = "" if len(groups) == 1 else f"orientation {stack.orientation_name(group[0])}"
        problem = _mixed(group)
        if problem:
            parts.append(_Part(group, label, notes, problem))
        else:
            parts.extend(_split_repeats(_Part(group, label, notes)))
    return parts


def _refuse_unreadable(header: Header) -> None:
    if "MOSAIC" in header.image_type:
        raise DicomError(
            "a mosaic holds many slices in one image",
            where=f"{header.path}, ImageType",
            mend="Convert the series with dcm2niix",
        )
    if header.frames > 1 and not header.enhanced:
        raise DicomError(
            "a multi-frame image without functional groups does not tell where its frames lie",
            where=f"{header.path}, NumberOfFrames",
            mend="Export the series as single-frame or enhanced images",
        )


def _by_orientation(slices: tuple[Slice, ...]) -> list[tuple[Slice, ...]]:
    groups: list[list[Slice]] = []
    for item in slices:
        mine = np.array(stack.plane_of(item).orientation)
        for group in groups:
            if np.abs(np.array(stack.plane_of(group[0]).orientation) - mine).max() <= stack.DIRECTION_TOLERANCE:
                group.append(item)
                break
        else:
            groups.append([item])
    return [tuple(group) for group in groups]


def _without_localizers(groups: list[tuple[Slice, ...]]) -> tuple[list[tuple[Slice, ...]], tuple[str, ...]]:
    """Drop localizer images and lone slices of another orientation where one real stack remains."""
    stacks = [tuple(item for item in group if not _is_localizer(item.header)) for group in groups]
    large = [group for group in stacks if len(group) > 1]
    if len(large) != 1 and not (large and any(_is_localizer(i.header) for g in groups for i in g)):
        return groups, ()
    kept = {id(item) for group in large for item in group}
    lost = [item for group in groups for item in group if id(item) not in kept]
    for item in lost:
        _refuse_nearly_parallel(item, large)
        tell(f"{stack.name_of(item)} is a localizer or lies across the other slices and is left out")
    return large, (f"{len(lost)} localizer or crossing slice(s) left out",) if lost else ()


def _refuse_nearly_parallel(item: Slice, groups: Sequence[tuple[Slice, ...]]) -> None:
    """Check that a slice that is left out for its orientation is no slice of the stack that is off by a little."""
    mine = stack.normal(stack.plane_of(item).orientation or ())
    for group in groups:
        cosine = abs(float(mine @ stack.normal(stack.plane_of(group[0]).orientation or ())))
        if not _is_localizer(item.header) and cosine > _CROSSING:
            raise DicomError(
                f"the slice is turned by {np.rad2deg(np.arccos(min(cosine, 1.0))):.2g}° against those of "
                f"{stack.name_of(group[0])}",
                where=f"{stack.name_of(item)}, ImageOrientationPatient",
                mend="Export the images of one acquisition, or remove those that do not belong",
            )


def _is_localizer(header: Header) -> bool:
    return "LOCALIZER" in header.image_type


_SAME: tuple[tuple[str, Callable[[Slice], object]], ...] = (
    ("SOPClassUID", lambda item: sop.uid_name(item.header.sop_class)),
    ("Rows", lambda item: item.header.format.rows),
    ("Columns", lambda item: item.header.format.columns),
    ("SamplesPerPixel", lambda item: item.header.format.samples),
    ("PhotometricInterpretation", lambda item: item.header.format.photometric),
    ("Modality", lambda item: item.header.modality),
    ("Units", lambda item: item.header.units),
    ("RescaleType", lambda item: stack.plane_of(item).rescale_type),
    ("RescaleSlope", lambda item: "present" if stack.plane_of(item).rescaled else "absent"),
    ("ModalityLUTSequence", lambda item: "present" if item.header.lut else "absent"),
)


def _mixed(group: Sequence[Slice]) -> DicomError | None:
    """Describe the first attribute that must agree between the slices of a volume and does not."""
    for keyword, value_of in _SAME:
        values = [value_of(item) for item in group]
        if len(set(values)) > 1:
            return _mixed_error(keyword, group, values)
    spacings = np.array([stack.plane_of(item).spacing for item in group])
    if (np.abs(spacings - spacings[0]) > 1e-3 * spacings[0]).any():
        shown = [f"{row[0]:.5g}\\{row[1]:.5g}" for row in spacings]
        return _mixed_error("PixelSpacing", group, shown)
    return None


def _mixed_error(keyword: str, group: Sequence[Slice], values: Sequence[object]) -> DicomError:
    common = Counter(values).most_common(1)[0][0]
    usual = values.index(common)
    odd = next(i for i, value in enumerate(values) if value != common)
    return DicomError(
        f"{keyword} is {common} in {stack.name_of(group[usual])} but {values[odd]} in {stack.name_of(group[odd])}",
        where=keyword,
        mend="Export the images of one acquisition, or remove those that do not belong",
    )


# Several images at one position


def _split_repeats(part: _Part) -> list[_Part]:
    """Split by the first attribute that makes groups with equal positions, again and again."""
    places = _places(part.slices)
    if len(set(places)) == len(places):
        return [part]
    for index, keyword in enumerate(SPLITTERS):
        groups: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(part.slices):
            groups[stack.plane_of(item).splits[index]].append(number)
        wanted = Counter(places)
        shares = [Counter(places[n] for n in numbers) for numbers in groups.values()]
        if len(groups) > 1 and all(share == shares[0] for share in shares) and set(shares[0]) == set(wanted):
            return [
                again
                for value, numbers in sorted(groups.items(), key=lambda entry: _natural(entry[0]))
                for again in _split_repeats(_narrow(part, numbers, keyword, value))
            ]
    return [dataclasses.replace(part, problem=_repeat_error(part.slices, places))]


def _narrow(part: _Part, numbers: Sequence[int], keyword: str, value: str) -> _Part:
    # Comments and times may identify a patient; which group it is does not need their text.
    shown = value or "absent"
    label = f"{keyword} {shown}" if keyword not in ("ImageComments", "AcquisitionTime", "ContentTime") else keyword
    slices = tuple(part.slices[n] for n in numbers)
    return dataclasses.replace(part, slices=slices, label=f"{part.label}, {label}".strip(", "))


def _natural(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _places(slices: Sequence[Slice]) -> list[int]:
    """Number the distinct positions along the normal and return every slice's number."""
    along = stack.distances(slices)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order], prepend=along[order[0]])
    numbers = np.empty(len(slices), np.int64)
    numbers[order] = np.cumsum(steps > stack.POSITION_TOLERANCE)
    return [int(n) for n in numbers]


def _repeat_error(slices: Sequence[Slice], places: Sequence[int]) -> DicomError:
    place = Counter(places).most_common(1)[0][0]
    pair = [item for item, p in zip(slices, places, strict=True) if p == place][:2]
    return DicomError(
        f"{stack.name_of(pair[0])} and {stack.name_of(pair[1])} lie at the same position, and no attribute tells "
        "complete volumes apart",
        where="ImagePositionPatient",
        mend="Export the acquisitions of this series apart, or remove the repeated images",
    )


# The result


def _series(root: Path, part: _Part) -> Series:
    first = part.slices[0].header
    problem = part.problem
    shape = (first.format.columns, first.format.rows, len(part.slices))
    spacing: tuple[float, float, float] | None = None
    slices, notes, gap = part.slices, part.notes, None
    if problem is None:
        try:
            shape, spacing, slices, gap = _measure(part)
        except DicomError as error:
            problem = error
    return Series(
        root=root,
        patient_id=first.patient_id,
        issuer_of_patient_id=first.issuer,
        study_instance_uid=first.study_uid,
        accession_number=first.accession_number,
        series_instance_uid=first.series_uid,
        modality=first.modality,
        description=first.description,
        shape=shape,
        spacing_mm=spacing,
        slices=slices,
        part=part.label,
        localizer=all(_is_localizer(item.header) for item in part.slices),
        volumetric=_is_volumetric(first),
        derived=all(_is_derived(item.header) for item in part.slices),
        problem=problem,
        gap=gap,
        notes=notes,
    )


_Measured = tuple[tuple[int, int, int], tuple[float, float, float] | None, tuple[Slice, ...], DicomError | None]
"""Shape, spacing, slices in order, and what is missing between them."""


def _measure(part: _Part) -> _Measured:
    first = part.slices[0]
    form = first.header.format
    if not _is_volumetric(first.header):
        spacing = stack.plane_of(first).spacing
        size = (spacing[1], spacing[0], 1.0) if spacing else None
        return (form.columns, form.rows, 1), size, part.slices, None
    if len(part.slices) == 1 and not stack.plane_of(first).thickness:
        return (form.columns, form.rows, 1), None, part.slices, None
    built = stack.build_stack(part.slices)
    i, j, k = np.linalg.norm(built.affine[:3, :3], axis=0)
    return (form.columns, form.rows, len(part.slices)), (float(i), float(j), float(k)), built.slices, built.gap


def _is_derived(header: Header) -> bool:
    kind = header.image_type
    return kind[:2] == ("DERIVED", "SECONDARY") or bool(_PROJECTIONS & set(kind))

"""A second opinion: the volume that files hold, from pydicom's own decoding and geometry computed afresh.

It shares no code with what it judges. It is lenient where the reader is strict: what it returns is what the bytes say,
if they say anything at all.
"""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydicom
from cases_catalogue import Expected
from pydicom.pixels import apply_color_lut, apply_modality_lut

_DISPLAY = ("CR", "DX", "MG", "XA", "RF", "IO", "PX", "US", "OT", "ES", "XC", "DG", "GM", "OP", "BI")


def judge_bytes(files: Mapping[str, bytes]) -> list[Expected]:
    """Return the volumes that may be read from files: every series, and every frame of a 2D file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups: dict[tuple[str, ...], list[Any]] = defaultdict(list)
        for _, data in sorted(files.items()):
            dataset = _read(data)
            if dataset is not None:
                groups[_identity(dataset)].append(dataset)
        found = []
        for group in sorted(groups.values(), key=len, reverse=True):
            found += _volumes(group)
        return found


def _read(data: bytes) -> Any:
    for force in (False, True):
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=force)
            if "SOPInstanceUID" in dataset and any("PixelData" in e for e in dataset.dir()):
                if "TransferSyntaxUID" not in dataset.file_meta:
                    implicit, little = dataset.original_encoding
                    plain = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
                    dataset.file_meta.TransferSyntaxUID = plain if little else "1.2.840.10008.1.2.2"
                return dataset
        except Exception:  # whatever damaged bytes provoke
            continue
    return None


def _identity(dataset: Any) -> tuple[str, ...]:
    keywords = ("IssuerOfPatientID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    try:
        return tuple(str(dataset.get(keyword, "") or "") for keyword in keywords)
    except Exception:
        return ("unreadable",)


def _volumes(group: list[Any]) -> list[Expected]:
    try:
        unique = {str(dataset.SOPInstanceUID): dataset for dataset in group}
        frames = [frame for dataset in unique.values() for frame in _frames(dataset)]
        placed = all(frame[1] is not None for frame in frames)
        return [_stacked(frames)] if placed else [_flat(frame) for frame in frames]
    except Exception:  # whatever damaged bytes provoke
        return []


def _frames(dataset: Any) -> list[tuple[np.ndarray, Any, Any, Any, float]]:
    """Values ``[rows, columns]`` or ``[rows, columns, 3]``, position, orientation, spacing, thickness of each frame."""
    pixels = dataset.pixel_array
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    pixels = pixels[None] if (count == 1 and pixels.shape[0] != 1) or pixels.ndim == 2 else pixels
    found = []
    for number in range(count):
        values = np.asarray(pixels[number])
        if "PerFrameFunctionalGroupsSequence" in dataset and len(dataset.PerFrameFunctionalGroupsSequence):
            own = dataset.PerFrameFunctionalGroupsSequence[number]
            shared = (dataset.get("SharedFunctionalGroupsSequence") or [own])[0]
            at = _group(own, shared, "PlanePositionSequence")
            turned = _group(own, shared, "PlaneOrientationSequence")
            measures = _group(own, shared, "PixelMeasuresSequence")
            scaled = _group(own, shared, "PixelValueTransformationSequence")
        else:
            at = turned = measures = scaled = dataset
        if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and dataset.get("Modality") in _DISPLAY:
            top = ((1 << int(dataset.BitsStored)) - 1) if int(dataset.PixelRepresentation) == 0 else -1
            values = top - values.astype(np.int64)
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
        padding = dataset.get("PixelPaddingValue")
        hidden = values == padding if padding is not None and dataset.get("Modality") == "CT" else None
        if values.ndim == 2:
            values = apply_modality_lut(values, scaled) if scaled is not None else values
        if hidden is not None:
            values = np.where(hidden, -1024, values)
        spacing = (measures or {}).get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
        spacing = spacing or dataset.get("NominalScannedPixelSpacing")
        place = (at or {}).get("ImagePositionPatient"), (turned or {}).get("ImageOrientationPatient")
        if dataset.get("Modality") not in ("CT", "MR", "PT"):
            place = (None, place[1])
        found.append((values, *place, spacing, (measures or {}).get("SliceThickness")))
    return found


def _group(own: Any, shared: Any, name: str) -> Any:
    for source in (own, shared):
        if name in source and len(source[name].value):
            return source[name].value[0]
    return None


def _affine(position: Any, orientation: Any, spacing: Any, step: np.ndarray) -> np.ndarray:
    rows, columns = np.array(orientation[:3], float), np.array(orientation[3:], float)
    affine = np.eye(4)
    affine[:3, 0] = rows / np.linalg.norm(rows) * float(spacing[1])
    affine[:3, 1] = columns / np.linalg.norm(columns) * float(spacing[0])
    affine[:3, 2], affine[:3, 3] = step, np.array(position, float)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _stacked(frames: list[Any]) -> Expected:
    turned = np.array(frames[0][2], float)
    normal = np.cross(turned[:3], turned[3:])
    normal /= np.linalg.norm(normal)
    frames = sorted(frames, key=lambda frame: float(np.array(frame[1], float) @ normal))
    positions = np.array([frame[1] for frame in frames], float)
    if len(frames) == 1:
        step = normal * float(frames[0][4])
    else:
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        even = positions[0] + np.arange(len(frames))[:, None] * step
        if np.linalg.norm(positions - even, axis=1).max() > 0.02 * np.linalg.norm(step):
            raise ValueError("the slices are no regular stack")
    array = np.stack([_axes(frame[0]) for frame in frames], -1)
    return Expected(array=array, affine=_affine(frames[0][1], frames[0][2], frames[0][3], step))


def _flat(frame: Any) -> Expected:
    values, _, turned, spacing, _ = frame
    turned = turned or (1, 0, 0, 0, 1, 0)
    normal = np.cross(np.array(turned[:3], float), np.array(turned[3:], float))
    step = normal / np.linalg.norm(normal)
    return Expected(array=_axes(values)[..., None], affine=_affine((0, 0, 0), turned, spacing or (1, 1), step))


def _axes(values: np.ndarray) -> np.ndarray:
    """[rows, columns] → [i, j]; colour first."""
    values = np.asarray(values, np.float64)
    return values.T if values.ndim == 2 else values.transpose(2, 1, 0)

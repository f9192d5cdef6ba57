"""Predictions as CSV rows and masks as NIfTI files."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from torch import Tensor

from medtl_monai.dicom.geometry import Volume
from medtl_monai.evaluation.evaluate import Evaluation
from medtl_monai.files import atomic_path, write_text
from medtl_monai.modules import Prediction
from medtl_monai.specs import TargetInfo


def prediction_columns(prediction: Prediction, target: TargetInfo) -> dict[str, str]:
    """Return one case's prediction as CSV cells.

    Classes: ``predicted`` and one probability a class; several classes: 0 or 1 and a probability each; numbers: one
    column each; masks: nothing (they are files). Numbers read back as the same float32, so that metrics computed from
    the table are those of the run, ties included.
    """
    cells: dict[str, str] = {}
    if target.kind == "class" and prediction.classes is not None:
        cells["predicted"] = target.classes[int(prediction.classes[0])]
    if target.kind == "classes" and prediction.classes is not None:
        names = zip(target.classes, prediction.classes[0], strict=True)
        cells |= {f"predicted_{name}": str(int(value)) for name, value in names}
    if target.kind in ("class", "classes") and prediction.probabilities is not None:
        values = zip(target.classes, prediction.probabilities[0], strict=True)
        cells |= {f"probability_{name}": _exact(p) for name, p in values}
    if target.kind == "number" and prediction.values is not None:
        names = zip(target.columns, prediction.values[0], strict=True)
        cells |= {f"predicted_{name}": _exact(v) for name, v in names}
    return cells


def spread_columns(members: Sequence[Prediction], target: TargetInfo) -> dict[str, str]:
    """Return how much the members of an ensemble differ on one case: ``std_NAME``, the standard deviation (n - 1).

    It is of the probability of a class or label, or of a number in the units of the label; nothing for masks, and
    nothing for a single member.
    """
    names = target.columns if target.kind == "number" else target.classes
    own = [m.values if target.kind == "number" else m.probabilities for m in members]
    if len(own) < 2 or target.kind == "mask" or any(values is None for values in own):
        return {}
    stacked = np.stack([values[0].double().numpy() for values in own if values is not None])
    return {f"std_{name}": f"{value:.6g}" for name, value in zip(names, stacked.std(axis=0, ddof=1), strict=True)}


def truth_columns(truth: Tensor | None, target: TargetInfo) -> dict[str, str]:
    """Return one case's label as CSV cells."""
    if truth is None:
        return {}
    if target.kind == "class":
        return {"true": target.classes[int(truth.reshape(-1)[0])]}
    names = target.classes if target.kind == "classes" else target.columns
    values = zip(names, truth.reshape(-1).tolist(), strict=True)
    return {f"true_{name}": "" if math.isnan(v) else _exact(v) for name, v in values}


def evaluation_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return one row a case: case id, CSV row, truth, prediction or scores."""
    rows = []
    for result in evaluation.results:
        scores = {k: "" if math.isnan(v) else f"{v:.6f}" for k, v in result.scores.items()}
        rows.append(
            {
                "case_id": result.case.case_id,
                "row": str(result.case.row or ""),
                **truth_columns(result.target, evaluation.target),
                **prediction_columns(result.prediction, evaluation.target),
                **spread_columns(result.members, evaluation.target),
                **scores,
                **({"fold": str(result.fold)} if result.fold is not None else {}),
            }
        )
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, mode: int | None = None) -> None:
    """Write rows atomically, with the permissions ``mode`` where given; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue(), mode=mode)


def write_mask(path: Path, mask: np.ndarray[Any, np.dtype[np.int16]], volume: Volume) -> None:
    """Write a label mask on the volume's own grid as NIfTI.

    A sheared grid (gantry tilt) has no quaternion form; only the affine form is then written as valid.
    """
    image = nib.Nifti1Image(mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.int16), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    if volume.geometry == "regular":
        image.set_qform(volume.affine, code=1)
    with atomic_path(path) as temporary:
        # No time stamp in the header: equal masks are equal files.
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def structure_sizes(mask: np.ndarray[Any, np.dtype[np.int16]], volume: Volume, names: Iterable[str]) -> dict[str, str]:
    """Return how large each structure is, in what the image allows to say.

    Millilitres (``NAME_ml``) in a volume, square millimetres (``NAME_mm2``) in a single slice, and a count of pixels
    (``NAME_pixels``) where the file does not tell its spacing.
    """
    names = list(names)
    if not volume.spacing_known:
        return {f"{name}_pixels": str(np.count_nonzero(mask == k)) for k, name in enumerate(names, 1)}
    if volume.shape[2] > 1:
        return volumes_ml(mask, volume, names)
    pixel_mm2 = float(np.linalg.norm(np.cross(volume.affine[:3, 0], volume.affine[:3, 1])))
    return {f"{name}_mm2": f"{np.count_nonzero(mask == k) * pixel_mm2:.6g}" for k, name in enumerate(names, 1)}


def volumes_ml(mask: np.ndarray[Any, np.dtype[np.int16]], volume: Volume, names: Iterable[str]) -> dict[str, str]:
    """Return the volume of each structure (the background left out) in millilitres."""
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    return {f"{name}_ml": f"{np.count_nonzero(mask == k) * voxel_ml:.6g}" for k, name in enumerate(names, 1)}


def _exact(value: Any) -> str:
    """Return the shortest text that reads back as the same float32."""
    return str(np.float32(value))

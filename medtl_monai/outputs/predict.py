"""Applying a run to new studies: one row a study, masks on each image's own grid."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtl_monai import __version__
from medtl_monai.data.cases import Case, CaseTable, unlabelled_cases
from medtl_monai.data.inputs import Inputs
from medtl_monai.dicom.geometry import Volume
from medtl_monai.dicom.series import Series
from medtl_monai.errors import DataError, DicomError, MedtlError, RunError
from medtl_monai.evaluation.evaluate import read_image
from medtl_monai.files import translate_os_errors, write_json
from medtl_monai.modules import Prediction
from medtl_monai.outputs.tables import prediction_columns, spread_columns, structure_sizes, write_csv, write_mask
from medtl_monai.specs import TargetInfo
from medtl_monai.training.ensemble import Ensemble, Joint
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.trained import TrainedRun

_SECONDS_BETWEEN_WRITES = 5.0
_SHORTEST_NUMBER = 5


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What prediction wrote.

    Attributes:
        table: The CSV file.
        rows: Its rows.
        refused: Case id and reason of each study that was not predicted; free of file names.
    """

    table: Path
    rows: tuple[dict[str, str], ...]
    refused: dict[str, str]


def predict(
    run: TrainedRun | Ensemble, studies: Path, out: Path, reporter: Reporter, *, id_map: Path | None = None
) -> Predicted:
    """Predict every study below a folder.

    A study that cannot be read or does not fit the run is refused with its reason in the table; the others are
    predicted all the same. What is wrong with the run or the disk ends the prediction; rows so far are kept.

    Args:
        run: The trained run, or several whose predictions are averaged.
        studies: A DICOM tree, a folder of NIfTI files, or a CSV table with a column for each image of a case.
        out: Where ``predictions.csv``, ``predictions.json`` (by which runs, and how) and ``masks/`` go.
        reporter: Who is told.
        id_map: Where to write which case id is which study (a file with identifiers, mode 0600); None writes none.

    Raises:
        RunError: If ``out`` is not empty, ``id_map`` exists, or the head gives no mask for a mask task.
        DataError: If there is nothing to predict.
        StorageError: If something cannot be written.
    """
    _check_free(out, id_map)
    ensemble = run if isinstance(run, Ensemble) else Ensemble([run])
    # The images of new studies are chosen as those of the training studies were.
    cases = unlabelled_cases(studies, ensemble.inputs)
    table = CaseTable(cases=tuple(cases), kind=ensemble.target.kind, inputs=ensemble.inputs)
    with translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / "predictions.json", _made_by(ensemble))
    if id_map is not None:
        # First: should prediction be interrupted, the rows it has written can still be told apart.
        write_csv(id_map, [{"case_id": case.case_id, "source": case.source} for case in cases], mode=0o600)
    rows: list[dict[str, str]] = []
    refused: dict[str, str] = {}
    written = time.monotonic()
    try:
        for n, case in enumerate(cases, 1):
            try:
                cells = _predict_case(ensemble, table, case, out)
            except (DataError, DicomError) as error:
                refused[case.case_id] = _without_names(error, case)
                cells = {"refused": refused[case.case_id]}
                reporter.warn(f"refused {case.source or case.case_id}: {error}")
            rows.append({"case_id": case.case_id, **cells, **_filled(case, ensemble.inputs)})
            reporter.count("predicting", n, len(cases))
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                write_csv(out / "predictions.csv", rows)
                written = time.monotonic()
    finally:
        # However the loop ends: what was predicted stays.
        write_csv(out / "predictions.csv", rows)
    return Predicted(out / "predictions.csv", tuple(rows), refused)


def _check_free(out: Path, id_map: Path | None) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError("the output folder exists and is not empty", where=out.name, mend="Choose another --out")
    if id_map is not None and id_map.exists():
        what = "the id map exists, and it may be the only key to earlier predictions"
        raise RunError(what, where=id_map.name, mend="Choose another --id-map")


def _made_by(ensemble: Ensemble) -> dict[str, Any]:
    """Return what made the predictions: names of run folders, no paths."""
    runs = [{"run": name, "epoch": epoch} for name, epoch in zip(ensemble.names, ensemble.epochs, strict=True)]
    return {"medtl": __version__, "runs": runs, "tta_axes": list(ensemble.runs[0].flips)}


def _predict_case(ensemble: Ensemble, table: CaseTable, case: Case, out: Path) -> dict[str, str]:
    volume, joint = ensemble.predict(lambda run: read_image(run, table, case), case_id=case.case_id)
    target = ensemble.target
    if target.kind != "mask":
        return {**prediction_columns(joint.mean, target), **spread_columns(joint.members, target)}
    if joint.mean.mask is None:
        raise RunError("the head gives no mask", where=ensemble.head, mend="Let its predict return one")
    mask = _labels(joint.mean)
    name = f"{case.case_id}.nii.gz"
    write_mask(out / "masks" / name, mask, volume)
    sizes = structure_sizes(mask, volume, target.classes[1:])
    return {"mask": f"masks/{name}", **sizes, **_size_spread(joint, volume, target)}


def _size_spread(joint: Joint, volume: Volume, target: TargetInfo) -> dict[str, str]:
    """Return how much the members of an ensemble differ in each structure's size: ``std_NAME_ml``."""
    if len(joint.members) < 2:
        return {}
    own = [structure_sizes(_labels(member), volume, target.classes[1:]) for member in joint.members]
    return {f"std_{name}": f"{np.std([float(each[name]) for each in own], ddof=1):.6g}" for name in own[0]}


def _labels(prediction: Prediction) -> NDArray[np.int16]:
    if prediction.mask is None:
        raise TypeError("a mask's prediction without a mask")
    return prediction.mask[0].numpy().astype(np.int16)


def _filled(case: Case, inputs: Inputs) -> dict[str, str]:
    """Return the cell that names images which were missing and filled, for runs whose inputs allow it."""
    if all(item.missing != "fill" for item in inputs.items):
        return {}
    gone = [] if case.problem else [i.name for i, s in zip(inputs.items, case.sources, strict=True) if s is None]
    return {"filled": ";".join(gone)}


def _without_names(error: MedtlError, case: Case) -> str:
    """Return why a study was refused, without its place: file names may hold names and ids of patients."""
    text = str(type(error)(error.what, mend=error.mend))
    for name in sorted(_names(case), key=len, reverse=True):
        # A file called "12" is no identifier, and numbers occur in messages.
        if name and not (name.isdigit() and len(name) < _SHORTEST_NUMBER):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "a file", text)
    return text


def _names(case: Case) -> Sequence[str]:
    paths = [] if isinstance(case.image, Series) else [case.source]
    for source in case.sources:
        paths += source.files if isinstance(source, Series) else [source.name] if source is not None else []
    return [name for path in paths for name in (path, Path(path).name)]

"""Applying a run to new studies: one row a study, masks on each image's own grid."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from medtl_monai.data.cases import Case, CaseTable, unlabelled_cases
from medtl_monai.errors import DataError, MedtlError, RunError
from medtl_monai.files import translate_os_errors
from medtl_monai.outputs.tables import prediction_columns, volumes_ml, write_csv, write_mask
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.trained import TrainedRun


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What prediction wrote.

    Attributes:
        table: The CSV file.
        rows: Its rows.
        refused: Case id and reason of each study that was not predicted.
    """

    table: Path
    rows: tuple[dict[str, str], ...]
    refused: dict[str, str]


def predict(run: TrainedRun, studies: Path, out: Path, reporter: Reporter, *, id_map: Path | None = None) -> Predicted:
    """Predict every study below a folder.

    A study that does not fit the run is refused with its reason in the table; the others are predicted all the same.

    Args:
        run: The trained run.
        studies: A DICOM tree or a folder of NIfTI files.
        out: Where ``predictions.csv`` and ``masks/`` go.
        reporter: Who is told.
        id_map: Where to write which case id is which study (a file with identifiers, mode 0600); None writes none.

    Raises:
        RunError: If ``out`` is not empty.
        DataError: If there is nothing to predict.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError("the output folder exists and is not empty", where=out.name, mend="Choose another --out")
    cases = unlabelled_cases(studies)
    if not cases:
        raise DataError(
            "no images were found", where=studies.name, mend="Give a folder of DICOM studies or NIfTI files"
        )
    with translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    table = CaseTable(cases=tuple(cases), kind=run.record.context.target.kind)
    rows: list[dict[str, str]] = []
    refused: dict[str, str] = {}
    for n, case in enumerate(cases, 1):
        try:
            cells = _predict_case(run, table, case, out)
        except MedtlError as error:
            refused[case.case_id] = str(error)
            cells = {"refused": str(error)}
            reporter.warn(f"refused {case.source or case.case_id}: {error}")
        rows.append({"case_id": case.case_id, **cells})
        # Written after each case: what was predicted stays if the next one fails for good.
        write_csv(out / "predictions.csv", rows)
        reporter.count("predicting", n, len(cases))
    if id_map is not None:
        _write_id_map(id_map, cases)
    return Predicted(out / "predictions.csv", tuple(rows), refused)


def _predict_case(run: TrainedRun, table: CaseTable, case: Case, out: Path) -> dict[str, str]:
    volume = table.read_volume(case, on_gap=run.preprocessing.on_gap)
    prediction = run.predict(volume, case_id=case.case_id)
    target = run.record.context.target
    if target.kind != "mask" or prediction.mask is None:
        return prediction_columns(prediction, target)
    mask = prediction.mask[0].numpy().astype(np.int16)
    name = f"{case.case_id}.nii.gz"
    write_mask(out / "masks" / name, mask, volume)
    return {"mask": f"masks/{name}", **volumes_ml(mask, volume, target.classes[1:])}


def _write_id_map(path: Path, cases: list[Case]) -> None:
    write_csv(path, [{"case_id": case.case_id, "source": case.source} for case in cases])
    path.chmod(0o600)

"""Studies of several series on grids of their own, for the tests of inputs as channels."""

from __future__ import annotations

from pathlib import Path

from helpers_dicom import CORONAL, Edit, Items, Recipe, item

RULES = {"T1": {"description": "t1"}, "FLAIR": {"description": "flair"}}
FILL = {**RULES, "FLAIR": {"description": "flair", "missing": "fill"}}
DROP = {**RULES, "FLAIR": {"description": "flair", "missing": "drop"}}
PET_CT = {"CT": {"modality": "CT"}, "PET": {"modality": "PT"}}


def described(text: str, **more: object) -> Edit:
    """Return an edit that sets SeriesDescription and other attributes."""

    def edit(dataset, k):
        dataset.SeriesDescription = text
        for keyword, value in more.items():
            setattr(dataset, keyword, value)

    return edit


def write_study(folder: Path, n: int, *, flair: bool = True, **more: object) -> Recipe:
    """Write a T1 and a FLAIR in another plane, at another spacing, with another field, of one study."""
    first = Recipe(offset=100 * n, edit=described("t1 mprage"), columns=12, rows=12, slices=6, patient=f"P{n}")
    first.write(folder / "t1")
    if flair:
        Recipe(
            study=first.study, patient=first.patient, edit=described("t2 FLAIR", **more), offset=7000,
            columns=14, rows=26, slices=8, orientation=CORONAL, origin=(-22.0, -33.0, 60.0), step=2.0,
        ).write(folder / "flair")  # fmt: skip
    return first


def write_pet_ct(folder: Path, n: int) -> Recipe:
    """Write a CT in Hounsfield units (from -1023) and a coarser PET that convertibly is in Bq/ml."""
    ct = Recipe(
        modality="CT", columns=16, rows=15, slices=8, spacing=(2.0, 2.0), slope=1.0, intercept=-1024.0, patient=f"P{n}",
        offset=-1024 + n,
    ).write(folder / "ct")  # fmt: skip
    Recipe(
        modality="PT", study=ct.study, patient=ct.patient, columns=12, rows=12, slices=10, spacing=(3.0, 3.0),
        slope=0.5, intercept=0.0, offset=n, origin=(-21.0, -32.0, 41.0), edit=_pet,
    ).write(folder / "pet")  # fmt: skip
    return ct


def _pet(dataset, k):
    dataset.Units, dataset.DecayCorrection, dataset.CorrectedImage = "BQML", "START", ["ATTN", "DECY"]
    dataset.PatientWeight, dataset.SeriesDate, dataset.SeriesTime = "74", "20200102", "100000"
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20200102", "100001"
    tracer = item(
        RadionuclideTotalDose="370000000", RadionuclideHalfLife="6586.2", RadiopharmaceuticalStartTime="090000"
    )
    dataset.RadiopharmaceuticalInformationSequence = Items([tracer])

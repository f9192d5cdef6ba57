"""Cases in a cache of their own, and what happened to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers_data import nifti_study, noise, write_csv, write_nifti
from helpers_dicom import Recipe
from pydicom.dataset import Dataset

from medtl_monai.config import AugmentationConfig, CacheConfig, DataConfig, PreprocessingConfig, SelectConfig
from medtl_monai.data.augmentation import augmentation
from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.data.cases import load_cases
from medtl_monai.data.dataset import CaseDataset
from medtl_monai.data.preprocessing import image_info, plan_preprocessing
from medtl_monai.specs import InputSpec

SPEC = InputSpec(spatial_dims=3, divisible_by=(4, 4, 4))


def open_cache(folder: Path, **config: object) -> CaseCache:
    cache, note = CaseCache.open(CacheConfig(folder=folder, **config))
    assert note == ""
    return cache


def classes(folder: Path, *, shape: tuple[int, ...] = (8, 9, 7)) -> Path:
    return nifti_study(folder, [{"y": y} for y in "abab"], shape)


def masks(folder: Path, *, shape: tuple[int, ...] = (24, 20, 22)) -> Path:
    table = nifti_study(folder, [{"y": f"m{n}.nii"} for n in range(3)], shape)
    for n in range(3):
        image = noise(n, shape)
        write_nifti(folder / f"m{n}.nii", (image > 120).astype(np.uint8) + (image > 140))
    return table


def series(folder: Path, count: int = 4) -> Path:
    """Write CT series, and a table that joins them."""

    def fill(ds: Dataset, k: int) -> None:
        values = np.random.default_rng([int(ds.PatientID[1:]), k]).integers(0, 2000, (12, 10))
        ds.PixelData = values.astype("<u2").tobytes()

    recipes = [
        Recipe(modality="CT", slope=1.0, intercept=-1000.0, rows=12, columns=10, slices=6, patient=f"P{n}", seed=n,
               edit=fill).write(folder / f"studies/s{n}")
        for n in range(count)
    ]  # fmt: skip
    rows = [{"StudyInstanceUID": r.study, "y": "ab"[n % 2]} for n, r in enumerate(recipes)]
    return write_csv(folder / "labels.csv", rows)


def dataset(
    labels: Path,
    cache: CaseCache | None,
    kind: str = "class",
    *,
    augment: bool = False,
    spec: InputSpec = SPEC,
    select: dict[str, object] | None = None,
    **config: object,
) -> CaseDataset:
    """Return the data set of a table; ``studies`` beside it are used if they are there."""
    studies = labels.parent / "studies"
    rules = SelectConfig(**(select or {}))
    data = DataConfig(labels=labels, target=["y"], studies=studies if studies.exists() else None, select=rules)
    table = load_cases(data, kind)
    changes = PreprocessingConfig(**config)
    plan = plan_preprocessing(spec, changes, kind, [image_info(table, case, changes) for case in table])
    change = augmentation(AugmentationConfig(), kind, spec.spatial_dims, spacing_mm=plan.spacing_mm)
    return CaseDataset(table, table.ids, plan, augment=change if augment else None, disk=cache)


def ran(data: CaseDataset) -> tuple[int, int]:
    """Prepare all cases; return how many were found and how many made."""
    hits, made = data._disk.hits, data._disk.made
    data.prepare()
    return data._disk.hits - hits, data._disk.made - made

"""Small data sets in the layouts that are read as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers_data import SHAPE, noise, write_nifti

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import load_cases


def mask(n: int, shape=SHAPE) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[2:5, 3:6, 2:5] = 1
    array[2:4, 3 + n % 2 : 6, 2:4] = 2
    return array


def decathlon(root: Path, *, cases: int = 4, tests: int = 2, shape=SHAPE, **changes: object) -> Path:
    """Write a data set as the Decathlon's archives unpack on macOS; ``changes`` replace entries of dataset.json."""
    training, test = [], []
    for n in range(cases + tests):
        folder = "Tr" if n < cases else "Ts"
        name = f"heart_{n:03d}.nii.gz"
        write_nifti(root / f"images{folder}" / name, noise(n, shape))
        (root / f"images{folder}" / f"._{name}").write_bytes(b"\0\5\x16\7 of macOS")
        if n < cases:
            write_nifti(root / "labelsTr" / name, mask(n, shape[:3]))
            training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        else:
            test.append(f"./imagesTs/{name}")
    content = {
        "name": "Heart",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "atrium", "2": "wall"},
        "numTraining": cases,
        "numTest": tests,
        "training": training,
        "test": test,
    }
    return manifest(root, content, changes)


def nnunet(root: Path, *, cases: int = 4, channels: tuple[str, ...] = ("T1",), tests: int = 0, labelled: bool = False,
           ending: str = ".nii.gz", shape=SHAPE, **changes: object) -> Path:  # fmt: skip
    """Write an nnU-Net raw data set of version 2."""
    for n in range(cases + tests):
        folder = "Tr" if n < cases else "Ts"
        for channel in range(len(channels)):
            path = root / f"images{folder}" / f"case_{n:02d}_{channel:04d}{ending}"
            write_nifti(path, noise(10 * n + channel, shape))
        if n < cases or labelled:
            write_nifti(root / f"labels{folder}" / f"case_{n:02d}{ending}", mask(n, shape))
    content = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": {"background": 0, "atrium": 1, "wall": 2},
        "numTraining": cases,
        "file_ending": ending,
    }
    return manifest(root, content, changes)


def manifest(root: Path, content: dict, changes: dict) -> Path:
    """Write dataset.json; a change to None takes the entry out."""
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def class_folders(root: Path, names: tuple[str, ...] = ("a", "b"), *, each: int = 3, first: int = 0) -> Path:
    """Write ``root/CLASS/NUMBER.nii.gz``."""
    for c, name in enumerate(names):
        for n in range(each):
            write_nifti(root / name / f"{n}.nii.gz", noise(first + 100 * c + n))
    return root


def load(root: Path, kind: str = "mask", **config: object):
    """Return the cases of a data set."""
    return load_cases(DataConfig(dataset=root, **config), kind)

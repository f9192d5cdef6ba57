"""Readers of a DICOM series, each used as its own documentation says and asked for float32 ``[i, j, k]`` and an affine.

The conversion to float32, to ``[i, j, k]`` (a view suffices) and to an affine to RAS millimetres is part of each. A
peer's module is imported inside of its function, so that a process pays for one reader only.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Result = tuple[Array, NDArray[np.float64]]
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to read a series.

    Attributes:
        name: How it is called in tables.
        package: The distribution that must be installed, as pip names it.
        module: What it is imported as.
        read: Reads a folder.
        setup: Run once before anything is imported.
    """

    name: str
    package: str
    module: str
    read: Callable[[Path], Result]
    setup: Callable[[], None] = lambda: None

    @property
    def missing(self) -> str:
        """The line that installs it; empty where it is installed."""
        return "" if importlib.util.find_spec(self.module) else f"pip install {self.package}"

    @property
    def version(self) -> str:
        """The installed version."""
        return importlib.metadata.version(self.package)


def _without_itk() -> None:
    """Make ``import itk`` fail, as where it is not installed: MONAI's default reader depends on that."""
    sys.modules["itk"] = None  # type: ignore[assignment]


def _medtl(folder: Path) -> Result:
    from medtl_monai.dicom import read_volume

    volume = read_volume(folder)
    return volume.array, volume.affine


def _load_image(folder: Path) -> Result:
    from monai.transforms import LoadImage

    return _of_meta_tensor(LoadImage()(folder))


def _load_image_pydicom(folder: Path) -> Result:
    from monai.transforms import LoadImage

    return _of_meta_tensor(LoadImage(reader="PydicomReader")(folder))


def _of_meta_tensor(image: Any) -> Result:
    return image.numpy(), image.affine.numpy()


def _pydicom_reader(folder: Path) -> Result:
    from monai.data import PydicomReader

    return _with_reader(PydicomReader(), folder)


def _itk_reader(folder: Path) -> Result:
    from monai.data import ITKReader

    return _with_reader(ITKReader(), folder)


def _with_reader(reader: Any, folder: Path) -> Result:
    array, meta = reader.get_data(reader.read(folder))
    return np.asarray(array, np.float32), np.asarray(meta["affine"], np.float64)


def _simpleitk(folder: Path) -> Result:
    """SimpleITK's documented example for a series, and for a single (multi-frame) file."""
    import SimpleITK

    return _of_simpleitk(SimpleITK.ImageSeriesReader(), folder)


def _simpleitk_float(folder: Path) -> Result:
    """The example, converting to float32 while it reads, which is faster than afterwards."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    return _of_simpleitk(reader, folder)


def _of_simpleitk(reader: Any, folder: Path) -> Result:
    import SimpleITK

    names = reader.GetGDCMSeriesFileNames(str(folder))
    reader.SetFileNames(names)
    image = SimpleITK.ReadImage(names[0]) if len(names) == 1 else reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    _KEPT[:] = [image]
    array = np.asarray(SimpleITK.GetArrayViewFromImage(image), np.float32)
    return array.swapaxes(0, 2), _LPS_TO_RAS @ affine


_KEPT: list[Any] = []
"""The image whose memory a view shows."""


def _highdicom(folder: Path) -> Result:
    """One volume from the data sets of a folder, or from its one multi-frame file."""
    import highdicom
    from pydicom import dcmread

    datasets = [dcmread(path) for path in sorted(folder.iterdir()) if path.is_file()]
    if len(datasets) == 1 and "NumberOfFrames" in datasets[0]:
        volume = highdicom.Image.from_dataset(datasets[0]).get_volume(dtype=np.float32)
    else:
        volume = highdicom.get_volume_from_series(datasets, dtype=np.float32)
    return volume.array.swapaxes(0, 2), _LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]


def _dicom2nifti(folder: Path) -> Result:
    import dicom2nifti

    image = dicom2nifti.dicom_series_to_nifti(str(folder), reorient_nifti=False)["NII"]
    affine = np.asarray(image.affine, np.float64)
    if image.get_data_dtype().names:
        colours = np.asanyarray(image.dataobj)
        return np.stack([colours[name] for name in "RGB"]).astype(np.float32), affine
    return image.get_fdata(dtype=np.float32), affine


OURS = Peer(name="medtl-monai", package="medtl-monai", module="medtl_monai", read=_medtl)
PYDICOM_READER = Peer(name="MONAI PydicomReader", package="monai", module="monai", read=_pydicom_reader)
ITK_READER = Peer(name="MONAI ITKReader", package="itk", module="itk", read=_itk_reader)
SIMPLEITK_FLOAT = Peer(name="SimpleITK", package="SimpleITK", module="SimpleITK", read=_simpleitk_float)
SIMPLEITK = Peer(name="SimpleITK", package="SimpleITK", module="SimpleITK", read=_simpleitk)
HIGHDICOM = Peer(name="highdicom", package="highdicom", module="highdicom", read=_highdicom)
DICOM2NIFTI = Peer(name="dicom2nifti", package="dicom2nifti", module="dicom2nifti", read=_dicom2nifti)
LOAD_IMAGE_ITK = Peer(name="LoadImage(), itk installed", package="itk", module="itk", read=_load_image)
LOAD_IMAGE = Peer(name="LoadImage(), no itk", package="monai", module="monai", read=_load_image, setup=_without_itk)
LOAD_IMAGE_PYDICOM = Peer(
    name='LoadImage(reader="PydicomReader")', package="monai", module="monai", read=_load_image_pydicom
)

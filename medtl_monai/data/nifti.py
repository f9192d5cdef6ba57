"""NIfTI images as volumes: headers judged before voxels are used."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medtl_monai.dicom.geometry import SHEAR_TOLERANCE, Affine, Geometry, Volume, grid_distance, shear, spacing
from medtl_monai.errors import DataError

SUFFIXES = (".nii", ".nii.gz")
"""File name endings of NIfTI images."""


def is_nifti(path: Path) -> bool:
    """Whether the file is named like a NIfTI image."""
    return path.name.lower().endswith(SUFFIXES)


def read_nifti(path: Path, *, where: str = "", channels: int = 1) -> Volume:
    """Read a NIfTI image: scaling applied, voxel-to-RAS affine from the sform, else the qform.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file with two or three spatial axes.
        where: How errors name the file; by default its name.
        channels: How many images lie along the fourth axis; nothing else may have one.

    Returns:
        float32 ``[i, j, k]``, or ``[c, i, j, k]`` for several channels.

    Raises:
        DataError: If the file is absent, damaged, complex or RGB, larger than memory, has another number of channels,
            has no usable affine, or has values that are not finite.
    """
    where = where or path.name
    image, header_shape, affine, notes = _open(path, where, channels)
    with _readable(where):
        array = np.asarray(image.dataobj, dtype=np.float32)
    array = array.reshape(header_shape) if channels == 1 else np.moveaxis(array.reshape(*header_shape, channels), 3, 0)
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        mend = "Replace NaN and infinite values by the background's value"
        raise DataError(f"{bad} of {array.size} voxels are not finite", where=where, mend=mend)
    return Volume(array=array, affine=affine, geometry=_geometry(affine), notes=notes)


def nifti_grid(path: Path, *, where: str = "", channels: int = 1) -> tuple[tuple[int, int, int], Affine]:
    """Return spatial shape and affine from the header alone.

    Raises:
        DataError: As :func:`read_nifti` does for what the header tells.
    """
    _, shape, affine, _ = _open(path, where or path.name, channels)
    return shape, affine


def _open(path: Path, where: str, channels: int) -> tuple[Any, tuple[int, int, int], Affine, tuple[str, ...]]:
    if not path.is_file():
        raise DataError("no such file", where=where, mend="Check the path in the table: it is relative to the table")
    with _readable(where):
        image = nib.load(path)
        if not isinstance(image, (nib.Nifti1Image, nib.Nifti1Pair)):
            raise DataError("the file is not NIfTI", where=where, mend="Convert it to .nii.gz")
        shape = _spatial_shape(_without_channels(image.shape, channels, where), where)
        _check_values(image, where)
        affine, notes = _affine(image, shape, where)
    return image, shape, affine, notes


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, ImageFileError, HeaderDataError, zlib.error) as error:
        # Only the type: texts of these errors may hold absolute paths.
        what = f"the NIfTI file cannot be read ({type(error).__name__})"
        raise DataError(what, where=where, mend="Export it again; it may be cut short") from error


def _without_channels(shape: tuple[int, ...], channels: int, where: str) -> tuple[int, ...]:
    if channels == 1:
        return shape
    if len(shape) < 4 or shape[-1] != channels:
        found = f"{shape[-1]} on its last axis" if len(shape) > 3 else "no fourth axis"
        mend = "Name the channels of the files in data.channels, in their order"
        raise DataError(
            f"{channels} channels are expected, and the image {tuple(shape)} has {found}", where=where, mend=mend
        )
    return shape[:-1]


def _spatial_shape(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    trimmed = list(shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed.pop()
    if len(trimmed) > 3:
        mend = "Split it into three-dimensional files, one a row; if they are channels, name them in data.channels"
        raise DataError(f"the image has {len(trimmed)} dimensions {tuple(shape)}", where=where, mend=mend)
    if len(trimmed) < 2 or min(trimmed) < 1:
        raise DataError(f"the image has shape {tuple(shape)}", where=where, mend="Use two or three spatial axes")
    i, j, k = [*trimmed, 1][:3]
    return int(i), int(j), int(k)


def _check_values(image: Any, where: str) -> None:
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise DataError(f"voxels of type {dtype} are not plain numbers", where=where, mend="Save a scalar image")
    need = 4 * int(np.prod(image.shape, dtype=np.int64))
    free = int(psutil.virtual_memory().available)
    if need > free:
        what = f"the image needs {need / 2**30:.1f} GiB as float32 and {free / 2**30:.1f} GiB are free"
        raise DataError(what, where=where, mend="Crop or down-sample it first")


def _affine(image: Any, shape: tuple[int, int, int], where: str) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine and notes; the sform counts where both forms are set, as nibabel and ITK 5 users expect."""
    sform, s_code = image.get_sform(coded=True)
    qform, q_code = image.get_qform(coded=True)
    if not s_code and not q_code:
        mend = "Export it again with its orientation (sform or qform)"
        raise DataError("the NIfTI header has no usable affine: sform and qform are both unset", where=where, mend=mend)
    affine = np.asarray(sform if s_code else qform, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError("the NIfTI affine is singular or not finite", where=where, mend="Repair its sform or qform")
    notes: tuple[str, ...] = ()
    if s_code and q_code and grid_distance(affine, qform, shape) > 0.1 * min(spacing(affine)):
        notes = ("sform and qform of the NIfTI header disagree; the sform was used",)
    return affine, notes


def _geometry(affine: Affine) -> Geometry:
    return "sheared" if shear(affine) > SHEAR_TOLERANCE else "regular"

"""A MONAI image reader over the strict DICOM code, for anyone's MONAI pipeline.

``LoadImage(reader=...)`` tries its other readers when one fails to ``read``, and says so in a log at most: a folder
that is refused here would silently come back from a reader that accepts it. :class:`MedtlDicomReader` therefore does
its work in ``get_data``, whose errors reach the caller.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader, MetaTensor
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medtl_monai.dicom.archive import is_zip
from medtl_monai.dicom.geometry import Volume, grid_distance
from medtl_monai.dicom.opened import PREAMBLE
from medtl_monai.dicom.select import Rules
from medtl_monai.dicom.volume import OnGap, read_volume
from medtl_monai.errors import DicomError

PathLike = str | os.PathLike[str]

GRID_TOLERANCE_MM = 1e-3
"""Largest distance between equal voxels of series that are stacked as channels."""

# Bare data sets, without preamble, start with an element of group 0002 or 0008 in either byte order.
_BARE = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
_FOREIGN = (
    (0, b"\x1f\x8b"),  # gzip: .nii.gz
    (0, b"NRRD"),
    (0, b"\x93NUMPY"),
    (0, b"\x89PNG"),
    (0, b"\xff\xd8\xff"),  # JPEG
    (0, b"BM"),
    (344, b"n+1\0"),
    (344, b"ni1\0"),
    (4, b"n+2\0"),
    (4, b"ni2\0"),
)
_HEAD_BYTES = 348


@dataclasses.dataclass(frozen=True)
class _Request:
    """Paths that are to be read, one a channel, and how."""

    paths: tuple[Path, ...]
    options: Mapping[str, Any]


class MedtlDicomReader(ImageReader):
    """Reads a folder (or a file) that holds one DICOM series, exactly or not at all.

    The array is float32 ``[i, j, k]`` (``[3, i, j, k]`` for colour), as :func:`medtl_monai.dicom.read_volume` gives it:
    two-dimensional images have one slice. The metadata hold the geometry and what the values are, no identifiers.
    Several paths are stacked as channels and must be on one grid. Files of other formats (NIfTI, NRRD, NumPy, PNG,
    JPEG) are left to the loader's other readers; whatever else fails raises.

    Args:
        select: Rules that narrow a path down to one series, see :class:`medtl_monai.dicom.select.Rules`.
        on_gap: ``"error"``, ``"interpolate"`` or ``"split"``, for series that miss slices.
        units: Unit the values must be in, such as ``"HU"``, or be converted to: ``"SUVbw"``.
        voi: Apply the display window of two-dimensional display images.

    Raises:
        ConfigError: ``select`` is not valid.

    Example:
        >>> from monai.transforms import LoadImage
        >>> load = LoadImage(reader=MedtlDicomReader(select={"modality": "CT"}), ensure_channel_first=True)
        >>> image = load("studies/case1")                            # doctest: +SKIP
    """

    def __init__(
        self,
        select: Mapping[str, Any] | Rules | None = None,
        on_gap: OnGap = "error",
        units: str | None = None,
        voi: bool = False,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"select": Rules.of(select), "on_gap": on_gap, "units": units, "voi": voi}

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether every path is a folder, a zip archive or a DICOM file, judged by content and not by name."""
        return all(path.is_dir() or _is_dicom(path) for path in _paths(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> _Request:
        """Take note of what is to be read; :meth:`get_data` reads it.

        Args:
            data: A path, or several: one a channel.
            kwargs: Options that replace those of the constructor.

        Raises:
            DicomError: A path is a file of another format, so that the loader turns to the reader of that format.
        """
        paths = _paths(data)
        for path in paths:
            if path.is_file() and _is_foreign(path):
                raise DicomError("not a DICOM file", where=path.name, mend="Use the reader of its format")
        return _Request(paths, {**self.options, **kwargs})

    def get_data(self, img: _Request) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Read the volumes.

        Args:
            img: What :meth:`read` returned.

        Returns:
            The array, and its metadata: ``affine``, ``original_affine`` (RAS millimetres), ``spatial_shape``,
            ``space``, ``original_channel_dim``, ``modality``, ``unit``, ``geometry``, ``spacing_known``, ``notes``.

        Raises:
            DicomError: Whatever would make the volume wrong, or several paths that are not on one grid.
            ConfigError: An option is not valid.
        """
        volumes = [read_volume(path, **img.options) for path in img.paths]
        for path, volume in zip(img.paths[1:], volumes[1:], strict=True):
            _refuse_other_grid(volumes[0], volume, path.name)
        if len(volumes) == 1:
            channels_first = volumes[0].array.ndim == 4
            return volumes[0].array, _metadata(volumes, channels_first)
        arrays = [v.array if v.array.ndim == 4 else v.array[None] for v in volumes]
        return np.concatenate(arrays), _metadata(volumes, True)


def load_image(
    path: PathLike,
    *,
    select: Mapping[str, Any] | Rules | None = None,
    on_gap: OnGap = "error",
    units: str | None = None,
    voi: bool = False,
) -> MetaTensor:
    """Read one series as a MetaTensor, channel first, with no path in its metadata.

    Args:
        path: A folder or file that holds one series after the selection.
        select: As for :func:`medtl_monai.dicom.read_volume`.
        on_gap: As there.
        units: As there.
        voi: As there.

    Returns:
        float32 ``[c, i, j, k]`` with its affine to RAS millimetres.

    Raises:
        DicomError: Whatever would make the volume wrong.
        ConfigError: An option is not valid.
    """
    reader = MedtlDicomReader(select, on_gap, units, voi)
    array, meta = reader.get_data(reader.read(path))
    if array.ndim == 3:
        array = array[None]
    meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
    return MetaTensor.ensure_torch_and_prune_meta(np.ascontiguousarray(array), meta)


def _metadata(volumes: Sequence[Volume], channels_first: bool) -> dict[str, Any]:
    first = volumes[0]
    return {
        MetaKeys.AFFINE: first.affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: first.affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(first.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        # NaN is MONAI's "there is no channel axis", EnsureChannelFirst then adds one.
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if channels_first else float("nan"),
        # Plain texts, because metadata are collated into batches key by key.
        "modality": "+".join(dict.fromkeys(v.modality for v in volumes)),
        "unit": "+".join(dict.fromkeys(v.unit for v in volumes)),
        "geometry": first.geometry,
        "spacing_known": all(v.spacing_known for v in volumes),
        "notes": "; ".join(note for v in volumes for note in v.notes),
    }


def _refuse_other_grid(first: Volume, other: Volume, name: str) -> None:
    if first.shape != other.shape:
        what = f"{other.shape} voxels against {first.shape} of the first image"
    else:
        distance = grid_distance(first.affine, other.affine, first.shape)
        if distance <= GRID_TOLERANCE_MM:
            return
        what = f"voxels lie up to {distance:.4g} mm from those of the first image"
    raise DicomError(what, where=name, mend="Stack images of one grid only, or resample one onto the other")


def _paths(data: Sequence[PathLike] | PathLike) -> tuple[Path, ...]:
    if isinstance(data, str | os.PathLike):
        return (Path(data),)
    return tuple(Path(item) for item in data)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        # Reading it raises the typed error.
        return b""


def _is_dicom(path: Path) -> bool:
    head = _head(path)
    return head[PREAMBLE : PREAMBLE + 4] == b"DICM" or ((head[:2] in _BARE or is_zip(head)) and not _is_foreign(path))


def _is_foreign(path: Path) -> bool:
    head = _head(path)
    # The preamble may hold anything, another format's magic number too.
    if head[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return False
    # A NumPy archive is a zip archive, and only its name tells.
    return (is_zip(head) and path.suffix.lower() == ".npz") or any(
        head[at : at + len(magic)] == magic for at, magic in _FOREIGN
    )

"""What a series would be as a volume, from its headers alone: nothing is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pydicom
from pydicom.dataset import Dataset

from medtl_monai.dicom import sop
from medtl_monai.dicom.geometry import Affine, ChannelInfo, Geometry, Volume
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.opened import inflated
from medtl_monai.dicom.pixels import check_size, require_decoder
from medtl_monai.dicom.quiet import quiet
from medtl_monai.dicom.runs import one_run
from medtl_monai.dicom.select import Rules
from medtl_monai.dicom.series import Series
from medtl_monai.dicom.volume import Assembly, OnGap, require_readable, unit_factor, unit_of
from medtl_monai.errors import DicomError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """A volume without its voxels; the fields are those of :class:`medtl_monai.dicom.geometry.Volume`.

    Attributes:
        shape: Size ``(i, j, k)``.
        affine: float64 4×4, voxel indices to RAS millimetres.
        channels: 1, 3 for colour, or the number of images that are channels.
        modality: DICOM Modality; empty where unknown.
        unit: Unit of the values, after conversion.
        geometry: Whether the axes are perpendicular.
        spacing_known: Whether the file tells the pixel spacing.
        channel_info: What the channels are, where they have names.
    """

    shape: tuple[int, int, int]
    affine: Affine
    channels: int = 1
    modality: str = ""
    unit: str = "any"
    geometry: Geometry = "regular"
    spacing_known: bool = True
    channel_info: tuple[ChannelInfo, ...] = ()

    @classmethod
    def of(cls, volume: Volume | Description) -> Self:
        """Describe a volume that was read, or is described already."""
        return cls(
            shape=volume.shape,
            affine=volume.affine,
            channels=volume.channels,
            modality=volume.modality,
            unit=volume.unit,
            geometry=volume.geometry,
            spacing_known=volume.spacing_known,
            channel_info=volume.channel_info,
        )


def describe(
    series: Series,
    *,
    select: Mapping[str, Any] | Rules | None = None,
    on_gap: OnGap = "error",
    units: str | None = None,
) -> Description:
    """Say what :func:`medtl_monai.dicom.read_volume` would return, without decoding a pixel.

    Args:
        series: A series of a scan.
        select: As for reading.
        on_gap: As for reading.
        units: As for reading; SUV needs the header of one file, which is read again.

    Raises:
        DicomError: What reading would raise, as far as headers tell: geometry, gaps, size, unit, a missing decoder.
        ConfigError: ``select`` or ``on_gap`` is not valid.
    """
    rules = Rules.of(select)
    series = one_run(series, rules) if on_gap == "split" else series
    require_readable(series, rules, on_gap)
    assembly = Assembly(series, on_gap, voi=False)
    built, shape = assembly.plan()
    for header in {item.header.path: item.header for item in series.slices}.values():
        check_size(header)
        if header.pixels.syntax not in sop.NATIVE:
            require_decoder(header)
    unit = unit_of(series.slices[0].header)
    factor = unit_factor(unit, series, units, lambda header: _attributes(series.root, header))
    k, j, i = shape[-3:]
    return Description(
        shape=(i, j, k),
        affine=built.affine,
        channels=shape[0] if len(shape) == 4 else 1,
        modality=series.modality,
        unit=unit if factor is None else "SUVbw",
        geometry=built.geometry,
        spacing_known=assembly.spacing_known,
    )


def _attributes(root: Path, header: Header) -> Dataset:
    """Return a file's data set without its pixels.

    Raises:
        DicomError: The file cannot be read any more.
    """
    try:
        with quiet(), open(root / header.path, "rb") as stream:
            return pydicom.dcmread(inflated(stream, header.path), force=True, stop_before_pixels=True)
    except OSError as error:
        raise DicomError("the file cannot be read any more", where=header.path, mend="Check the disk") from error

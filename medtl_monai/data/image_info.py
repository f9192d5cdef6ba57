"""What planning needs to know of an image, without keeping its voxels."""

from __future__ import annotations

import dataclasses
from typing import Self

from medtl_monai.config import PreprocessingConfig
from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.data.grid import Grid
from medtl_monai.dicom.description import Description
from medtl_monai.dicom.geometry import Affine, ChannelInfo, Volume


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageInfo:
    """An image's geometry and kind.

    Attributes:
        shape: Size ``(i, j, k)``.
        affine: Voxel indices to RAS millimetres.
        channels: 1, 3 for colour, or the number of images that become channels.
        modality: DICOM Modality; empty where unknown.
        unit: Unit of the values; ``"any"`` where unknown.
        spacing_known: Whether the file tells the pixel spacing.
        channel_info: One entry a channel where channels have names.
    """

    shape: tuple[int, int, int]
    affine: Affine
    channels: int = 1
    modality: str = ""
    unit: str = "any"
    spacing_known: bool = True
    channel_info: tuple[ChannelInfo, ...] = ()

    @classmethod
    def of(cls, volume: Volume | Description) -> Self:
        """Describe a volume, or what its headers say of it."""
        return cls(
            shape=volume.shape,
            affine=volume.affine,
            channels=volume.channels,
            modality=volume.modality,
            unit=volume.unit,
            spacing_known=volume.spacing_known,
            channel_info=volume.channel_info,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality of each channel that is there."""
        return tuple(c.modality for c in self.channel_info if not c.filled) or (self.modality,)

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each channel that is there."""
        return tuple(c.unit for c in self.channel_info if not c.filled) or (self.unit,)

    @property
    def grid(self) -> Grid:
        """Its grid."""
        return Grid(self.shape, self.affine)


def image_info(table: CaseTable, case: Case, config: PreprocessingConfig | None = None) -> ImageInfo:
    """Look at the headers of a case's image; nothing is decoded.

    Args:
        table: The case's table.
        case: One of its cases.
        config: Says what to do about gaps, and the unit to convert to.

    Raises:
        DataError: If a NIfTI image cannot be used.
        DicomError: If a series does not make a volume, as far as headers tell.
    """
    config = config or PreprocessingConfig()
    names = table.inputs.names
    units = {name: convertible(_unit_of(config, name)) for name in names} if names else convertible(config.unit)
    return ImageInfo.of(table.describe_image(case, on_gap=config.on_gap, units=units))


def _unit_of(config: PreprocessingConfig, name: str) -> str | None:
    return config.channels[name].unit or config.unit if name in config.channels else config.unit


def convertible(unit: str | None) -> str | None:
    """Return the unit if reading can convert to it (SUV of PET), else None: other units are only checked."""
    return unit if unit is not None and unit.casefold() == "suvbw" else None

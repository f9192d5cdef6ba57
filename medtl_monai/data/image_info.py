"""What planning needs to know of an image, without keeping its voxels."""

from __future__ import annotations

import dataclasses

from medtl_monai.config import PreprocessingConfig
from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.data.grid import Grid
from medtl_monai.dicom.description import Description


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageInfo(Description):
    """An image's geometry and kind."""

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

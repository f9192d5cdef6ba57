"""Preprocessing generated from a backbone's input spec, resolved once and the same everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from medtl_monai.config import PreprocessingConfig
from medtl_monai.dicom.geometry import Affine, FloatArray, Volume
from medtl_monai.specs import InputSpec, Intensity, TargetKind


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageInfo:
    """What planning needs to know of one image: ``ImageInfo.of(volume)`` or ``image_info(table, case)``."""

    shape: tuple[int, int, int]
    affine: Affine
    channels: int = 1
    modality: str = ""
    unit: str = "any"
    geometry: str = "regular"
    spacing_known: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Everything resolved; JSON round trip."""

    spatial_dims: int
    kind: TargetKind
    channels: int = 1
    modality: tuple[str, ...] = ()
    orientation: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    divisible_by: tuple[int, ...] = ()
    patch_size: tuple[int, ...] | None = None
    intensity: Intensity = dataclasses.field(default_factory=Intensity)
    on_gap: str = "error"
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, value: dict[str, object]) -> Preprocessing:
        """Read what :meth:`to_json` gave."""
        raise NotImplementedError

    def image(self, volume: Volume, *, where: str = "") -> Tensor:
        """float32 ``[C, *S]``, plain tensor."""
        raise NotImplementedError

    def pair(self, volume: Volume, mask: object, *, where: str = "") -> tuple[Tensor, Tensor]:
        """Image, and int16 mask ``[*S]`` on the same grid."""
        raise NotImplementedError

    def restore(self, probabilities: Tensor, volume: Volume) -> FloatArray:
        """``[K, *S]`` → float32 ``[K, i, j, k]`` on the volume's own grid."""
        raise NotImplementedError


def plan_preprocessing(
    spec: InputSpec, config: PreprocessingConfig, kind: TargetKind, images: Sequence[ImageInfo]
) -> Preprocessing:
    """Resolve spec, config and training images."""
    raise NotImplementedError

"""SOP classes and transfer syntaxes as far as they decide what happens to a file (DICOM PS3.4 B.5, PS3.5 A)."""

from __future__ import annotations

from pydicom import config
from pydicom.uid import UID

_STORAGE = "1.2.840.10008.5.1.4.1.1."

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
SEGMENTATIONS = frozenset({_STORAGE + "66.4", _STORAGE + "66.7"})
STRUCTURE_SETS = frozenset({_STORAGE + "481.3"})
NOT_VOLUMES = frozenset({_STORAGE + "481.2", _STORAGE + "30", _STORAGE + "77.1.6", _STORAGE + "66.5"})
"""Objects with a pixel grid that is not an image volume: RT dose, parametric map, whole slide, surface."""

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})
"""Transfer syntaxes whose pixels are plain arrays."""

VOLUMETRIC = frozenset({"CT", "MR", "PT"})
"""Modalities whose images are slices of a volume: geometry is required, one slice alone is refused."""

PROJECTION = frozenset({"CR", "DX", "MG", "XA", "RF", "IO", "PX"})
"""Modalities whose images are projections: each one stands for itself, even where it has a place in the patient."""

DISPLAY = PROJECTION | {"US", "OT", "ES", "XC", "DG", "GM", "OP", "BI"}
"""Modalities whose values only serve display: MONOCHROME1 is inverted so that high is bright."""


def uid_name(uid: str) -> str:
    """Return the name of a registered UID; ``"unknown"`` for private ones, which may identify a site."""
    name = UID(uid, config.IGNORE).name  # a damaged one would be warned of, with its value
    return "unknown" if name == uid else name

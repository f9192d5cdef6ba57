"""The display window of a two-dimensional image, to 0 … 1 (DICOM PS3.3 C.11.2)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut

from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.geometry import FloatArray
from medtl_monai.dicom.header import Header
from medtl_monai.errors import DicomError


def apply_voi(values: FloatArray, dataset: Dataset, header: Header, invert: bool) -> None:
    """Apply the first VOI LUT or window to modality values, in place.

    Args:
        values: ``[rows, columns]`` modality values.
        dataset: The file's data set.
        header: Its header.
        invert: Exchange dark and bright afterwards (MONOCHROME1).

    Raises:
        DicomError: The file has neither, or a window of no width.
    """
    elements = Elements(dataset, header.path)
    tables = elements.items("VOILUTSequence")
    if tables:
        bits = elements_bits(Elements(tables[0], header.path))
        values[...] = apply_voi_lut(values.astype(np.int64), dataset) / (2**bits - 1)
    else:
        values[...] = _window(values, elements)
    if invert:
        np.subtract(1, values, out=values)


def elements_bits(table: Elements) -> int:
    """Return the number of bits of a LUT's entries."""
    descriptor = table.numbers("LUTDescriptor", 3)
    if descriptor is None or not 8 <= descriptor[2] <= 16:
        raise table.invalid("LUTDescriptor")
    return int(descriptor[2])


def _window(values: FloatArray, elements: Elements) -> FloatArray:
    centres, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    if centres is None or widths is None:
        raise DicomError(
            "neither a VOI LUT nor a window is present", where=f"{elements.path}, WindowCenter", mend="Read without voi"
        )
    centre, width = centres[0], widths[0]
    function = elements.code("VOILUTFunction") or "LINEAR"
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise elements.invalid("WindowWidth", f"is {width:g}")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)), np.float32)
    if function == "LINEAR":
        # The standard's LINEAR function counts pixels: half a unit off centre, one unit narrower.
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return np.asarray(values > centre, np.float32)
    return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1), np.float32)

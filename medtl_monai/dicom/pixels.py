"""Decode single frames and bring them to float32 modality values."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array

from medtl_monai.dicom import sop
from medtl_monai.dicom.codestream import announced_size
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.opened import Bounded, inflated
from medtl_monai.dicom.quiet import quiet
from medtl_monai.errors import DicomError

MAX_FILE_BYTES = 2**33
"""Largest size of one file's decoded pixels; above it the file is taken for a decompression bomb."""

_PLUGINS = {"1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls"}
"""Decoders that take the place of GDCM, which ends the whole process on some damaged JPEG-LS data."""

Array = NDArray[Any]


class FrameReader:
    """Reads frames of the files of one series; keeps the last compressed file open between its frames.

    Args:
        root: Folder that file names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = ""
        self._dataset: Dataset | None = None
        self._inflated = b""

    def stored(self, header: Header, frame: int = 0) -> Array:
        """Return one frame's stored values.

        Args:
            header: The file.
            frame: Frame number, from 0.

        Returns:
            Integers ``[rows, columns]``, or ``[rows, columns, 3]`` in RGB for colour.

        Raises:
            DicomError: Cannot be decoded, or no decoder is installed.
        """
        check_size(header)
        form = header.format
        plain = header.pixels.syntax in sop.NATIVE and form.samples == 1 and form.allocated in (8, 16, 32)
        plain = plain and header.pixels.element == "PixelData"
        if plain and form.photometric.startswith("MONOCHROME"):
            return self._native(header, frame)
        return self._decoded(header, frame)

    def dataset(self, header: Header) -> Dataset:
        """Return the file's whole data set."""
        if self._path != header.path or self._dataset is None:
            self._path, self._dataset, self._inflated = header.path, None, b""
            try:
                with quiet(), open(self.root / header.path, "rb") as stream:
                    source: Any = Bounded(inflated(stream, header.path))
                    dataset = pydicom.dcmread(source, force=True)
            except OSError as error:
                raise DicomError(
                    "the file cannot be read any more", where=header.path, mend="Check the disk"
                ) from error
            except Exception as error:  # damaged bytes provoke nearly any exception inside the parser
                what = f"the file is damaged ({type(error).__name__})"
                raise DicomError(what, where=header.path, mend="Copy or export the file again") from error
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = header.pixels.syntax
            self._dataset = dataset
        return self._dataset

    def _native(self, header: Header, frame: int) -> Array:
        form = header.format
        # 8-bit pixels in OW are swapped in pairs under big-endian; pydicom knows how to undo that.
        if form.allocated == 8 and not header.pixels.little_endian:
            return self._decoded(header, frame)
        kind = "i" if form.signed else "u"
        dtype = np.dtype(f"{'<' if header.pixels.little_endian else '>'}{kind}{form.allocated // 8}")
        count = form.rows * form.columns
        offset = header.pixels.offset + frame * form.frame_bytes
        values = self._load(header, dtype, count, offset)
        if len(values) != count:
            raise DicomError("the file became shorter since it was scanned", where=header.path, mend="Scan again")
        if form.stored < form.allocated:
            values = _used_bits(values, header)
        return values.reshape(form.rows, form.columns)

    def _load(self, header: Header, dtype: np.dtype[Any], count: int, offset: int) -> Array:
        if header.pixels.syntax == sop.DEFLATED:
            if self._path != header.path or not self._inflated:
                self._path, self._dataset = header.path, None
                self._inflated = _read_inflated(self.root, header.path)
            return np.frombuffer(self._inflated[offset : offset + count * dtype.itemsize], dtype)
        try:
            return np.fromfile(self.root / header.path, dtype, count, offset=offset)
        except OSError as error:
            raise DicomError("the file cannot be read any more", where=header.path, mend="Check the disk") from error

    def _decoded(self, header: Header, frame: int) -> Array:
        require_decoder(header)
        dataset = self.dataset(header)
        try:
            with quiet():
                _check_codestream(dataset, header, frame)
                values = pixel_array(dataset, index=frame, decoding_plugin=_plugin(header))
                if header.format.photometric == "PALETTE COLOR":
                    values = apply_color_lut(values, dataset)
        except DicomError:
            raise
        except Exception as error:  # decoders raise whatever damaged bytes provoke
            raise DicomError(
                f"PixelData ({sop.uid_name(header.pixels.syntax)}) cannot be decoded ({type(error).__name__})",
                where=header.path,
                mend="The file is damaged, or its decoder lacks this variant: export it uncompressed",
            ) from error
        if values.shape[:2] != (header.format.rows, header.format.columns):
            raise DicomError(
                f"the decoded image has {values.shape[0]}×{values.shape[1]} pixels, not Rows×Columns",
                where=header.path,
                mend="Export the file again",
            )
        return np.asarray(values)


def _plugin(header: Header) -> str:
    """Name the decoder to use; empty for pydicom's own order."""
    plugin = _PLUGINS.get(header.pixels.syntax, "")
    return plugin if plugin in get_decoder(header.pixels.syntax).available_plugins else ""


def _check_codestream(dataset: Dataset, header: Header, frame: int) -> None:
    """Compare the compressed frame's own size with the header: a decoder would allocate for the former.

    Raises:
        DicomError: They differ.
    """
    if header.pixels.syntax in sop.NATIVE:
        return
    size = announced_size(get_frame(dataset.PixelData, frame, number_of_frames=header.frames))
    if size is not None and size != (header.format.rows, header.format.columns):
        raise DicomError(
            f"the compressed image has {size[0]}×{size[1]} pixels, but Rows×Columns are "
            f"{header.format.rows}×{header.format.columns}",
            where=header.path,
            mend="Export the file again",
        )


def _read_inflated(root: Path, path: str) -> bytes:
    with open(root / path, "rb") as stream:
        plain: BinaryIO = inflated(stream, path)
        return plain.getvalue() if isinstance(plain, io.BytesIO) else plain.read()


def _used_bits(values: Array, header: Header) -> Array:
    """Keep the bits from HighBit down, sign-extended (DICOM PS3.5 8.1.1).

    Raises:
        DicomError: Other bits are set although no overlay is declared there: BitsStored is wrong, the values unknown.
    """
    form = header.format
    native = values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
    if form.high_bit + 1 == form.stored and _within(native, form.stored, form.signed):
        return native
    left, right = form.allocated - 1 - form.high_bit, form.allocated - form.stored
    used = np.right_shift(np.left_shift(native, left), right)
    if form.high_bit + 1 != form.stored or header.overlay_bits:
        return used
    mask = (1 << form.stored) - 1
    unsigned = native.view(f"u{form.allocated // 8}")
    clean = used == native if not form.signed else (used == native) | (unsigned <= mask)
    if not clean.all():
        pad = _padding_mask(native, header)
        if not (clean | pad).all():
            raise DicomError(
                f"values need more than BitsStored = {form.stored} bits",
                where=f"{header.path}, BitsStored",
                mend="Correct BitsStored and HighBit, or export the file again",
            )
        used[pad] = native[pad]
    return used


def _within(values: Array, bits: int, signed: bool) -> bool:
    """Whether all values fit into ``bits`` bits; cheaper than masking them."""
    high = int(values.max())
    return (-(1 << bits - 1) <= int(values.min()) and high < 1 << bits - 1) if signed else high < 1 << bits


def _padding_mask(stored: Array, header: Header) -> NDArray[np.bool_]:
    """Mark the pixels that hold PixelPaddingValue (or lie in its range)."""
    if header.padding is None or header.format.allocated > 16:
        return np.zeros(stored.shape, np.bool_)
    low, high = (_signed(word, header) for word in header.padding)
    low, high = min(low, high), max(low, high)
    return np.asarray(stored == low) if low == high else np.asarray((stored >= low) & (stored <= high))


def _signed(word: int, header: Header) -> int:
    bits = header.format.allocated
    word &= (1 << bits) - 1
    return word - (1 << bits) if header.format.signed and word >> (bits - 1) else word


def check_size(header: Header) -> None:
    """Check the size the header announces before anything is decoded.

    Raises:
        DicomError: More than :data:`MAX_FILE_BYTES`.
    """
    size = header.format.frame_bytes * header.frames
    if size > MAX_FILE_BYTES:
        raise DicomError(
            f"the header announces {size / 2**30:.0f} GiB of pixels; at most {MAX_FILE_BYTES / 2**30:.0f} are read",
            where=f"{header.path}, Rows×Columns×NumberOfFrames",
            mend="Check whether the file is genuine; split it if it is",
        )


def require_decoder(header: Header) -> None:
    """Check that this installation can decode the file's transfer syntax.

    Raises:
        DicomError: Naming the syntax, the missing packages and the line that installs them.
    """
    uid = header.pixels.syntax
    name = sop.uid_name(uid)
    try:
        with quiet():
            decoder = get_decoder(uid)
    except NotImplementedError as error:
        raise DicomError(
            f"the transfer syntax ({name}) cannot be decoded by any package",
            where=header.path,
            mend="Export the series uncompressed",
        ) from error
    if not decoder.is_available:
        packages = "; ".join(decoder.missing_dependencies)
        raise DicomError(
            f"no decoder for {name} is installed ({packages})",
            where=header.path,
            mend="Run: pip install medtl-monai[codecs]",
        )


def modality_values(
    reader: FrameReader, header: Header, frame: int, out: NDArray[np.float32], invert: bool
) -> NDArray[np.bool_] | None:
    """Decode one frame and write its modality values (stored value × slope + intercept) into ``out``.

    Args:
        reader: Reads the frame.
        header: The file.
        frame: Frame number, from 0.
        out: float32 ``[rows, columns]``, or ``[3, rows, columns]`` for colour.
        invert: Exchange dark and bright before rescaling (MONOCHROME1 of display modalities).

    Returns:
        Where the pixels are padding, or None where nowhere.
    """
    stored = reader.stored(header, frame)
    if stored.ndim == 3:
        out[...] = np.moveaxis(stored, -1, 0)
        return None
    mask = _padding_mask(stored, header) if header.padding else None
    if invert:
        stored = _inverted(stored, header)
    plane = header.plane(frame)
    if header.lut:
        out[...] = apply_modality_lut(np.ascontiguousarray(stored), reader.dataset(header))
    elif stored.dtype.itemsize >= 4 and (plane.slope, plane.intercept) != (1, 0):
        out[...] = stored * np.float64(plane.slope) + plane.intercept
    else:
        # Converting first and then working in place is faster than arithmetic on mixed types; 16 bits convert exactly.
        out[...] = stored
        if plane.slope != 1:
            out *= np.float32(plane.slope)
        if plane.intercept != 0:
            out += np.float32(plane.intercept)
    return mask if mask is not None and mask.any() else None


def _inverted(stored: Array, header: Header) -> Array:
    form = header.format
    return ~stored if form.signed else np.asarray((1 << form.stored) - 1 - stored.astype(np.int64))

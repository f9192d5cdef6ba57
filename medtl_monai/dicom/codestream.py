"""The image size a compressed frame announces itself, read from its markers before any decoder sees it."""

from __future__ import annotations

import struct

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def announced_size(data: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream; None where it does not tell.

    Args:
        data: The start of one frame's bytes.
    """
    if data[:4] == b"\xff\x4f\xff\x51":
        return _jpeg2000(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    return None


def _jpeg2000(data: bytes) -> tuple[int, int] | None:
    """SIZ marker segment: reference grid and image offset (ISO/IEC 15444-1 A.5.1)."""
    if len(data) < 24:
        return None
    width, height, left, top = struct.unpack(">4I", data[8:24])
    return height - top, width - left


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Walk the marker segments to the start of frame (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _START_OF_FRAME:
            rows, columns = struct.unpack(">2H", data[at + 5 : at + 9])
            return rows, columns
        if marker == 0xFF:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None

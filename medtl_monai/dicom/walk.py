"""A fast walk over ordinary headers; anything out of the ordinary is left to pydicom.

pydicom builds an object for every element of a header. A scan wants about fifty of several hundred, so for little
endian files (nearly all of them) this jumps from element to element and keeps the bytes of those alone. It returns
nothing, rather than a guess, as soon as something is unusual: pydicom then has the word.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping

from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from medtl_monai.dicom import sop

HEAD_BYTES = 65536
"""How much of a file is looked at: longer headers go to pydicom."""

_START = 132
_PIXELS = 0x7FE00008
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN", b"SV", b"UV"})
_SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_TEXT = frozenset({"LO", "SH", "LT", "PN"})
_MAX_DEPTH = 16
_head = struct.Struct("<HH2sH").unpack_from
_tag_and_length = struct.Struct("<HHI").unpack_from
_long_length = struct.Struct("<I").unpack_from
_short_length = struct.Struct("<H").unpack_from


class _UnusualError(Exception):
    """Something that pydicom should judge."""


@dataclasses.dataclass(frozen=True, slots=True)
class Walked:
    """What was found.

    Attributes:
        elements: The wanted elements, raw.
        meta: The file meta elements, raw.
        syntax: TransferSyntaxUID.
        implicit: Whether the data set has implicit VR.
        end: Where the pixel element, or the end of the file, begins.
    """

    elements: dict[int, RawDataElement]
    meta: dict[int, RawDataElement]
    syntax: str
    implicit: bool
    end: int


def walk(data: bytes, wanted: Mapping[int, tuple[BaseTag, str]]) -> Walked | None:
    """Walk over a header.

    Args:
        data: The first :data:`HEAD_BYTES` of a file that has DICM at byte 128.
        wanted: Tags to keep, with pydicom's tag object and the dictionary's VR.

    Returns:
        The elements, or None where pydicom must read the file.
    """
    try:
        return _walk(data, wanted)
    except (_UnusualError, struct.error):
        return None


def _walk(data: bytes, wanted: Mapping[int, tuple[BaseTag, str]]) -> Walked:
    meta, at = _meta(data)
    syntax = meta.get(0x00020010)
    uid = syntax.value.decode("ascii", "replace").rstrip("\0 ") if syntax and syntax.value else ""
    if not uid.startswith("1.2.840.10008.1.2") or uid in (sop.DEFLATED, sop.EXPLICIT_BIG):
        raise _UnusualError
    implicit = uid == sop.IMPLICIT_LITTLE
    found: dict[int, RawDataElement] = {}
    last = 0
    while at < len(data):
        tag, vr, start, length = _element(data, at, implicit)
        if tag >= _PIXELS:
            return Walked(found, meta, uid, implicit, at)
        if tag <= last:
            raise _UnusualError
        last = tag
        keep = wanted.get(tag)
        if length == _UNDEFINED:
            if keep is not None or not (implicit or vr == b"SQ"):
                raise _UnusualError
            at = _after_sequence(data, start, implicit, 0)
            continue
        at = start + length
        if keep is not None:
            value = data[start:at]
            kind = keep[1] if implicit else vr.decode()
            if len(value) != length or (kind in _TEXT and (not value.isascii() or b"\x1b" in value)):
                raise _UnusualError
            found[tag] = RawDataElement(keep[0], kind, length, value, start, implicit, True)
    if at > len(data) or len(data) >= HEAD_BYTES:
        raise _UnusualError
    return Walked(found, meta, uid, implicit, at)


def _meta(data: bytes) -> tuple[dict[int, RawDataElement], int]:
    """Read the file meta group, always explicit little endian."""
    found: dict[int, RawDataElement] = {}
    at = _START
    while at + 2 <= len(data) and _short_length(data, at)[0] == 2:
        tag, vr, start, length = _element(data, at, False)
        if length == _UNDEFINED:
            raise _UnusualError
        at = start + length
        found[tag] = RawDataElement(BaseTag(tag), vr.decode(), length, data[start:at], start, False, True)
    return found, at


def _element(data: bytes, at: int, implicit: bool) -> tuple[int, bytes, int, int]:
    """Return tag, VR, start and length of the element at ``at``."""
    if implicit:
        group, element, length = _tag_and_length(data, at)
        return group << 16 | element, b"", at + 8, length
    group, element, vr, length = _head(data, at)
    if vr in _SHORT:
        return group << 16 | element, vr, at + 8, length
    if vr in _LONG:
        return group << 16 | element, vr, at + 12, _long_length(data, at + 8)[0]
    raise _UnusualError


def _after_sequence(data: bytes, at: int, implicit: bool, depth: int) -> int:
    """Return where a sequence of undefined length ends."""
    if depth > _MAX_DEPTH:
        raise _UnusualError
    while True:
        group, element, length = _tag_and_length(data, at)
        tag, at = group << 16 | element, at + 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _UnusualError
        at = _after_item(data, at, implicit, depth) if length == _UNDEFINED else at + length


def _after_item(data: bytes, at: int, implicit: bool, depth: int) -> int:
    while True:
        group, element, _ = _tag_and_length(data, at)
        if group << 16 | element == _ITEM_END:
            return at + 8
        _, vr, start, length = _element(data, at, implicit)
        if length == _UNDEFINED:
            if not (implicit or vr == b"SQ"):
                raise _UnusualError
            at = _after_sequence(data, start, implicit, depth + 1)
        else:
            at = start + length

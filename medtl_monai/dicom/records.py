"""Headers as JSON texts and back, exactly: what an index of a scanned tree keeps of each file."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from typing import Any

from medtl_monai.dicom.header import Header, ObjectHeader, PixelData, PixelFormat, Plane
from medtl_monai.dicom.parse import Parsed, Skipped

_PARTS = ("path", "format", "pixels", "planes", "image_type", "padding")
_PLAIN = tuple(field.name for field in dataclasses.fields(Header) if field.name not in _PARTS)
_OBJECT = tuple(field.name for field in dataclasses.fields(ObjectHeader) if field.name not in ("path", "references"))
_PLANE, _PIXELS, _FORMAT = (tuple(f.name for f in dataclasses.fields(c)) for c in (Plane, PixelData, PixelFormat))

LAYOUT = json.dumps([_PLAIN, _OBJECT, _PLANE, _PIXELS, _FORMAT])
"""What the texts look like: records of another layout cannot be read."""


def pack(parsed: Parsed) -> str | None:
    """Return a file's record without its path; None for damaged files, which are looked at anew each time."""
    if isinstance(parsed, Header):
        rest = [_values(parsed.format, _FORMAT), _values(parsed.pixels, _PIXELS)]
        planes = [_values(plane, _PLANE) for plane in parsed.planes]
        return json.dumps(["H", _values(parsed, _PLAIN), *rest, planes, parsed.image_type, parsed.padding])
    if isinstance(parsed, ObjectHeader):
        return json.dumps(["O", _values(parsed, _OBJECT), parsed.references])
    if isinstance(parsed, Skipped):
        return json.dumps(["S", parsed.reason, parsed.blank])
    return None


def unpack(text: str, path: str) -> Header | ObjectHeader | Skipped:
    """Return what :func:`pack` was given.

    Args:
        text: The record.
        path: The file it is of.

    Raises:
        ValueError: The text is no record.
    """
    try:
        kind, *parts = json.loads(text)
        if kind == "H":
            return _header(path, *parts)
        if kind == "O":
            return ObjectHeader(path=path, **dict(zip(_OBJECT, parts[0], strict=True)), references=tuple(parts[1]))
        if kind == "S":
            return Skipped(path, parts[0], parts[1])
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError("no record") from error
    raise ValueError("no record")


def _values(item: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(item, name) for name in names]


def _header(
    path: str, plain: list[Any], form: list[Any], pixels: list[Any], planes: list[Any], kind: list[str], padding: Any
) -> Header:
    # Most values are the same in a whole series: kept once, they take little room.
    values: list[Any] = [sys.intern(value) if type(value) is str else value for value in plain]
    return Header(
        path=path,
        **dict(zip(_PLAIN, values, strict=True)),
        format=_format(*form),
        pixels=PixelData(sys.intern(pixels[0]), *pixels[1:]),
        planes=tuple(_plane(*plane) for plane in planes),
        image_type=tuple(map(sys.intern, kind)),
        padding=None if padding is None else tuple(padding),
    )


@functools.lru_cache(1024)
def _format(*values: Any) -> PixelFormat:
    return PixelFormat(*values)


@functools.lru_cache(1024)
def _shared(*values: Any) -> tuple[Any, ...]:
    return values


def _plane(position: Any, orientation: Any, spacing: Any, *rest: Any) -> Plane:
    values: list[Any] = [
        None if position is None else tuple(position),
        None if orientation is None else _shared(*orientation),
        None if spacing is None else _shared(*spacing),
        *rest[:-1],
        tuple(map(sys.intern, rest[-1])),
    ]
    return Plane(*values)

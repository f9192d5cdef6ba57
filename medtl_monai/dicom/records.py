"""Headers and series as plain JSON values and back, exactly: what an index of a scanned tree keeps."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medtl_monai.dicom.header import Header, ObjectHeader, PixelData, PixelFormat, Plane
from medtl_monai.dicom.parse import Damaged, Parsed, Skipped
from medtl_monai.dicom.series import Series, Slice
from medtl_monai.errors import DicomError, rebuild

_PARTS = ("path", "format", "pixels", "planes", "image_type", "padding")
_PLAIN = tuple(field.name for field in dataclasses.fields(Header) if field.name not in _PARTS)
_OBJECT = tuple(field.name for field in dataclasses.fields(ObjectHeader) if field.name not in ("path", "references"))
_PLANE, _PIXELS, _FORMAT = (tuple(f.name for f in dataclasses.fields(c)) for c in (Plane, PixelData, PixelFormat))
_TUPLES = ("shape", "spacing_mm", "notes")
_SERIES = tuple(
    field.name
    for field in dataclasses.fields(Series)
    if field.name not in ("root", "slices", "problem", "gap", *_TUPLES)
)

LAYOUT = json.dumps([_PLAIN, _OBJECT, _PLANE, _PIXELS, _FORMAT, _SERIES, _TUPLES])
"""What the values look like: records of another layout cannot be read."""


def pack(parsed: Parsed) -> list[Any]:
    """Return a file's record, without its path."""
    if isinstance(parsed, Header):
        rest = [_values(parsed.format, _FORMAT), _values(parsed.pixels, _PIXELS)]
        planes = [_values(plane, _PLANE) for plane in parsed.planes]
        return ["H", _values(parsed, _PLAIN), *rest, planes, parsed.image_type, parsed.padding]
    if isinstance(parsed, ObjectHeader):
        return ["O", _values(parsed, _OBJECT), parsed.references]
    if isinstance(parsed, Skipped):
        return ["S", parsed.reason, parsed.blank]
    return ["D", _error(parsed.error), parsed.series_uid, parsed.transient]


def unpack(record: Any, path: str) -> Parsed:
    """Return what :func:`pack` was given.

    Args:
        record: The record.
        path: The file it is of.

    Raises:
        ValueError: The value is no record.
    """
    try:
        kind, *parts = record
        if kind == "H":
            return _header(path, *parts)
        if kind == "O":
            return ObjectHeader(path=path, **dict(zip(_OBJECT, parts[0], strict=True)), references=tuple(parts[1]))
        if kind == "S":
            return Skipped(path, parts[0], parts[1])
        if kind == "D":
            return Damaged(path, rebuild(DicomError, *parts[0]), *parts[1:])
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise ValueError("no record") from error
    raise ValueError("no record")


def pack_series(series: Series) -> list[Any]:
    """Return a series' record, with the first of its slices only."""
    first = series.slices[0]
    errors = [None if error is None else _error(error) for error in (series.problem, series.gap)]
    head = [first.header.path, first.frame, pack(first.header)]
    return [_values(series, _SERIES), _values(series, _TUPLES), errors, head]


def unpack_series(record: Any, root: Path) -> tuple[Series, Slice]:
    """Return a series as :func:`pack_series` was given it but without slices, and the first of these.

    Raises:
        ValueError: The value is no record.
    """
    try:
        plain, tuples, errors, (path, frame, packed) = record
        values = dict(zip(_SERIES, plain, strict=True))
        values |= {name: None if value is None else tuple(value) for name, value in zip(_TUPLES, tuples, strict=True)}
        problem, gap = (None if error is None else rebuild(DicomError, *error) for error in errors)
        header = unpack(packed, path)
        if not isinstance(header, Header):
            raise ValueError("no record")
        return Series(root=root, problem=problem, gap=gap, **values), Slice(header, frame)
    except (TypeError, ValueError) as failure:
        raise ValueError("no record") from failure


def _error(error: DicomError) -> list[str]:
    return [error.what, error.where, error.mend]


def _values(item: Any, names: Sequence[str]) -> list[Any]:
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

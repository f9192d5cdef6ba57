"""Typed access to the elements of a pydicom dataset, straight from the raw bytes where that is safe.

Converting elements through pydicom costs more than reading them; a header needs some twenty plain numbers and codes.
Every unreadable value is an error that names the attribute.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from medtl_monai.errors import DicomError

Raws = dict[int, RawDataElement]
"""Raw elements by tag, as plain numbers."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


@cache
def tag(keyword: str) -> BaseTag:
    """Return the tag of a DICOM keyword."""
    found = tag_for_keyword(keyword)
    if found is None:
        raise KeyError(keyword)
    return Tag(found)


@cache
def number(keyword: str) -> int:
    """Return the tag of a DICOM keyword as a plain number, which compares faster."""
    return int(tag(keyword))


class Elements:
    """Reads single attributes of a dataset as Python values.

    Args:
        source: A dataset; or raw elements by tag, which are looked up many times faster.
        path: The file, relative to the data root, for errors.
    """

    def __init__(self, source: Dataset | Raws, path: str) -> None:
        self.path = path
        self._source = source
        self._find: Callable[[int], Any] = source.get if isinstance(source, dict) else source.get_item

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset."""
        source = self._source
        return Dataset({raw.tag: raw for raw in source.values()}) if isinstance(source, dict) else source

    def __contains__(self, keyword: str) -> bool:
        return number(keyword) in self._source

    def raw(self, tag: int, keyword: str) -> Any:
        """Return an element as it is in the file, or None; the keyword is for errors."""
        try:
            return self._find(tag)
        except Exception as error:  # pydicom converts some elements at once, and raises whatever the bytes provoke
            raise self.invalid(keyword) from error

    def _raw(self, keyword: str) -> Any:
        return self.raw(number(keyword), keyword)

    def _converted(self, keyword: str) -> Any:
        try:
            return self.dataset[tag(keyword)].value
        except Exception as error:  # pydicom raises whatever the bytes provoke
            raise self.invalid(keyword) from error

    def invalid(self, keyword: str, what: str = "cannot be read") -> DicomError:
        """Return the error for an attribute with an unusable value."""
        return DicomError(f"{keyword} {what}", where=self.path, mend="Export the file again, or remove it")

    def missing(self, keyword: str) -> DicomError:
        """Return the error for an attribute that must be there."""
        return self.invalid(keyword, "is missing")

    def code(self, keyword: str) -> str:
        """Return a CS, UI, TM or similar value: ASCII, stripped; empty where absent."""
        return "\\".join(self.codes(keyword))

    def codes(self, keyword: str) -> tuple[str, ...]:
        """Return a multi-valued CS, UI, IS or DS element as stripped strings."""
        element = self._raw(keyword)
        if element is None or element.value is None:
            return ()
        value = element.value
        if isinstance(value, bytes):
            text = value.decode("ascii", "replace").strip("\0 ")
        elif isinstance(value, (list, tuple)) or hasattr(value, "append"):
            text = "\\".join(map(str, value))
        else:
            text = str(value)
        return tuple(part.strip("\0 ") for part in text.split("\\")) if text else ()

    def text(self, keyword: str) -> str:
        """Return a text value in the file's character set, stripped; empty where absent."""
        element = self._raw(keyword)
        if element is None or element.value is None:
            return ""
        value = element.value
        if isinstance(value, bytes) and value.isascii() and b"\x1b" not in value:
            return value.decode("ascii").strip("\0 ")
        return str(self._converted(keyword) or "").strip("\0 ")

    def numbers(self, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        """Return finite floats, or None where the element is absent or empty.

        Raises:
            DicomError: A value is no finite number, or there are not ``count`` of them.
        """
        element = self._raw(keyword)
        if element is None or element.value is None or _length(element.value) == 0:
            return None
        values = self._numbers(keyword, element)
        if not values:
            return None
        if count is not None and len(values) != count:
            raise self.invalid(keyword, f"has {len(values)} values instead of {count}")
        if not all(map(math.isfinite, values)):
            raise self.invalid(keyword, "is not a finite number")
        return values

    def _numbers(self, keyword: str, element: Any) -> tuple[float, ...]:
        value = element.value
        if isinstance(element, RawDataElement) and isinstance(value, bytes):
            if element.VR in ("DS", "IS"):
                return self._decimals(keyword, value)
            if element.VR in _BINARY:
                return self._binary(keyword, value, _BINARY[element.VR], element.is_little_endian)
            value = self._converted(keyword)
        if value is None or value == "":
            return ()
        many = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else (value,)
        try:
            return tuple(float(v) for v in many)
        except (TypeError, ValueError) as error:
            raise self.invalid(keyword, "is not a number") from error

    def _decimals(self, keyword: str, value: bytes) -> tuple[float, ...]:
        stripped = value.strip(b"\0 ")
        if not stripped:
            return ()
        try:
            return tuple(float(part) for part in stripped.split(b"\\"))
        except ValueError as error:
            raise self.invalid(keyword, "is not a number") from error

    def _binary(self, keyword: str, value: bytes, kind: str, little: bool) -> tuple[float, ...]:
        size = struct.calcsize(kind)
        if len(value) % size:
            raise self.invalid(keyword, "has the wrong length")
        return struct.unpack(f"{'<' if little else '>'}{len(value) // size}{kind}", value)

    def number(self, keyword: str) -> float | None:
        """Return the one float of an element, or None where absent or empty."""
        values = self.numbers(keyword)
        if values is None:
            return None
        if len(values) != 1:
            raise self.invalid(keyword, f"has {len(values)} values instead of 1")
        return values[0]

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return the one integer of an element.

        Raises:
            DicomError: Absent without a default, or no whole number.
        """
        value = self.number(keyword)
        if value is None:
            if default is None:
                raise self.missing(keyword)
            return default
        if value != int(value):
            raise self.invalid(keyword, "is not a whole number")
        return int(value)

    def word(self, keyword: str) -> int | None:
        """Return a US-or-SS element as an unsigned 16-bit pattern, or None where absent."""
        element = self._raw(keyword)
        if element is None or element.value is None:
            return None
        value = element.value
        if isinstance(value, bytes):
            if len(value) != 2:
                raise self.invalid(keyword, "has the wrong length")
            return int.from_bytes(value, "little" if element.is_little_endian else "big")
        try:
            return int(value) & 0xFFFF
        except (TypeError, ValueError) as error:
            raise self.invalid(keyword, "is not a whole number") from error

    def items(self, keyword: str) -> list[Dataset]:
        """Return the items of a sequence; empty where absent."""
        if keyword not in self:
            return []
        value = self._converted(keyword)
        if value is None:
            return []
        if not all(isinstance(item, Dataset) for item in value):
            raise self.invalid(keyword)
        return list(value)


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1

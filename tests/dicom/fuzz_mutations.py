"""Damages a DICOM file in ways that disks, networks, exporters and hands do: by a seed, always the same."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

_ODD = (
    b"", b"0", b"-1", b"1", b"nan", b"inf", b"1e400", b"1e-320", b"65535", b"4294967295", b"1\\1", b"\\", b"\\\\\\\\\\",
    b"0\\0\\0", b"abc", b"\0", b" ", b"\xff\xff", b"1.2.3", b"-20.0001", b"1,5", b"0x10", b"MONOCHROME1", b"RGB",
    b"PALETTE COLOR", b"LOCALIZER", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.5.1.4.1.1.4",
)  # fmt: skip
_WORDS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 32, 64, 255, 256, 4095, 32767, 32768, 65534, 65535)
_SHORT_VRS = (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL")
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN", b"SV", b"UV")

Mutation = Callable[[bytes, np.random.Generator], bytes]
Span = tuple[int, int, int]
"""Start of an element, start of its value, end of it."""


def elements(data: bytes) -> list[Span]:
    """Return the top-level elements of an intact explicit or implicit little endian file, as far as they are plain."""
    spans: list[Span] = []
    at = 132 if data[128:132] == b"DICM" else 0
    implicit = False
    while at + 12 <= len(data):
        group = struct.unpack("<H", data[at : at + 2])[0]
        vr = data[at + 4 : at + 6]
        if group > 2 and spans and b"1.2.840.10008.1.2\0" in data[132:600]:
            implicit = True
        if implicit and group > 2:
            length, value = struct.unpack("<I", data[at + 4 : at + 8])[0], at + 8
        elif vr in _LONG_VRS:
            length, value = struct.unpack("<I", data[at + 8 : at + 12])[0], at + 12
        elif vr.isalpha():
            length, value = struct.unpack("<H", data[at + 6 : at + 8])[0], at + 8
        else:
            break
        if length == 0xFFFFFFFF or value + length > len(data):
            spans.append((at, value, len(data)))
            break
        spans.append((at, value, value + length))
        at = value + length
    return spans or [(0, len(data) // 2, len(data))]


def _pick(data: bytes, random: np.random.Generator) -> Span:
    spans = elements(data)
    return spans[int(random.integers(len(spans)))]


def flip_bits(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in random.integers(0, len(data), random.integers(1, 4)):
        changed[at] ^= 1 << int(random.integers(8))
    return bytes(changed)


def flip_header(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[int(random.integers(min(128, len(data) - 1), min(len(data), max(129, elements(data)[-1][0]))))] = int(
        random.integers(256)
    )
    return bytes(changed)


def flip_pixels(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[int(random.integers(min(elements(data)[-1][1], len(data) - 1), len(data)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(0, len(data)))]


def cut_out(data: bytes, random: np.random.Generator) -> bytes:
    at, size = int(random.integers(len(data))), int(random.integers(1, 64))
    return data[:at] + data[at + size :]


def insert(data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(data) + 1))
    return data[:at] + random.bytes(int(random.integers(1, 32))) + data[at:]


def append(data: bytes, random: np.random.Generator) -> bytes:
    return data + (bytes(512) if random.random() < 0.5 else random.bytes(int(random.integers(1, 600))))


def blank(data: bytes, random: np.random.Generator) -> bytes:
    at, size = int(random.integers(len(data))), int(random.integers(1, 512))
    size = min(size, len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def remove_element(data: bytes, random: np.random.Generator) -> bytes:
    start, _, end = _pick(data, random)
    return data[:start] + data[end:]


def repeat_element(data: bytes, random: np.random.Generator) -> bytes:
    start, _, end = _pick(data, random)
    return data[:end] + data[start:end] + data[end:]


def move_element(data: bytes, random: np.random.Generator) -> bytes:
    start, _, end = _pick(data, random)
    to = _pick(data, random)[0]
    rest = data[:start] + data[end:]
    to = to if to <= start else to - (end - start)
    return rest[: max(to, 0)] + data[start:end] + rest[max(to, 0) :]


def odd_value(data: bytes, random: np.random.Generator) -> bytes:
    """Put an odd value in place of another, with its length right."""
    start, value, end = _pick(data, random)
    if random.random() < 0.4 and end - value in (2, 4):
        word = struct.pack("<H" if end - value == 2 else "<I", _WORDS[int(random.integers(len(_WORDS)))])
        return data[:value] + word + data[end:]
    text = _ODD[int(random.integers(len(_ODD)))]
    text += b" " * (len(text) % 2)
    head = bytearray(data[start:value])
    if value - start == 12 or not head[4:6].isalpha():
        head[-4:] = struct.pack("<I", len(text))
    else:
        head[-2:] = struct.pack("<H", len(text))
    return data[:start] + bytes(head) + text + data[end:]


def digit(data: bytes, random: np.random.Generator) -> bytes:
    """Change one digit of a number in text."""
    changed = bytearray(data)
    digits = [at for start, value, end in elements(data)[:-1] for at in range(value, end) if 48 <= data[at] <= 57]
    if digits:
        changed[digits[int(random.integers(len(digits)))]] = 48 + int(random.integers(10))
    return bytes(changed)


def wrong_length(data: bytes, random: np.random.Generator) -> bytes:
    start, value, _ = _pick(data, random)
    changed = bytearray(data)
    size = 4 if value - start == 12 else 2
    changed[value - size : value] = int(random.choice([0, 1, 2, 7, 0xFFFF, 0x7FFF])).to_bytes(size, "little")
    if random.random() < 0.2:
        changed[value - size : value] = b"\xff" * size
    return bytes(changed)


def wrong_vr(data: bytes, random: np.random.Generator) -> bytes:
    start, value, _ = _pick(data, random)
    pool = _SHORT_VRS if value - start == 8 else _LONG_VRS
    changed = bytearray(data)
    changed[start + 4 : start + 6] = pool[int(random.integers(len(pool)))]
    return bytes(changed)


def wrong_tag(data: bytes, random: np.random.Generator) -> bytes:
    start, _, _ = _pick(data, random)
    changed = bytearray(data)
    changed[start + int(random.integers(4))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def swap_halves(data: bytes, random: np.random.Generator) -> bytes:
    """Exchange two blocks, as a fragmented disk does."""
    size = int(random.integers(16, 256))
    one, two = sorted(int(n) for n in random.integers(0, max(1, len(data) - size), 2))
    if two - one < size:
        return data
    return data[:one] + data[two : two + size] + data[one + size : two] + data[one : one + size] + data[two + size :]


def preamble(data: bytes, random: np.random.Generator) -> bytes:
    """Touch what does not matter: the preamble may hold anything."""
    return random.bytes(128) + data[128:] if data[128:132] == b"DICM" else data


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits, flip_header, flip_header, flip_pixels, flip_pixels, truncate, cut_out, insert, append, blank,
    remove_element, remove_element, repeat_element, move_element, odd_value, odd_value, odd_value, digit, digit, digit,
    wrong_length, wrong_vr, wrong_tag, swap_halves, preamble,
)  # fmt: skip
"""What is done to files, the more likely damages more often."""

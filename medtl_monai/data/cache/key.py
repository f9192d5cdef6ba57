"""The name of an entry: a keyed hash of everything that decides what is in it."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import medtl_monai
from medtl_monai.data.cache.places import LAYOUT
from medtl_monai.data.pipeline import Preprocessing

PACKAGES = (
    "medtl-monai", "monai", "torch", "numpy", "scipy", "nibabel", "pydicom", "highdicom",
    # What pydicom may decode with.
    "pillow", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "pylibjpeg-rle", "python-gdcm", "pyjpegls",
)  # fmt: skip
"""Packages whose code touches voxels, decoders included: another version may give other values."""

_ROOMS = ("data", "dicom")
_LENGTH = 40


def entry_key(secret: bytes, hashes: Iterable[str], facts: dict[str, Any], preprocessing: Preprocessing) -> str:
    """Return the name of a case's entry, 40 hex digits.

    Keyed, so that nobody without the key can tell from a name whether the cache holds a file that they have.

    Args:
        secret: The key of pseudonyms.
        hashes: Content hashes of the case's files, in order.
        facts: From :func:`medtl_monai.data.cache.sources.source_facts`.
        preprocessing: What is done to the image.
    """
    everything = {
        "layout": LAYOUT,
        "code": code_fingerprint(),
        "versions": versions(),
        "files": list(hashes),
        "facts": facts,
        "preprocessing": parameters(preprocessing),
    }
    text = json.dumps(everything, sort_keys=True)
    return hmac.new(secret, b"entry\0" + text.encode(), hashlib.sha256).hexdigest()[:_LENGTH]


def parameters(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what of the preprocessing changes voxels or refuses images: all but its notes and the kind of target.

    Runs that learn different labels on the same images share entries.
    """
    value = preprocessing.to_json()
    return {name: item for name, item in value.items() if name not in ("notes", "kind")}


@functools.cache
def versions() -> dict[str, str | None]:
    """Return the versions of :data:`PACKAGES` (None where not installed) and the kind of processor."""
    return {**{name: _version(name) for name in PACKAGES}, "machine": platform.machine()}


@functools.cache
def code_fingerprint() -> str:
    """Return a hash of the code that reads and preprocesses: a version number does not tell an edited checkout."""
    root = Path(medtl_monai.__file__).parent
    files = sorted(file for room in _ROOMS for file in (root / room).rglob("*.py"))
    digest = hashlib.sha256(medtl_monai.__version__.encode())
    for file in files:
        digest.update(f"\0{file.relative_to(root).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

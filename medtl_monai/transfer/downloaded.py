"""Downloaded weights on this disk: where they are, what is there, removing it. Nothing here imports torch.

A file is named by the SHA-256 of its bytes, so that mirrors share it and a file put there by hand is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import time
from pathlib import Path

FOLDER = "MEDTL_WEIGHTS"
"""Environment variable: the folder of downloaded weights."""
OFFLINE = "MEDTL_OFFLINE"
"""Environment variable: ``1`` forbids every download."""

MAX_BYTES = 8 * 1024**3
"""Largest weights file that is downloaded or read: 8 GiB."""

SUFFIX = ".weights"
_TRUE = ("1", "true", "yes", "on")
_WHOLE = re.compile(r"[0-9a-f]{64}\.weights")
_REST = re.compile(r"[0-9a-f]{64}\.url|\.[0-9a-f]{64}\.(part|json|lock)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Downloaded:
    """One file of weights, or what is left of a download that was cut short.

    Attributes:
        name: Its name: a hash.
        bytes: Its size.
        used: When it was last used, in seconds since 1970.
        path: Where it is.
    """

    name: str
    bytes: int
    used: float
    path: Path = dataclasses.field(repr=False)


def weights_folder() -> Path:
    """Return ``$MEDTL_WEIGHTS``, else ``$XDG_CACHE_HOME/medtl/weights`` or ``~/.cache/medtl/weights``."""
    chosen = os.environ.get(FOLDER, "").strip()
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "medtl" / "weights"


def is_offline(*, hub: bool = False) -> bool:
    """Whether ``MEDTL_OFFLINE`` (for the hub also ``HF_HUB_OFFLINE``) forbids downloads."""
    names = (OFFLINE, "HF_HUB_OFFLINE") if hub else (OFFLINE,)
    return any(os.environ.get(name, "").strip().casefold() in _TRUE for name in names)


def file_name(sha256: str) -> str:
    """Return the name under which a file with this hash is kept."""
    return sha256.lower() + SUFFIX


def url_key(url: str) -> str:
    """Return what stands for an address in file names: addresses may hold access keys."""
    return hashlib.sha256(url.encode()).hexdigest()


def find(sha256: str | None, url: str = "") -> Path | None:
    """Return the downloaded file with this hash, or the one that an address without a hash gave; None if not there."""
    folder = weights_folder()
    if sha256 is None:
        try:
            sha256 = (folder / f"{url_key(url)}.url").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        if not _SHA256.fullmatch(sha256):
            return None
    path = folder / file_name(sha256)
    return path if path.is_file() else None


def touch(path: Path) -> None:
    """Note that a file was used; a shared folder may be read-only."""
    with contextlib.suppress(OSError):
        os.utime(path)


def downloaded(folder: Path) -> list[Downloaded]:
    """Return the weights in a folder, the least recently used first."""
    return [each for each in _scan(folder) if _WHOLE.fullmatch(each.path.name)]


def clear(folder: Path, *, older_than_days: float = 0.0) -> list[Downloaded]:
    """Remove downloaded weights and cut-short downloads that were not used for so many days.

    Returns:
        The weights that were removed. Files of other names are never touched.
    """
    limit = time.time() - older_than_days * 86_400
    gone = []
    for each in _scan(folder):
        if each.used <= limit:
            with contextlib.suppress(OSError):
                each.path.unlink()
                gone += [each] if _WHOLE.fullmatch(each.path.name) else []
    return gone


def _scan(folder: Path) -> list[Downloaded]:
    found = []
    with contextlib.suppress(OSError):
        for item in os.scandir(folder):
            ours = _WHOLE.fullmatch(item.name) or _REST.fullmatch(item.name)
            # A file may go while it is looked at.
            with contextlib.suppress(OSError):
                if ours and item.is_file(follow_symlinks=False):
                    status = item.stat(follow_symlinks=False)
                    name = item.name.removesuffix(SUFFIX)
                    found.append(
                        Downloaded(name=name, bytes=status.st_size, used=status.st_mtime, path=Path(item.path))
                    )
    return sorted(found, key=lambda each: each.used)

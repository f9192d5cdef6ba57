"""Weights from an https address into the cache: complete, checked, and never half there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from filelock import FileLock

from medtl_monai.errors import WeightsError
from medtl_monai.files import translate_os_errors, write_text
from medtl_monai.transfer.downloaded import file_name, find, touch, url_key, weights_folder
from medtl_monai.transfer.http import Fetch, Part, Progress, check_address


def download(
    url: str,
    *,
    sha256: str | None,
    max_bytes: int,
    where: str,
    size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the file of an address, from the cache if it is there.

    The bytes are hashed before the file gets its name. Processes that want the same file wait for one another; a
    download that was cut short goes on where it stopped, also in another process.

    Args:
        url: The address, ``https`` only (``http`` on this machine).
        sha256: Hash that the bytes must have; None takes what comes.
        max_bytes: Largest size accepted.
        where: What the file is called in messages.
        size: Number of bytes it must have; None if not known.
        progress: Told how far it is.

    Raises:
        WeightsError: If it cannot be had, or its bytes are not the expected ones; those are removed.
        StorageError: If the folder cannot be written.
    """
    check_address(url, where)
    folder = weights_folder()
    key = sha256 or url_key(url)
    with translate_os_errors(folder / file_name(key)):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{key}.lock"):
            ready = find(sha256, url)
            if ready is not None:
                touch(ready)
                return ready
            part = Part(folder / f".{key}.part")
            fetch = Fetch(
                url=url,
                part=part,
                size=size,
                max_bytes=max_bytes,
                checked=sha256 is not None,
                where=where,
                progress=progress,
            )
            found = _fetch_checked(fetch, sha256)
            path = folder / file_name(found)
            part.path.replace(path)
            part.discard()
            if sha256 is None:
                write_text(folder / f"{url_key(url)}.url", found)
            return path


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_hash(path: Path, sha256: str, where: str) -> str:
    """Return the SHA-256 of a file that must have this one.

    Raises:
        WeightsError: If it has another.
    """
    found = hash_file(path)
    if found != sha256.lower():
        what = f"the file's sha256 is {found[:12]}…, expected is {sha256[:12].lower()}…"
        raise WeightsError(what, where=where, mend="Remove the file and get it again: it is damaged or another one")
    return found


def _fetch_checked(fetch: Fetch, sha256: str | None) -> str:
    # What an earlier process left may be of another version of the file: it is worth one more try from the start.
    resumed = fetch.part.size > 0
    while True:
        fetch.run()
        found = hash_file(fetch.part.path)
        if sha256 is None or found == sha256:
            return found
        fetch.part.discard()
        if not resumed:
            what = f"the downloaded file's sha256 is {found[:12]}…, expected is {sha256[:12]}…; it was removed"
            mend = "It is damaged or was exchanged: do not use it, and tell whoever offers the weights"
            raise WeightsError(what, where=fetch.where, mend=mend)
        resumed = False

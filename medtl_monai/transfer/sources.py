"""Where weights come from: this machine, an installed package, a web server, or the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.download import download
from medtl_monai.transfer.downloaded import MAX_BYTES, file_name, find, is_offline, touch
from medtl_monai.transfer.http import Progress
from medtl_monai.transfer.hub import hub_file, parse_hub

_SCHEME = re.compile(r"[a-z][a-z0-9+]+:", re.IGNORECASE)
_FRAGMENT = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A weights file on this machine.

    Attributes:
        path: Where it is.
        origin: Where it comes from, as it may be recorded: no folder, no user, no query of an address; of the hub with
            the commit.
        downloaded: Whether it is in medtl's own folder of downloads.
    """

    path: Path
    origin: str
    downloaded: bool = False


def resolve_source(
    uris: Sequence[str],
    *,
    where: str = "",
    sha256: str | None = None,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Source:
    """Return the first of ``uris`` that can be had: what is on this machine first, then by download, each in order.

    Understood are a path, ``file:PATH``, ``package:DISTRIBUTION/RESOURCE`` (a file inside an installed package),
    ``https://…`` and ``hf://OWNER/REPOSITORY@REVISION/PATH`` (the Hugging Face hub).

    Args:
        uris: Where the bytes may be.
        where: What the weights are called in messages.
        sha256: Hash of the file, by which downloads are found again and checked; None takes what comes.
        size: Number of bytes it must have; None if not known.
        max_bytes: Largest size accepted.
        progress: Told how far a download is.

    Raises:
        WeightsError: If none of them can be had; the message says why for each.
        StorageError: If there is no room for the download.
    """
    sha256 = sha256.lower() if sha256 else None
    limit = min(max_bytes, size or max_bytes)
    for uri in uris:
        found = _here(uri, sha256, limit)
        if found is not None:
            return found
    reasons, last = [], None
    for uri in uris:
        try:
            if is_web(uri):
                return _from_web(uri, sha256, size, limit, where, progress)
            if is_hub(uri):
                return _from_hub(uri, size, limit, where, progress)
            name = uri if uri.startswith("package:") else Path(uri).name
            known = not _SCHEME.match(uri) or uri.startswith(("package:", "file:"))
            reasons.append(
                f"{name}: no such file" if known else f"{uri.split(':')[0]}: not a kind of address medtl reads"
            )
        except WeightsError as error:
            last = error
            reasons.append(f"{uri.split(':')[0]}: {error.what}")
    if last is not None and len(uris) == 1:
        raise last
    what = f"the weights cannot be had ({'; '.join(reasons)})"
    mend = "Get the file yourself, where there is a network, and pass it with --weights FILE"
    raise WeightsError(what, where=where, mend=mend)


def is_here(uris: Sequence[str], sha256: str) -> bool:
    """Whether one of ``uris`` is on this machine, without asking anybody and without reading it."""
    return any(_here(uri, sha256.lower(), MAX_BYTES) is not None for uri in uris)


def is_web(uri: str) -> bool:
    """Whether a text is the address of a web server."""
    return uri.lower().startswith(("https:", "http:"))


def is_hub(uri: str) -> bool:
    """Whether a text names a file of the Hugging Face hub."""
    return uri.startswith("hf:")


def split_hash(uri: str) -> tuple[str, str | None]:
    """Split ``ADDRESS#sha256=HASH`` as pip writes it; without a hash, None.

    Raises:
        WeightsError: If what follows ``#`` is anything else.
    """
    address, mark, fragment = uri.partition("#")
    if not mark:
        return address, None
    found = _FRAGMENT.fullmatch(fragment)
    if found is None:
        mend = "Write ADDRESS#sha256= and the file's 64 hex digits"
        raise WeightsError("what follows '#' is not a SHA-256", where=public_name(uri), mend=mend)
    return address, found[1].lower()


def public_name(uri: str) -> str:
    """Return what an address may be called in messages and records: without user, query and fragment."""
    if not is_web(uri):
        return uri.partition("#")[0]
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _here(uri: str, sha256: str | None, limit: int) -> Source | None:
    """Return what needs no network."""
    if is_web(uri):
        path = find(sha256, uri)
        if path is None:
            return None
        touch(path)
        return Source(path=path, origin=public_name(uri), downloaded=True)
    if is_hub(uri):
        # A branch may have moved; only with a hash is it certain that the file here is the one that is meant.
        if sha256 is None and not is_offline(hub=True):
            return None
        try:
            return _hub_source(uri, limit, "", local=True)
        except WeightsError:
            return None
    package = uri.startswith("package:")
    path = _package_file(uri[len("package:") :]) if package else _local(uri)
    return None if path is None else Source(path=path, origin=uri if package else path.name)


def _from_web(
    uri: str, sha256: str | None, size: int | None, limit: int, where: str, progress: Progress | None
) -> Source:
    if is_offline():
        name = file_name(sha256) if sha256 else None
        put = f", or put it as {name} into the folder that 'medtl weights' shows" if name else ""
        raise WeightsError(
            f"MEDTL_OFFLINE is set, and {_amount(size)} would be downloaded from {urlsplit(uri).hostname}",
            where=where,
            mend=f"Get the file where there is a network and pass it with --weights FILE{put}",
        )
    path = download(uri, sha256=sha256, size=size, max_bytes=limit, where=where, progress=progress)
    return Source(path=path, origin=public_name(uri), downloaded=True)


def _from_hub(uri: str, size: int | None, limit: int, where: str, progress: Progress | None) -> Source:
    if is_offline(hub=True):
        repo = parse_hub(uri, where)[0]
        variable = "MEDTL_OFFLINE" if is_offline() else "HF_HUB_OFFLINE"
        raise WeightsError(
            f"{variable} is set, and {_amount(size)} of {repo} would be downloaded from the Hugging Face hub",
            where=where,
            mend="Get the file elsewhere and pass it with --weights FILE, or copy the hub's cache here (HF_HOME)",
        )
    return _hub_source(uri, limit, where, progress=progress)


def _hub_source(uri: str, limit: int, where: str, *, local: bool = False, progress: Progress | None = None) -> Source:
    repo, revision, path = parse_hub(uri, where)
    found, commit = hub_file(uri, max_bytes=limit, where=where, local=local, progress=progress)
    return Source(path=found, origin=f"hf://{repo}@{commit or revision}/{path}")


def _amount(size: int | None) -> str:
    return f"{size / 1e6:.1f} MB" if size else "a file"


def _local(uri: str) -> Path | None:
    text = uri[len("file:") :] if uri.startswith("file:") else uri
    if uri.startswith("file:///"):
        text = text[2:]
    path = Path(text).expanduser()
    return path if path.is_file() else None


def _package_file(reference: str) -> Path | None:
    distribution, _, resource = reference.partition("/")
    parts = PurePosixPath(resource).parts
    if not parts or ".." in parts or resource.startswith("/"):
        return None
    try:
        path = Path(str(importlib.metadata.distribution(distribution).locate_file(resource)))
        if path.is_file():
            return path
        # An editable install keeps its files elsewhere; the import system knows where.
        path = Path(str(importlib.resources.files(parts[0]).joinpath(*parts[1:])))
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError, TypeError):
        return None
    return path if path.is_file() else None

"""Weights from the Hugging Face hub, through its own library and cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.downloaded import is_offline
from medtl_monai.transfer.http import Progress

_URI = re.compile(r"hf:(?://)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?/(?P<path>[^@]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 10.0
_REASONS = {
    "GatedRepoError": "it asks for your consent on the hub first",
    "RepositoryNotFoundError": "there is no such repository, or not for you",
    "RevisionNotFoundError": "there is no such revision",
    "RemoteEntryNotFoundError": "there is no such file",
    "EntryNotFoundError": "there is no such file",
    "LocalEntryNotFoundError": "it is not on this machine",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids the download",
}
"""What the library's errors say, by the names of their classes: the library may not be installed."""
_MEND = "Check the address and your access, or get the file yourself and pass it with --weights FILE"


def parse_hub(uri: str, where: str) -> tuple[str, str | None, str]:
    """Split ``hf://OWNER/REPOSITORY@REVISION/PATH`` as the hub's own library writes it.

    Returns:
        Repository, revision (branch, tag or commit; a slash in it is written ``%2F``) or None, path in the repository.

    Raises:
        WeightsError: If it is not written so.
    """
    found = _URI.fullmatch(uri)
    if found is None or ".." in found["path"].split("/"):
        mend = "Write hf://OWNER/REPOSITORY@REVISION/PATH, best with a commit as revision"
        raise WeightsError("that is not a file of the Hugging Face hub", where=where, mend=mend)
    return found["repo"], unquote(found["revision"]) if found["revision"] else None, found["path"]


def hub_file(
    uri: str, *, max_bytes: int, where: str, local: bool = False, progress: Progress | None = None
) -> tuple[Path, str]:
    """Return a file of the hub and its commit; the library keeps it in its own cache (``HF_HOME``).

    Args:
        uri: See :func:`parse_hub`.
        max_bytes: Largest size accepted; asked for before the download.
        where: What the file is called in messages.
        local: Only look into the cache.
        progress: Told how far it is.

    Raises:
        WeightsError: If the library is not installed, or the file is not there or too large.
    """
    repo, revision, path = parse_hub(uri, where)
    library = _library(where)
    local = local or is_offline(hub=True)
    try:
        if not local:
            address = library.hf_hub_url(repo, path, revision=revision)
            facts = library.get_hf_file_metadata(address, timeout=_TIMEOUT_S)
            if facts.size is not None and facts.size > max_bytes:
                what = f"the file has {facts.size} bytes, {max_bytes} are accepted"
                raise WeightsError(what, where=where, mend="Make sure that it is the right file")
        found = library.hf_hub_download(
            repo, path, revision=revision, local_files_only=local, tqdm_class=_bar(library, progress)
        )
    except WeightsError:
        raise
    except Exception as error:
        # The library raises its own errors, those of its HTTP client and the system's; their texts hold addresses.
        what = f"the hub gave no file of {repo} ({_REASONS.get(type(error).__name__, type(error).__name__)})"
        raise WeightsError(what, where=where, mend=_MEND) from error
    return Path(found), _commit_of(Path(found), path)


def _library(where: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        mend = "Install it with: pip install 'medtl-monai[hub]'"
        raise WeightsError("the package huggingface_hub is not installed", where=where, mend=mend) from None
    return huggingface_hub


def _commit_of(found: Path, path: str) -> str:
    """Read the commit off the cache's own layout: ``snapshots/COMMIT/PATH``."""
    commit = found.parts[-len(path.split("/")) - 1]
    return commit if _COMMIT.fullmatch(commit) else ""


def _bar(library: Any, progress: Progress | None) -> type:
    """Return a progress bar that draws nothing itself."""

    class Bar(library.utils.tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))
            self.there = float(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.there += n or 0
            if progress is not None and self.total:
                progress(int(self.there), int(self.total))
            return None

    return Bar

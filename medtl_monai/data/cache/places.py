"""Where caches are, and which folders are ours. Nothing here imports numpy or torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from medtl_monai.config import CacheConfig
from medtl_monai.errors import StorageError
from medtl_monai.files import translate_os_errors, write_text

VARIABLE = "MEDTL_CACHE"
"""Environment variable: the folder of the cache, or ``off``."""

OFF = ("off", "0", "no", "false")
MARKER = "medtl-cache.json"
ENTRIES = "entries"
STAMPS = "stamps.sqlite"
SCAN_SUFFIX = ".db"
"""Ending of the names of remembered scans."""
LAYOUT = 1
"""Version of the folder's layout; entries of another one are misses."""

MODE_FILE, MODE_FOLDER = 0o600, 0o700


def default_folder() -> Path:
    """Return the user's cache: ``$XDG_CACHE_HOME/medtl/volumes`` or ``~/.cache/medtl/volumes``."""
    return _home() / "volumes"


def scans_folder() -> Path:
    """Return where remembered scans are, see :func:`medtl_monai.dicom.index_path`."""
    return _home() / "scans"


def choose_folder(config: CacheConfig) -> Path | None:
    """Return where to cache: what the configuration says, else ``MEDTL_CACHE``, else the default; None for nowhere.

    ``MEDTL_CACHE=off`` switches the cache off whatever the configuration says.
    """
    if not config.enabled or switched_off():
        return None
    text = os.environ.get(VARIABLE, "").strip()
    if config.folder is not None:
        return config.folder.expanduser()
    return Path(text).expanduser() if text else default_folder()


def switched_off() -> bool:
    """Whether ``MEDTL_CACHE`` says that nothing is to be kept: neither preprocessed images nor scans."""
    return os.environ.get(VARIABLE, "").strip().casefold() in OFF


def is_cache(folder: Path) -> bool:
    """Whether medtl made the folder: only then anything in it is ever removed."""
    try:
        value = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("made_by") == "medtl-monai"


def make_folder(folder: Path) -> None:
    """Make a folder a cache that only its user can read.

    Raises:
        StorageError: It holds something else, is another user's, or cannot be made.
    """
    with translate_os_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=MODE_FOLDER)
        except (FileExistsError, NotADirectoryError) as error:
            raise StorageError("the cache is not a folder", where=folder.name, mend=_MEND) from error
        if not is_cache(folder):
            # Another process may be writing the marker now.
            if any(not entry.name.startswith((MARKER, f".{MARKER}.")) for entry in folder.iterdir()):
                what = "the folder is not empty, and it is not a cache of medtl"
                raise StorageError(what, where=folder.name, mend=_MEND)
            text = {"made_by": "medtl-monai", "layout": LAYOUT, "holds": "patient data: preprocessed images"}
            write_text(folder / MARKER, json.dumps(text, indent=2) + "\n", mode=MODE_FILE)
        entries = folder / ENTRIES
        entries.mkdir(exist_ok=True, mode=MODE_FOLDER)
        if hasattr(os, "getuid") and entries.stat().st_uid != os.getuid():
            raise StorageError("the cache belongs to another user", where=folder.name, mend=_MEND)


_MEND = "Name another folder with cache.folder or MEDTL_CACHE"


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "medtl"

"""Where a run's data lies on this machine: kept beside the user's key, never in the run folder.

A run folder is meant to be shared and holds no absolute path, because folders are often named after patients. The user
who trained it should still be able to evaluate or resume it from anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medtl_monai.config import RunConfig
from medtl_monai.data.identity import key_path
from medtl_monai.errors import ConfigError
from medtl_monai.files import write_text
from medtl_monai.training.folder import RunFolder

_DATA = ("studies", "labels", "dataset")


def used(config: RunConfig) -> list[str]:
    """Return which places a run's data came from: ``studies``, ``labels`` or both, or ``dataset``."""
    return [name for name in _DATA if getattr(config.data, name) is not None]


def remember(run_id: str, config: RunConfig) -> None:
    """Note where a run's data and one-file plugins are, in a file that only the user can read."""
    file = _file()
    known = _read(file)
    known[run_id] = {
        **{name: [str(getattr(config.data, name).resolve())] for name in used(config)},
        "plugins": [str(path.resolve()) for path in config.plugins],
        "cache": [str(config.cache.folder.expanduser().resolve())] if config.cache.folder else [],
    }
    write_text(file, json.dumps(known, indent=2), mode=0o600)


def locate(
    folder: RunFolder, *, studies: Path | None = None, labels: Path | None = None, dataset: Path | None = None
) -> RunConfig:
    """Return a run's configuration, with its data and plugins where they are on this machine.

    Args:
        folder: The run.
        studies: Where the studies are now, if they moved or the run was made elsewhere.
        labels: Where the labels are now, likewise.
        dataset: Where the data set is now, likewise.

    Raises:
        ConfigError: If the data is not where it was, or it is not known where it is.
    """
    config = folder.read_config()
    noted = _noted(folder)
    places: dict[str, Any] = {}
    for name, given in (("studies", studies), ("labels", labels), ("dataset", dataset)):
        if name not in folder.record.get("inputs", ()):
            if given is not None:
                what = f"the run was not trained on a place given by --{name}"
                raise ConfigError(what, where=folder.name, mend=f"Leave --{name} out")
            continue
        path = given or next(iter(noted.get(name, ())), None)
        if path is None or not path.exists():
            are, were = ("data set is", "it was") if name == "dataset" else (f"{name} are", "they were")
            subject, verb = are.rsplit(" ", 1)
            what = f"the run's {are} not where {were}" if path else f"it is not known where the run's {subject} {verb}"
            raise ConfigError(what, where=folder.name, mend=f"Say where: --{name} PATH")
        places[name] = path
    data = config.data.model_copy(update=places)
    cache = config.cache.model_copy(update={"folder": next(iter(noted.get("cache", ())), None)})
    return config.model_copy(update={"data": data, "plugins": plugins_of(folder), "cache": cache})


def plugins_of(folder: RunFolder) -> list[Path]:
    """Return the one-file plugins of a run that are still where they were; their copies are never run unasked."""
    return [path for path in _noted(folder).get("plugins", []) if path.is_file()]


def _noted(folder: RunFolder) -> dict[str, list[Path]]:
    known = _read(_file()).get(str(folder.record.get("id")), {})
    return {name: [Path(path) for path in paths] for name, paths in known.items()}


def _file() -> Path:
    return key_path().parent / "places.json"


def _read(file: Path) -> dict[str, dict[str, list[str]]]:
    try:
        value: dict[str, dict[str, list[str]]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # It is a convenience: a damaged one is made anew, and the user is asked for --studies and --labels.
        return {}
    return value

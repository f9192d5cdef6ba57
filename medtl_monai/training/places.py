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
from medtl_monai.files import write_json
from medtl_monai.training.folder import RunFolder

_NAMES = ("studies", "labels")


def remember(run_id: str, config: RunConfig) -> None:
    """Note where a run's data is, in a file that only the user can read."""
    file = _file()
    known = _read(file)
    known[run_id] = {n: str(p.resolve()) for n in _NAMES if (p := getattr(config.data, n)) is not None}
    write_json(file, known)
    file.chmod(0o600)


def recall(run_id: str) -> dict[str, Path]:
    """Return what :func:`remember` noted on this machine; empty elsewhere."""
    return {name: Path(path) for name, path in _read(_file()).get(run_id, {}).items()}


def locate(folder: RunFolder, *, studies: Path | None = None, labels: Path | None = None) -> RunConfig:
    """Return a run's configuration, with its data where it is now.

    Args:
        folder: The run.
        studies: Where the studies are now, if they moved.
        labels: Where the labels are now, if they moved.

    Raises:
        ConfigError: If the data is not where it was.
    """
    config = folder.read_config()
    noted = recall(str(folder.record.get("id")))
    places: dict[str, Any] = {}
    for name, given in (("studies", studies), ("labels", labels)):
        path = given or noted.get(name) or getattr(config.data, name)
        if path is not None and not path.exists():
            what = f"the run's {name} are not where they were ({path.name})"
            raise ConfigError(what, where=folder.name, mend=f"Say where: --{name} PATH")
        places[name] = path
    return config.model_copy(update={"data": config.data.model_copy(update=places)})


def _file() -> Path:
    return key_path().parent / "places.json"


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        value: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # It is a convenience: a damaged one is made anew, and the user is asked for --studies and --labels.
        return {}
    return value

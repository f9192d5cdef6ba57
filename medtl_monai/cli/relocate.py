"""Opening a stored configuration whose data may lie elsewhere today."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from medtl_monai.config import RunConfig
from medtl_monai.errors import ConfigError


def stored_config(
    run: Path,
    *,
    studies: Path | None,
    labels: Path | None,
    refuse: Collection[str] = (),
    sets: Sequence[str] | None = None,
) -> RunConfig:
    """Return a run's configuration, with the data where it is now.

    Args:
        run: The run folder.
        studies: Where the studies are now.
        labels: Where the labels are now.
        refuse: Flags that were given but cannot be changed.
        sets: ``--set`` items, which cannot be given either.

    Raises:
        ConfigError: If a flag would change the run, or the data is not where it was.
    """
    from medtl_monai.training.folder import RunFolder

    if refuse or sets:
        names = ", ".join([f"--{name.replace('_', '-')}" for name in sorted(refuse)] + (["--set"] if sets else []))
        raise ConfigError(
            f"{names} would change the run", where="--resume", mend="Resume as it was started, or start a new run"
        )
    config = RunFolder.open(run).read_config()
    places: dict[str, Any] = {}
    for name, given in (("studies", studies), ("labels", labels)):
        path = given or getattr(config.data, name)
        if path is not None and not path.exists():
            raise ConfigError(
                f"the run's {name} are not at {path} (seen from here)", where=run.name, mend=f"Say where: --{name} PATH"
            )
        places[name] = path
    return config.model_copy(update={"data": config.data.model_copy(update=places)})

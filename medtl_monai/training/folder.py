"""The run folder: what is in it, and how it is opened."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from medtl_monai.config import RunConfig, dump, validate
from medtl_monai.errors import RunError
from medtl_monai.files import finite, translate_os_errors, write_json, write_text

FORMAT = 1
"""Version of the run folder's layout. Opening a newer one is refused."""
SEVERAL = "folds.json"
"""The record of a folder that holds several runs: folds, seeds or both."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run.

    Everything is written atomically, and nothing holds an identifier other than case ids.
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new run folder.

        Raises:
            RunError: If something is there already.
            StorageError: If the folder cannot be made.
        """
        cls.check_free(path)
        with translate_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """Refuse a folder that is not empty, before any work is done for it.

        Raises:
            RunError: If something is there already.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                "the run folder exists and is not empty",
                where=path.name,
                mend="Choose another --out, or continue it with --resume",
            )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing run.

        Raises:
            RunError: If it is not a run folder, or one of a newer medtl.
        """
        folder = cls(path)
        if not folder.record_file.is_file():
            what = f"not a run folder (it has no {folder.record_file.name})"
            raise RunError(what, where=path.name, mend=folder._instead() or "Give a folder made by train")
        number = folder.record.get("format")
        if not isinstance(number, int) or number > FORMAT:
            raise RunError(
                f"written in run format {number}, this medtl reads up to {FORMAT}",
                where=path.name,
                mend="Upgrade medtl-monai",
            )
        return folder

    def _instead(self) -> str:
        """Return what to do where this is a folder of runs, or inside of one."""
        return "It holds several runs: give one of them" if (self.path / SEVERAL).is_file() else ""

    @property
    def name(self) -> str:
        """The folder's own name, which is how a run is called in messages."""
        return self.path.resolve().name

    @property
    def record_file(self) -> Path:
        """``run.json``: status, model, data and outcome."""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """``metrics.jsonl``: one line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def splits_file(self) -> Path:
        """``splits.csv``: which case is in which part."""
        return self.path / "splits.csv"

    @property
    def record(self) -> dict[str, Any]:
        """The content of :attr:`record_file`."""
        return self.read_json(self.record_file.name)

    def update(self, **values: Any) -> None:
        """Add to ``run.json`` or replace in it."""
        record = self.record if self.record_file.exists() else {"format": FORMAT}
        write_json(self.record_file, {**record, **values})

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises:
            RunError: If it is missing or damaged.
        """
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{name} is missing or damaged", where=self.name, mend="Train again") from error
        if not isinstance(value, dict):
            raise RunError(f"{name} is damaged", where=self.name, mend="Train again")
        return value

    def write_config(self, config: RunConfig) -> None:
        """Store the resolved configuration without places: folders are often named after patients or people.

        Of files that make the model (weights, plugins, a source run) the last part of the path is kept, of addresses
        what is before their query: that may hold an access key. Where the data
        is, is noted in the user's own folder (:mod:`medtl_monai.training.places`).
        """
        model = config.model.model_copy(
            update={"backbone": _name_of(config.model.backbone), "weights": _weights_of(config.model.weights)}
        )
        shared = config.model_copy(
            update={
                "data": config.data.model_copy(update={"studies": None, "labels": None, "dataset": None}),
                "splits": config.splits.model_copy(update={"file": None}),
                "model": model,
                "cache": config.cache.model_copy(update={"folder": None}),
                "plugins": [Path(path.name) for path in config.plugins],
                "out": None,
            }
        )
        write_text(self.path / "config.yaml", dump(shared))

    def read_config(self) -> RunConfig:
        """Return the stored configuration."""
        try:
            tree = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError("config.yaml is missing or damaged", where=self.name, mend="Train again") from error
        return validate(tree, where="config.yaml")

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch to ``metrics.jsonl``."""
        with translate_os_errors(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(dict(line)), allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the epochs logged so far; a last line cut off by a crash is left out."""
        if not self.metrics_file.exists():
            return []
        lines = []
        for text in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines

    def keep_metrics(self, epochs: int) -> None:
        """Drop the lines of epochs from ``epochs`` on: they will be run again."""
        kept = [line for line in self.read_metrics() if line["epoch"] < epochs]
        write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))


def _name_of(text: str | None) -> str | None:
    """Return the last part of a path to something that is there; a name stays as it is."""
    return Path(text).resolve().name if text is not None and Path(text).exists() else text


def _weights_of(text: str | None) -> str | None:
    scheme, mark, rest = (text or "").partition("://")
    if not mark or scheme == "file":
        return _name_of(text)
    return scheme + mark + re.split(r"[?#]", rest)[0]

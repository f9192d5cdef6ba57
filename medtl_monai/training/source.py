"""A finished run as a backbone: its shared layers, what they expect to see, and where their weights are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from medtl_monai.data.preprocessing import Preprocessing
from medtl_monai.errors import ConfigError
from medtl_monai.host import Choice, Host
from medtl_monai.specs import InputSpec, Intensity
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.record import ModelRecord


@dataclasses.dataclass(frozen=True)
class RunSource:
    """A finished run whose shared layers another run reuses.

    Attributes:
        folder: The run's folder.
        record: How its model was built.
    """

    folder: RunFolder
    record: ModelRecord

    def backbone(self, host: Host) -> Choice:
        """Return the run's backbone, with the options it was built with."""
        return self.record.choices(host)[0]

    def input_spec(self, wanted: InputSpec) -> InputSpec:
        """Return what the shared layers have learnt to see: the run's orientation, spacing and normalisation.

        The unit is the backbone's own: a run that learnt on Hounsfield units may be the source of a task in another.
        """
        seen = Preprocessing.from_json(self.record.preprocessing)
        intensity = dataclasses.replace(seen.intensity, unit=wanted.intensity.unit)
        return dataclasses.replace(
            wanted, orientation=seen.orientation, spacing_mm=seen.spacing_mm, intensity=intensity
        )

    @property
    def learnt(self) -> dict[str, Intensity]:
        """How the shared layers have learnt to see each named channel; the unit is open, as above."""
        plans = Preprocessing.from_json(self.record.preprocessing).channel_plans
        return {plan.name: dataclasses.replace(plan.intensity, unit="any") for plan in plans}

    @property
    def model_file(self) -> Path:
        """The tensors of its best checkpoint."""
        return CheckpointStore(self.folder.checkpoints).model_file("best")


def open_source(text: str) -> RunSource | None:
    """Open the run that a backbone's name stands for; None if it is not a folder.

    Raises:
        ConfigError: If it is a folder without a run in it.
        RunError: If the run is damaged or newer than this medtl.
    """
    path = Path(text)
    if not path.is_dir():
        return None
    if not (path / "run.json").is_file():
        mend = "Give the folder of a finished run, or a name from 'medtl backbones'"
        raise ConfigError("the folder is not a run", where=f"model.backbone={path.name}", mend=mend)
    folder = RunFolder.open(path)
    return RunSource(folder, ModelRecord.from_json(folder.record["model"]))

"""The command line's words in Python.

Example::

    import medtl_monai as medtl

    run = medtl.train(studies="studies", labels="labels.csv", target="large", backbone="resnet18-3d", out="runs/x")
    print(run.evaluate().metrics)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtl_monai.config import FLAGS, RunConfig, load_config, with_cache
from medtl_monai.errors import ConfigError, did_you_mean
from medtl_monai.host import Host

if TYPE_CHECKING:
    from medtl_monai.data.cases import Part
    from medtl_monai.evaluation.evaluate import Evaluation
    from medtl_monai.outputs.predict import Predicted
    from medtl_monai.training.reporter import Reporter
    from medtl_monai.training.trained import TrainedRun


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, with what can be done with it.

    Attributes:
        path: The folder.
        plugins: One-file plugins it needs; by default those it was trained with, if they are where they were.
    """

    path: Path
    plugins: tuple[Path, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says: status, best epoch, best value and more."""
        from medtl_monai.training.folder import RunFolder

        return RunFolder.open(self.path).record

    def model(self, *, device: str = "auto") -> TrainedRun:
        """Return the trained model, which predicts single volumes."""
        from medtl_monai.training.trained import TrainedRun

        return TrainedRun(self.path, self._host(), device=device)

    def evaluate(self, part: Part = "test", *, device: str = "auto", cache: bool | None = None) -> Evaluation:
        """Measure the run on a part of its cases and store the result in it.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            device: Where to compute.
            cache: Whether to use the cache of preprocessed images; None as in training.
        """
        from medtl_monai.evaluation.evaluate import evaluate
        from medtl_monai.outputs.evaluation import write_evaluation
        from medtl_monai.training.places import locate
        from medtl_monai.training.reporter import Silent

        model = self.model(device=device)
        result = evaluate(model, Silent(), part=part, config=with_cache(locate(model.folder), cache))
        write_evaluation(self.path, result)
        return result

    def predict(self, studies: str | Path, out: str | Path, *, device: str = "auto") -> Predicted:
        """Predict new studies into a folder."""
        from medtl_monai.outputs.predict import predict
        from medtl_monai.training.reporter import Silent

        return predict(self.model(device=device), Path(studies), Path(out), Silent())

    def resume(self, *, reporter: Reporter | None = None) -> Run:
        """Go on with an interrupted run."""
        from medtl_monai.outputs.report import write_report
        from medtl_monai.training.reporter import Silent
        from medtl_monai.training.train import resume

        resume(self.path, self._host(), reporter or Silent())
        write_report(self.path)
        return self

    def _host(self) -> Host:
        from medtl_monai.training.folder import RunFolder
        from medtl_monai.training.places import plugins_of

        return Host.load(self.plugins or plugins_of(RunFolder.open(self.path)))


def train(
    config: RunConfig | str | Path | None = None,
    *,
    plugins: Sequence[str | Path] = (),
    reporter: Reporter | None = None,
    set: dict[str, Any] | None = None,
    **flags: Any,
) -> Run:
    """Train a run, in the words of ``medtl train``.

    Args:
        config: A configuration or a YAML file; flags are laid over it.
        plugins: One-file plugins.
        reporter: Who is told; nobody by default.
        set: Any configuration keys: ``{"training.min_steps": 20}``.
        flags: ``studies, labels, target, backbone, head, policy, out, epochs, …`` as on the command line.

    Raises:
        MedtlError: If anything does not fit.
    """
    from medtl_monai.outputs.report import write_report
    from medtl_monai.training.reporter import Silent
    from medtl_monai.training.train import train as train_run

    unknown = [name for name in flags if name not in FLAGS]
    if unknown:
        raise ConfigError(f"train() has no argument {unknown[0]!r}", mend=did_you_mean(unknown[0], FLAGS))
    overrides = {FLAGS[name]: str(v) if isinstance(v, Path) else v for name, v in flags.items()} | (set or {})
    if isinstance(config, RunConfig):
        tree = config.model_dump(mode="json")
        settings = load_config(None, {**_dotted(tree), **overrides})
    else:
        settings = load_config(Path(config) if config is not None else None, overrides)
    files = tuple(dict.fromkeys([*settings.plugins, *(Path(p) for p in plugins)]))
    settings = settings.model_copy(update={"plugins": list(files)})
    folder, _ = train_run(settings, Host.load(files), reporter or Silent())
    write_report(folder.path)
    return Run(folder.path, files)


def open_run(path: str | Path, *, plugins: Sequence[str | Path] = ()) -> Run:
    """Open a run folder.

    Raises:
        RunError: If it is not one.
    """
    from medtl_monai.training.folder import RunFolder

    return Run(RunFolder.open(Path(path)).path, tuple(Path(p) for p in plugins))


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

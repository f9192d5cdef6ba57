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
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.reporter import Reporter
    from medtl_monai.training.trained import TrainedRun


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, or a folder of runs that belong together (folds, seeds), with what can be done with it.

    Attributes:
        path: The folder.
        plugins: One-file plugins it needs; by default those it was trained with, if they are where they were.
    """

    path: Path
    plugins: tuple[Path, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says: status, best epoch, best value and more; of several runs, ``folds.json``."""
        return self._folder().record

    @property
    def members(self) -> tuple[Run, ...]:
        """The single runs: of folds and seeds each of them, otherwise this one."""
        from medtl_monai.training.folds import RunsFolder

        folder = self._folder()
        if not isinstance(folder, RunsFolder):
            return (self,)
        return tuple(Run(folder.run(member).path, self.plugins) for member in folder.members)

    def model(self, *, device: str = "auto", tta_axes: Sequence[int] = ()) -> TrainedRun:
        """Return the trained model of a single run, which predicts single volumes.

        Args:
            device: Where to compute.
            tta_axes: Axes for test-time augmentation: the mean over all flips along them is predicted.
        """
        from medtl_monai.training.trained import TrainedRun

        return TrainedRun(self.path, self._host(), device=device, flips=tta_axes)

    def evaluate(
        self, part: Part = "test", *, device: str = "auto", cache: bool | None = None, tta_axes: Sequence[int] = ()
    ) -> Evaluation:
        """Measure the run on a part of its cases and store the result in it.

        Args:
            part: ``"train"``, ``"val"``, ``"test"``, or with folds ``"held-out"``.
            device: Where to compute.
            cache: Whether to use the cache of preprocessed images; None as in training.
            tta_axes: Axes for test-time augmentation.
        """
        from medtl_monai.evaluation.evaluate import evaluate
        from medtl_monai.evaluation.several import evaluate_several
        from medtl_monai.outputs.evaluation import write_evaluation
        from medtl_monai.training.folds import RunsFolder
        from medtl_monai.training.places import locate
        from medtl_monai.training.reporter import Silent

        folder = self._folder()
        config = with_cache(locate(folder), cache)
        if isinstance(folder, RunsFolder):
            result = evaluate_several(
                folder, self._host(), Silent(), part=part, config=config, device=device, flips=tta_axes
            )
        else:
            result = evaluate(self.model(device=device, tta_axes=tta_axes), Silent(), part=part, config=config)
        write_evaluation(self.path, result)
        return result

    def predict(
        self, studies: str | Path, out: str | Path, *, device: str = "auto", tta_axes: Sequence[int] = ()
    ) -> Predicted:
        """Predict new studies into a folder; of folds and seeds, the mean of all runs."""
        from medtl_monai.outputs.predict import predict
        from medtl_monai.training.ensemble import Ensemble, LoadedRuns
        from medtl_monai.training.folds import run_folders
        from medtl_monai.training.reporter import Silent

        runs = LoadedRuns(run_folders([self.path]), self._host(), device=device, flips=tta_axes)
        return predict(Ensemble(runs), Path(studies), Path(out), Silent())

    def resume(self, *, reporter: Reporter | None = None) -> Run:
        """Go on with an interrupted run."""
        from medtl_monai.training.folds import RunsFolder, resume_several
        from medtl_monai.training.reporter import Silent
        from medtl_monai.training.train import resume

        if isinstance(self._folder(), RunsFolder):
            resume_several(self.path, self._host(), reporter or Silent())
        else:
            resume(self.path, self._host(), reporter or Silent())
        self._write_reports()
        return self

    def _folder(self) -> RunFolder:
        from medtl_monai.training.folder import RunFolder
        from medtl_monai.training.folds import RunsFolder, holds_several

        return RunsFolder.open(self.path) if holds_several(self.path) else RunFolder.open(self.path)

    def _host(self) -> Host:
        from medtl_monai.training.places import plugins_of

        return Host.load(self.plugins or plugins_of(self._folder()))

    def _write_reports(self) -> None:
        from medtl_monai.outputs.report import write_report

        for path in dict.fromkeys([*(member.path for member in self.members), self.path]):
            write_report(path)


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
        flags: ``studies, labels, target, backbone, head, policy, out, epochs, …`` as on the command line. With
            ``folds`` or ``seeds`` several runs are trained, see :attr:`Run.members`.

    Raises:
        MedtlError: If anything does not fit.
    """
    from medtl_monai.training.folds import is_several, train_several
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
    host, reporter = Host.load(files), reporter or Silent()
    path = train_several(settings, host, reporter).path if is_several(settings) else None
    run = Run(path or train_run(settings, host, reporter)[0].path, files)
    run._write_reports()
    return run


def open_run(path: str | Path, *, plugins: Sequence[str | Path] = ()) -> Run:
    """Open a run folder.

    Raises:
        RunError: If it is not one.
    """
    run = Run(Path(path), tuple(Path(p) for p in plugins))
    run._folder()
    return run


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""``medtl train``: one run, from studies and labels to checkpoints."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption
from medtl_monai.cli.output import print_json, print_note, print_table
from medtl_monai.cli.settings import ConfigArgument, SetOption, build_config, host_for, merge
from medtl_monai.cli.terminal import hide, hide_paths
from medtl_monai.config import with_cache
from medtl_monai.errors import ConfigError

app = typer.Typer(add_completion=False)

_PLACES = ("studies", "labels", "dataset")


@app.command()
def train(
    config: ConfigArgument = None,
    dataset: Annotated[
        Path | None, typer.Option(help="A whole data set: Decathlon, nnU-Net raw, or one folder a class.")
    ] = None,
    studies: Annotated[Path | None, typer.Option(help="A tree of DICOM files.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", "--cases", help="A CSV table, one row a case: what medtl scan -o wrote, with your labels."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Label column, or several: a,b.")] = None,
    key: Annotated[str | None, typer.Option(help="Column joined to the studies.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of NIfTI paths, without --studies; a,b: channels.")] = None,
    group_by: Annotated[str | None, typer.Option(help="Column that never straddles splits. Default: patient.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of given splits: train, val, test.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A name (options: name:key=value) or a run folder.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights the backbone offers, a file, or an address.")] = None,
    head: Annotated[str | None, typer.Option(help="Default: chosen from the target.")] = None,
    policy: Annotated[str | None, typer.Option(help="Default: lp-ft with weights, full without.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images or patches a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Base learning rate.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without gain.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, order, augmentation.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N", help="As many runs with seeds from 0, or a list: 0,7.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation by patient: as many runs.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = None,
    workers: Annotated[int | None, typer.Option(help="Data-loading processes. Default: probed.")] = None,
    augment: Annotated[bool | None, typer.Option("--augment/--no-augment", help="Random changes.")] = None,
    tune: Annotated[
        bool | None, typer.Option("--tune/--no-tune", help="Probe threads, memory format, precision and workers.")
    ] = None,
    cache: Annotated[bool | None, typer.Option("--cache/--no-cache", help="Preprocessed images on disk.")] = None,
    prefix_cache: Annotated[
        bool | None, typer.Option("--prefix-cache/--no-prefix-cache", help="Compute what frozen layers see once.")
    ] = None,
    sets: SetOption = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; train nothing.")] = False,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Suggest a learning rate; train nothing.")] = False,
    redact_paths: RedactOption = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a backbone and a head on labelled studies under a freeze policy."""
    flags = {
        "dataset": dataset, "studies": studies, "labels": labels, "target": target, "key": key, "image": image,
        "group_by": group_by, "split": split, "backbone": backbone, "weights": weights, "head": head, "policy": policy,
        "out": out, "epochs": epochs, "batch_size": batch_size, "lr": lr, "patience": patience, "seed": seed,
        "seeds": seeds, "folds": folds, "device": device, "workers": workers, "augment": augment, "tune": tune,
        "cache": cache, "prefix_cache": prefix_cache,
    }  # fmt: skip
    if find_lr and (resume is not None or dry_run):
        raise ConfigError("--find-lr, --dry-run and --resume exclude each other", mend="Give one of them")
    if resume is not None:
        _resume(resume, flags, sets, plugin, json=json)
    elif find_lr:
        from medtl_monai.cli.find_lr import show_lr

        settings = build_config(config, flags, sets)
        show_lr(settings, host_for(settings, plugin), json=json)
    elif dry_run:
        from medtl_monai.cli.plan import show_plan

        settings = build_config(config, flags, sets)
        show_plan(settings, host_for(settings, plugin), json=json)
    else:
        _train(config, flags, sets, plugin, json=json)


def _train(
    file: Path | None, flags: dict[str, Any], sets: list[str] | None, plugin: list[Path] | None, *, json: bool
) -> None:
    settings = build_config(file, flags, sets)
    settings = settings.model_copy(update={"plugins": merge(settings.plugins, plugin)})
    host = host_for(settings, None)
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.folds import is_several, train_several
    from medtl_monai.training.train import train as train_run

    folder: RunFolder
    with _resumable(settings.out), closing_bars(RichReporter()) as reporter:
        if is_several(settings):
            folder = train_several(settings, host, reporter)
        else:
            folder, _ = train_run(settings, host, reporter)
    _report(folder.path, json=json)


def _resume(
    path: Path, flags: dict[str, Any], sets: list[str] | None, plugin: list[Path] | None, *, json: bool
) -> None:
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.folds import RunsFolder, holds_several, resume_several
    from medtl_monai.training.places import locate
    from medtl_monai.training.train import resume as resume_run

    several = holds_several(path)
    changed = [name for name, value in flags.items() if value is not None and name not in (*_PLACES, "cache")]
    if changed or sets:
        names = ", ".join([f"--{name.replace('_', '-')}" for name in changed] + (["--set"] if sets else []))
        mend = "Resume it as it was started, or start a new run"
        raise ConfigError(f"{names} would change the run", where="--resume", mend=mend)
    places = {name: flags[name] for name in _PLACES}
    hide(*places.values())
    settings = with_cache(locate((RunsFolder if several else RunFolder).open(path), **places), flags["cache"])
    hide_paths(settings.data.model_dump())
    with _resumable(path), closing_bars(RichReporter()) as reporter:
        if several:
            merged = settings.model_copy(update={"plugins": merge(settings.plugins, plugin)})
            resume_several(path, host_for(merged, None), reporter, config=merged)
        else:
            resume_run(path, host_for(settings, plugin), reporter, config=settings)
    _report(path, json=json)


def _report(path: Path, *, json: bool) -> None:
    from medtl_monai.outputs.report import write_report
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.folds import holds_several

    write_report(path)
    if holds_several(path):
        _report_several(path, json=json)
        return
    record = RunFolder.open(path).record
    if json:
        print_json({"run": str(path), **{k: v for k, v in record.items() if k not in ("model", "images")}})
        return
    early = ", stopped early" if record["stopped_early"] else ""
    best = ""
    if record["best_value"] is not None:
        best = (
            f"; best validation {record['key_metric']} {record['best_value']:.4f} in epoch {record['best_epoch'] + 1}"
        )
    typer.echo(f"finished {record['epochs']} epochs in {record['seconds']:.0f} s{early}{best}")
    typer.echo(f"the run is in {path}; next: medtl evaluate {path}")


def _report_several(path: Path, *, json: bool) -> None:
    from medtl_monai.outputs.report import write_report
    from medtl_monai.training.folds import RunsFolder, summary_of

    folder = RunsFolder.open(path)
    summary = summary_of(folder)
    for run in summary["runs"]:
        write_report(path / run["path"])
    if json:
        print_json({"run": str(path), **summary})
        return
    rows = []
    for run in summary["runs"]:
        value = "-" if run["best_value"] is None else f"{run['best_value']:.4f}"
        epoch = "-" if run["best_epoch"] is None else str(run["best_epoch"] + 1)
        rows.append((run["path"], run["status"], str(run["epochs"]), epoch, value, f"{run['seconds']:.0f} s"))
    key = summary["runs"][0]["key_metric"]
    print_table(("Run", "Status", "Epochs", "Best epoch", f"Validation {key}", "Time"), rows)
    typer.echo(f"the runs are in {path}; next: medtl evaluate {path}")


@contextmanager
def _resumable(path: Path | None) -> Iterator[None]:
    """Turn a termination signal into an interrupt, and tell how to go on after one."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if path is not None and any((path / name).exists() for name in ("checkpoints/index.json", "folds.json")):
            print_note(f"interrupted; every finished epoch is kept. Go on with: medtl train --resume {path}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)

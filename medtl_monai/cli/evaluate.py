"""``medtl evaluate``: how a run does on cases it has not learnt from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtl_monai.cli.flips import TTA_AXES_HELP, TTA_HELP, flips_of
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption
from medtl_monai.cli.output import print_json, print_table
from medtl_monai.cli.settings import host_for
from medtl_monai.cli.terminal import hide, hide_paths
from medtl_monai.config import with_cache

if TYPE_CHECKING:
    from medtl_monai.evaluation.spread import Spread

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or a folder of folds or seeds.")],
    part: Annotated[
        Literal["test", "val", "train", "held-out"],
        typer.Option(help="Which cases. held-out: with folds, those that no fold has seen."),
    ] = "test",
    studies: Annotated[Path | None, typer.Option(help="Where the studies are now, if they moved.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Where the labels are now, if they moved.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Where the data set is now, if it moved.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    tta: Annotated[bool, typer.Option("--tta", help=TTA_HELP)] = False,
    tta_axes: Annotated[str | None, typer.Option(metavar="AXES", help=TTA_AXES_HELP)] = None,
    redact_paths: RedactOption = False,
    cache: Annotated[bool | None, typer.Option("--cache/--no-cache", help="Preprocessed images on disk.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a run on its test cases, with 95 % intervals by patient."""
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.evaluation.evaluate import evaluate as evaluate_run
    from medtl_monai.evaluation.several import evaluate_several
    from medtl_monai.outputs.evaluation import write_evaluation
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.folds import RunsFolder, holds_several, run_folders
    from medtl_monai.training.places import locate
    from medtl_monai.training.trained import TrainedRun

    hide(studies, labels, dataset)
    opened = RunsFolder.open(run) if holds_several(run) else RunFolder.open(run)
    config = with_cache(locate(opened, studies=studies, labels=labels, dataset=dataset), cache)
    hide_paths(config.data.model_dump())
    host = host_for(config, plugin)
    flips = flips_of(run_folders([run]), tta, tta_axes)
    with closing_bars(RichReporter()) as reporter:
        if isinstance(opened, RunsFolder):
            result = evaluate_several(opened, host, reporter, part=part, config=config, device=device, flips=flips)
        else:
            model = TrainedRun(run, host, device=device, flips=flips)
            result = evaluate_run(model, reporter, part=part, config=config)
    folder = write_evaluation(run, result)
    if json:
        print_json(result.to_json())
        return
    rows = []
    for name, value in result.metrics.items():
        bounds = result.intervals.get(name)
        shown = "not estimable" if bounds is None else f"{bounds.low:.3f} … {bounds.high:.3f}"
        rows.append((name, "undefined" if math.isnan(value) else f"{value:.4f}", shown))
    print_table((f"{part}: {result.cases} cases, {result.groups} groups", "value", "95 % interval"), rows)
    for spread in result.spreads:
        _print_spread(spread)
    typer.echo(f"written to {folder}; report: {run / 'report.html'}")


def _print_spread(spread: Spread) -> None:
    """Print how the metrics vary over folds or seeds."""
    seeds = spread.over == "seeds"
    rows = []
    for name, values in spread.values.items():
        known = [v for v in values if not math.isnan(v)]
        reach = f"{min(known):.3f} … {max(known):.3f}" if known else "undefined"
        bounds = spread.intervals[name]
        shown = "descriptive only" if bounds is None else f"{bounds.low:.3f} … {bounds.high:.3f}"
        sd = "-" if math.isnan(spread.sd[name]) else f"{spread.sd[name]:.4f}"
        rows.append((name, f"{spread.mean[name]:.4f}", sd, reach, *([shown] if seeds else [])))
    columns = (f"over {len(spread.names)} {spread.over}", "mean", "sd", "lowest … highest")
    typer.echo()
    print_table((*columns, "95 % interval of the mean") if seeds else columns, rows)

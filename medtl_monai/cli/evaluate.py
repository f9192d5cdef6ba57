"""``medtl evaluate``: how a run does on cases it has not learnt from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption
from medtl_monai.cli.output import print_json, print_table
from medtl_monai.cli.settings import host_for
from medtl_monai.cli.terminal import hide, hide_paths
from medtl_monai.config import with_cache

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    part: Annotated[Literal["test", "val", "train"], typer.Option(help="Which cases.")] = "test",
    studies: Annotated[Path | None, typer.Option(help="Where the studies are now, if they moved.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Where the labels are now, if they moved.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Where the data set is now, if it moved.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    redact_paths: RedactOption = False,
    cache: Annotated[bool | None, typer.Option("--cache/--no-cache", help="Preprocessed images on disk.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a run on its test cases, with 95 % intervals by patient."""
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.evaluation.evaluate import evaluate as evaluate_run
    from medtl_monai.outputs.evaluation import write_evaluation
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.places import locate
    from medtl_monai.training.trained import TrainedRun

    hide(studies, labels, dataset)
    config = with_cache(locate(RunFolder.open(run), studies=studies, labels=labels, dataset=dataset), cache)
    hide_paths(config.data.model_dump())
    host = host_for(config, plugin)
    with closing_bars(RichReporter()) as reporter:
        result = evaluate_run(TrainedRun(run, host, device=device), reporter, part=part, config=config)
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
    typer.echo(f"written to {folder}; report: {run / 'report.html'}")

"""``medtl demo``: the main job on the sample studies, in a minute or two.

A source task with more data, then the small target task with the source's shared layers, then the same target from
scratch with as many steps; the three results side by side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import medtl_monai
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption, load_host
from medtl_monai.cli.output import print_json, print_table
from medtl_monai.cli.terminal import hide
from medtl_monai.errors import DataError

app = typer.Typer(add_completion=False)

BACKBONE = "resnet10-3d:levels=4,features=32,conv1_t_size=3"
_SOURCE_EPOCHS = 6
_TARGET_EPOCHS = 3
_METRICS = ("balanced_accuracy", "roc_auc")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the three runs go.")] = Path("runs/demo"),
    data: Annotated[Path | None, typer.Option(help="The sample studies. Default: those of the repository.")] = None,
    redact_paths: RedactOption = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run the main job on the sample studies: source task, transfer, and the same target from scratch."""
    load_host(plugin)
    samples = data or _samples()
    hide(samples)
    started = time.perf_counter()
    source, target = out / "source", out / "target-transfer"
    small = out / "target-scratch"
    runs = [
        ("source task: 21 CT studies", _run(samples, "ct", "source", source, BACKBONE, _SOURCE_EPOCHS)),
        (
            "target task: 7 MR studies, layers reused",
            _run(samples, "mr", "target", target, str(source), _TARGET_EPOCHS),
        ),
        ("target task: 7 MR studies, from scratch", _run(samples, "mr", "target", small, BACKBONE, _TARGET_EPOCHS)),
    ]
    predictions = _predict(target, samples / "studies" / "mr", out / "predictions")
    results = [{"what": what, **result} for what, result in runs]
    if json:
        print_json({"runs": results, "predictions": str(predictions), "seconds": time.perf_counter() - started})
        return
    _print(results)
    typer.echo("\nIs the lesion solid or a ring? On test studies that no run has seen, with 95 % intervals by patient.")
    typer.echo("Synthetic studies and one seed: this shows that the tool works, not that transfer helps in medicine.")
    typer.echo(f"Took {time.perf_counter() - started:.0f} s.\n")
    typer.echo(f"reports      {target}/report.html (and one in each run)")
    typer.echo(f"predictions  {predictions}")
    typer.echo(f"all runs     medtl runs {out}")


def _samples() -> Path:
    near = (Path("sample_dicoms"), Path(medtl_monai.__file__).parent.parent / "sample_dicoms")
    for folder in near:
        if (folder / "labels.csv").is_file():
            return folder
    raise DataError(
        "the sample studies are not here",
        mend="They are in the repository, not in the package: run this in a clone, or give --data FOLDER",
    )


def _run(samples: Path, studies: str, task: str, out: Path, backbone: str, epochs: int) -> dict[str, Any]:
    from medtl_monai.api import train
    from medtl_monai.cli.progress import RichReporter

    reporter = RichReporter()
    reporter.note(f"\n{out.name}: backbone {backbone}")
    run = train(
        studies=samples / "studies" / studies,
        labels=samples / f"{task}.csv",
        target="kind",
        split="split",
        backbone=backbone,
        epochs=epochs,
        out=out,
        reporter=reporter,
    )
    evaluation = run.evaluate()
    intervals = {name: evaluation.intervals[name] for name in _METRICS}
    return {
        "run": str(out),
        "policy": run.record["policy"],
        "test_cases": evaluation.cases,
        **{name: evaluation.metrics[name] for name in _METRICS},
        "intervals": {name: None if i is None else [i.low, i.high] for name, i in intervals.items()},
        "seconds": run.record["seconds"],
    }


def _predict(run: Path, studies: Path, out: Path) -> Path:
    from medtl_monai.api import open_run

    return open_run(run).predict(studies, out).table


def _print(results: Sequence[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        cells = [_cell(result[name], result["intervals"][name]) for name in _METRICS]
        rows.append((result["what"], result["policy"], str(result["test_cases"]), *cells, f"{result['seconds']:.0f} s"))
    typer.echo()
    print_table(("", "Policy", "Tested", "Balanced accuracy", "ROC AUC", "Training"), rows)


def _cell(value: float, bounds: list[float] | None) -> str:
    return f"{value:.2f}" + (f" ({bounds[0]:.2f} … {bounds[1]:.2f})" if bounds else "")

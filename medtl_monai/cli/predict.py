"""``medtl predict``: a finished run applied to new studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption
from medtl_monai.cli.output import print_json
from medtl_monai.cli.settings import merge
from medtl_monai.cli.terminal import hide
from medtl_monai.host import Host

app = typer.Typer(add_completion=False)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    studies: Annotated[
        Path,
        typer.Argument(help="DICOM tree, folder of NIfTI files, CSV table of them, or data set with test cases."),
    ],
    out: Annotated[Path, typer.Option(help="Where predictions go.")],
    id_map: Annotated[
        Path | None, typer.Option(help="Also write which case id is which study: a file with identifiers.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    redact_paths: RedactOption = False,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Predict new studies: a CSV row each, and masks on each image's own grid.

    A study that does not fit the run is refused with its reason; the exit code is then 2.
    """
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.outputs.predict import predict as predict_studies
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.places import plugins_of
    from medtl_monai.training.trained import TrainedRun

    hide(studies)
    host = Host.load(merge(plugins_of(RunFolder.open(run)), plugin))
    with closing_bars(RichReporter()) as reporter:
        result = predict_studies(TrainedRun(run, host, device=device), studies, out, reporter, id_map=id_map)
    if json:
        print_json({"table": str(result.table), "rows": list(result.rows), "refused": result.refused})
    else:
        done = len(result.rows) - len(result.refused)
        typer.echo(f"predicted {done} of {len(result.rows)} studies: {result.table}")
    if result.refused:
        raise typer.Exit(2)

"""``medtl predict``: a finished run, or several as an ensemble, applied to new studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtl_monai.cli.flips import TTA_AXES_HELP, TTA_HELP, flips_of
from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption
from medtl_monai.cli.output import print_json
from medtl_monai.cli.settings import merge
from medtl_monai.cli.terminal import hide
from medtl_monai.host import Host

app = typer.Typer(add_completion=False)


@app.command()
def predict(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="A run folder, a folder of folds or seeds, or several: their mean is predicted."
        ),
    ],
    studies: Annotated[
        Path,
        typer.Argument(help="DICOM tree, folder of NIfTI files, CSV table of them, or data set with test cases."),
    ],
    out: Annotated[Path, typer.Option(help="Where predictions go.")],
    id_map: Annotated[
        Path | None, typer.Option(help="Also write which case id is which study: a file with identifiers.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    tta: Annotated[bool, typer.Option("--tta", help=TTA_HELP)] = False,
    tta_axes: Annotated[str | None, typer.Option(metavar="AXES", help=TTA_AXES_HELP)] = None,
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
    from medtl_monai.training.ensemble import Ensemble, LoadedRuns
    from medtl_monai.training.folder import RunFolder
    from medtl_monai.training.folds import run_folders
    from medtl_monai.training.places import plugins_of

    hide(studies)
    paths = run_folders(runs)
    flips = flips_of(paths, tta, tta_axes)
    files = list(dict.fromkeys(file for path in paths for file in plugins_of(RunFolder.open(path))))
    host = Host.load(merge(files, plugin))
    with closing_bars(RichReporter()) as reporter:
        ensemble = Ensemble(LoadedRuns(paths, host, device=device, flips=flips))
        result = predict_studies(ensemble, studies, out, reporter, id_map=id_map)
    if json:
        print_json({"table": str(result.table), "rows": list(result.rows), "refused": result.refused})
    else:
        done = len(result.rows) - len(result.refused)
        mean = f" as the mean of {len(paths)} runs" if len(paths) > 1 else ""
        typer.echo(f"predicted {done} of {len(result.rows)} studies{mean}: {result.table}")
    if result.refused:
        raise typer.Exit(2)

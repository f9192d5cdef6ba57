"""``medtl scan``: what a tree of DICOM files holds, and the table that training starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtl_monai.cli.options import DebugOption, JsonOption, PluginOption, RedactOption, load_host
from medtl_monai.cli.output import print_json, print_note, print_table
from medtl_monai.cli.terminal import hide
from medtl_monai.config import parse_set
from medtl_monai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from medtl_monai.data.inputs import Inputs
    from medtl_monai.data.survey import SeriesLine, StudyLine, Survey

app = typer.Typer(add_completion=False)

_MODE = 0o600


@app.command()
def scan(
    folder: Annotated[Path, typer.Argument(help="A tree of DICOM files, or a zip archive.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write a labels table: a row a study. It holds patient identifiers, mode 0600."
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            metavar="RULE=VALUE",
            help="Try a rule of data.select, such as modality=MR. Repeatable.",
            show_default=False,
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME.RULE=VALUE",
            help="Try a rule of data.inputs: several images a study, such as T1.description=t1. Repeatable.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A run's YAML configuration: its data.select or data.inputs.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="PATTERN", help="Files or folders to leave out, such as '*.jpg'. Repeatable."),
    ] = None,
    show_descriptions: Annotated[
        bool, typer.Option("--show-descriptions", help="Show SeriesDescription, which may name people.")
    ] = False,
    redact_paths: RedactOption = False,
    remember: Annotated[
        bool,
        typer.Option(
            "--remember/--no-remember",
            help="Keep the headers, encrypted, in your own cache folder: the next scan reads only what has changed.",
        ),
    ] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")] = None,
    plugin: PluginOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the studies and series in a tree of DICOM files: what training would read, what not, and why."""
    hide(folder)
    load_host(plugin)
    _check_free(out)
    from medtl_monai.data.survey import survey

    inputs = _inputs(config, select, input)
    found = survey(
        folder,
        inputs=inputs,
        skip=skip or (),
        redact_paths=redact_paths,
        workers=workers,
        remember=remember,
    )
    if json:
        print_json(_plain(found, inputs, descriptions=show_descriptions))
    else:
        _show(found, inputs, descriptions=show_descriptions)
    _say_data_set(folder)
    if out is not None:
        _write(found, out, folder, redact_paths=redact_paths)


def _say_data_set(folder: Path) -> None:
    from medtl_monai.data.layouts import with_manifest

    try:
        layout = with_manifest(folder)
    except DataError:
        # It has a dataset.json that cannot be read, which is no matter of DICOM.
        return
    if layout is not None:
        print_note(f"the folder is a data set in {layout.title}: medtl train --dataset {folder} --out RUN")


def _check_free(out: Path | None) -> None:
    if out is not None and out.exists():
        what = "the table exists, and labels may have been added to it"
        raise DataError(what, where=out.name, mend="Choose another name, or move it away")


def _inputs(file: Path | None, select: list[str] | None, named: list[str] | None) -> Inputs:
    from medtl_monai.config import load_config
    from medtl_monai.data.inputs import Inputs

    rules = parse_set(select or [])
    if any("." in name for name in rules):
        raise ConfigError("a rule has no dots in its name", where="--select", mend="For example --select modality=MR")
    several = parse_set(named or [])
    for key in several:
        name, dot, rule = key.partition(".")
        if not (name and dot and rule) or "." in rule:
            what = f"{key!r} is not NAME.RULE"
            raise ConfigError(what, where="--input", mend="For example --input T1.description=t1")
    overrides = {f"data.select.{name}": value for name, value in rules.items()}
    overrides |= {f"data.inputs.{key}": value for key, value in several.items()}
    return Inputs.of(load_config(file, overrides).data)


def _plain(found: Survey, inputs: Inputs, *, descriptions: bool) -> dict[str, Any]:
    """Return the survey for JSON: pseudonyms, no identifiers."""
    hidden = {"description"} if not descriptions else set()
    hidden |= {"input"} if not inputs.names else set()
    return {
        "studies": [
            {
                "case_id": study.case_id,
                "patient": study.patient,
                "segmentations": study.segmentations,
                "structure_sets": study.structure_sets,
                "masks": list(study.masks),
                **({"inputs": study.inputs} if inputs.names else {}),
                "series": [_plain_series(line, hidden) for line in study.series],
            }
            for study in found.studies
        ],
        "segmentations": found.segmentations,
        "structure_sets": found.structure_sets,
        "skipped": found.skipped,
        "damaged": [{"file": file, "problem": problem} for file, problem in found.damaged],
    }


def _plain_series(line: SeriesLine, hidden: set[str]) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(line).items() if k not in hidden}


def _show(found: Survey, inputs: Inputs, *, descriptions: bool) -> None:
    columns = ["Case", "Patient", "Modality", "Shape", "Spacing mm", "Plane", "Files", "Folder", "Verdict"]
    if descriptions:
        columns.insert(3, "Description")
    if inputs.names:
        columns.insert(2, "Input")
    if found.studies:
        rows = [_cells(study, line, inputs, descriptions) for study in found.studies for line in study.series]
        print_table(columns, rows)
        typer.echo()
    for text in [*_missing(found), *_counts(found)]:
        typer.echo(text)


def _missing(found: Survey) -> list[str]:
    """Say which inputs are not clear: a missing one has no line of its own."""
    return [
        f"{study.case_id}, {name}: {state}"
        for study in found.studies
        for name, state in study.inputs.items()
        if state != "kept"
    ]


def _cells(study: StudyLine, line: SeriesLine, inputs: Inputs, descriptions: bool) -> list[str]:
    spacing = "×".join(f"{s:.4g}" for s in line.spacing_mm) if line.spacing_mm else "unknown"
    reason = f": {line.reason}" if line.reason else ""
    cells = [study.case_id, study.patient, line.modality or "-", "×".join(map(str, line.shape)), spacing]
    cells += [line.plane or "-", str(line.files), line.folder, f"{line.verdict}{reason}"]
    if line.part:
        cells[3] += f" ({line.part})"
    if descriptions:
        cells.insert(3, line.description or "-")
    if inputs.names:
        cells.insert(2, line.input or "-")
    return cells


def _counts(found: Survey) -> list[str]:
    clear = sum(study.image is not None for study in found.studies)
    patients = len({study.patient for study in found.studies})
    images = "the images are" if any(study.inputs for study in found.studies) else "the image is"
    texts = [f"{len(found.studies)} studies, {patients} patients; {images} clear in {clear}"]
    objects = {"DICOM SEG": found.segmentations, "RT Structure Set": found.structure_sets}
    texts += [f"{name}: {number}" for name, number in objects.items() if number]
    texts += [f"skipped, {reason}: {number}" for reason, number in sorted(found.skipped.items())]
    texts += [f"damaged: {file}: {problem}" for file, problem in found.damaged]
    return texts


def _write(found: Survey, out: Path, folder: Path, *, redact_paths: bool) -> None:
    from medtl_monai.data.survey import case_rows
    from medtl_monai.outputs.tables import write_csv

    if not found.studies:
        mend = "Train from it with --dataset" if (folder / "dataset.json").is_file() else "Check the folder"
        raise DataError("no DICOM images found, so there is no table", where=folder.name, mend=mend)
    write_csv(out, case_rows(found, redact_paths=redact_paths), mode=_MODE)
    masks = 0 if redact_paths or found.unpacked else sum(len(study.masks) == 1 for study in found.studies)
    print_note(
        f"{out} holds patient identifiers: keep it to yourself. Add a column of labels, then: "
        f"medtl train --studies {folder} --cases {out} --target COLUMN"
    )
    if masks:
        print_note(
            f"the column 'mask' names the segmentation of {masks} of {len(found.studies)} studies; to segment: "
            "--target mask" + (" --set data.unmatched=drop" if masks < len(found.studies) else "")
        )
    several = sum(len(study.masks) > 1 for study in found.studies)
    if several:
        print_note(
            f"{several} of {len(found.studies)} studies have several segmentations of their image (column 'verdict'): "
            "write the one to learn from into the column 'mask'"
        )
    unclear = sum(study.image is None for study in found.studies)
    if unclear:
        print_note(
            f"the image of {unclear} of {len(found.studies)} studies is not clear (column 'verdict'): add rules to "
            "data.select (data.inputs for several images), or delete those rows and set data.unmatched=drop"
        )

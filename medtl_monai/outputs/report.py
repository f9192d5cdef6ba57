"""``report.html``: one self-contained page about a run, drawn from what its folder holds.

The page asks nothing of the network: styles and figures are in it, and its content security policy forbids the rest.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medtl_monai.files import write_text
from medtl_monai.outputs import report_facts, report_several, report_training
from medtl_monai.outputs.report_files import EvaluatedPart, RunFiles, SeveralFiles, read_files, read_several
from medtl_monai.outputs.report_results import result_of
from medtl_monai.training.folds import holds_several

_CAUTIONS = {
    "val": "These cases chose the checkpoint, so the figures flatter the model.",
    "train": "The model has learnt from these cases: the figures say how well it fits, not how well it does.",
}


def write_report(run: Path) -> Path:
    """Write ``RUN/report.html`` and return its path; of a folder of runs, one page for all of them.

    Equal run folders give equal pages. Cases appear by their pseudonymous ids alone.

    Args:
        run: A run folder; training may be unfinished, and everything but ``run.json`` may be missing.

    Raises:
        RunError: If it is not a run folder, or its ``run.json`` is damaged.
        StorageError: If the page cannot be written; an older one is then unchanged.
    """
    path = run / "report.html"
    write_text(path, render_several(read_several(run)) if holds_several(run) else render(read_files(run)))
    return path


def render(files: RunFiles) -> str:
    """Return the page as HTML."""
    return _environment().get_template("report.html.j2").render(_context(files))


def render_several(several: SeveralFiles) -> str:
    """Return the page of runs that belong together as HTML."""
    files = several.files
    context = {
        "head": report_several.headline(several),
        "results": [_result(files, part) for part in files.parts],
        "runs": report_several.run_rows(several),
        "metric": report_several.metric(several),
        "places": report_several.place_rows(several),
        "data": report_facts.data_facts(files)[:1] + report_facts.data_facts(files)[2:],
        "environment": report_facts.environment_facts(files),
        "plugins": report_facts.plugin_rows(files),
        "commands": report_facts.commands(files),
    }
    return _environment().get_template("several.html.j2").render(context)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("medtl_monai.outputs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _context(files: RunFiles) -> dict[str, Any]:
    return {
        "head": report_facts.headline(files),
        "results": [_result(files, part) for part in files.parts],
        "curves": report_training.curves(files),
        "phases": len(report_training.spans(files)),
        "settings": report_training.settings(files),
        "policy": report_training.policy_rows(files),
        "coverage": report_training.coverage_rows(files),
        "start": report_facts.start(files),
        "data": report_facts.data_facts(files),
        "parts": report_facts.part_rows(files),
        "preprocessing": report_facts.preprocessing_facts(files),
        "notes": files.below("model", "preprocessing").get("notes") or (),
        "environment": report_facts.environment_facts(files),
        "plugins": report_facts.plugin_rows(files),
        "commands": report_facts.commands(files),
    }


def _result(files: RunFiles, part: EvaluatedPart) -> dict[str, Any]:
    found = result_of(files, part)
    found.tables[:0] = report_several.spread_tables(files, part)
    return {
        "found": found,
        "who": report_facts.who(files, part) + report_several.flips_text(part),
        "epoch": part.checkpoint_epoch,
        "caution": _CAUTIONS.get(part.part, ""),
    }

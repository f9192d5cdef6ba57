"""What ``medtl train --dry-run`` shows: data, model, policy table, memory and time; nothing is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from json import loads as json_loads
from typing import TYPE_CHECKING, Any

import typer

from medtl_monai.cli.catalogue import shape
from medtl_monai.cli.output import print_fields, print_json, print_note, print_table

if TYPE_CHECKING:
    from medtl_monai.config import RunConfig
    from medtl_monai.host import Host
    from medtl_monai.training.assemble import Assembly
    from medtl_monai.training.prefix_plan import Choice
    from medtl_monai.training.train import Estimate


def show_plan(config: RunConfig, host: Host, *, json: bool) -> None:
    """Assemble a run and print what it would do.

    Raises:
        MedtlError: With the first thing that does not fit, as training would.
    """
    from medtl_monai.cli.progress import RichReporter, closing_bars
    from medtl_monai.training.assemble import assemble
    from medtl_monai.training.datasets import load_datasets
    from medtl_monai.training.folds import is_several, member_config, members_of
    from medtl_monai.training.train import estimate

    if is_several(config):
        members = members_of(config)
        print_note(f"{len(members)} runs; this is what {members[0].path} would do")
        config = member_config(config, members[0], config.out)
    with closing_bars(RichReporter()) as reporter:
        assembly = assemble(config, host, reporter)
        cost = estimate(assembly, load_datasets(assembly, reporter))
    if json:
        print_json(_as_json(assembly, cost))
        return
    print_fields(_data_fields(assembly))
    _heading("Model")
    print_fields(_model_fields(assembly))
    if assembly.coverage is not None:
        rows = assembly.coverage.rows()
        print_table(
            ("  Stage", "Role", "Loaded", "Missing", "Other shape"),
            [
                (f"  {r['stage']}", r["role"], f"{r['loaded']}/{r['total']}", str(r["missing"]), str(r["mismatched"]))
                for r in rows
            ],
        )
    _heading(f"Policy {assembly.schedule.policy}")
    print_policy(assembly.schedule.summary())
    _heading("Cost, from one measured step in plain float32")
    print_fields(_cost_fields(cost))


def print_policy(entries: Iterable[dict[str, Any]]) -> None:
    """Print the rows of a policy table: epochs, stage, what trains, learning-rate factor, parameters, cacheability.

    The stages of each span of epochs are followed by the parameters that train in it.
    """
    rows: list[tuple[str, ...]] = []
    for epochs, stages in itertools.groupby(entries, _span):
        trained = 0
        for entry in stages:
            frozen = entry["trains"] == "none"
            parameters = 0 if frozen else entry["parameters"] or 0
            trained += parameters
            rows.append(
                (
                    f"  {epochs}",
                    entry["stage"],
                    entry["role"],
                    entry["weights"],
                    "frozen" if frozen else _trained(entry),
                    "-" if frozen else f"{entry['lr']:.3g}",
                    f"{parameters:,}",
                    "yes" if entry["cacheable"] else "-",
                )
            )
        rows.append((f"  {epochs}", "all", "", "", "", "", f"{trained:,}", ""))
    print_table(("  Epochs", "Stage", "Role", "Weights", "Trains", "LR factor", "Parameters", "Cacheable"), rows)


def _span(entry: dict[str, Any]) -> str:
    epochs = f"{entry['first_epoch'] + 1}-{entry['last_epoch'] + 1}"
    return epochs + (f" (plateau {entry['plateaus']})" if entry["plateaus"] else "")


def _trained(entry: dict[str, Any]) -> str:
    return json_loads(entry["adapter"])["name"] if entry["adapter"] else str(entry["trains"])


def _heading(text: str) -> None:
    typer.echo(f"\n{text}")


def _data_fields(assembly: Assembly) -> list[tuple[str, str]]:
    from medtl_monai.data.cases import HELD_OUT, PARTS

    data = assembly.data
    info = assembly.record.context.target
    every = {part: data.splits.ids(part) for part in (*PARTS, HELD_OUT)}
    parts = {part: ids for part, ids in every.items() if ids or part in PARTS}
    groups = {part: len({data.splits.groups[i] for i in ids}) for part, ids in parts.items()}
    fields = [
        ("Cases", ", ".join(f"{part} {len(ids)} ({groups[part]} groups)" for part, ids in parts.items())),
        ("Target", f"{info.kind}: {', '.join(info.columns)}"),
    ]
    if info.counts:
        pairs = zip(info.classes, info.counts, strict=True)
        fields.append(("Training cases", ", ".join(f"{name} {count}" for name, count in pairs)))
    elif info.classes:
        fields.append(("Structures", ", ".join(info.classes)))
    shown = data.preprocessing
    size = shape(shown.size) if shown.size else "each image's own"
    fields += [
        ("Orientation", shown.orientation or "each image's own"),
        ("Spacing", f"{shape(shown.spacing_mm)} mm" if shown.spacing_mm else "each image's own"),
        ("Image size", size if shown.patch_size is None else f"{size}, patches {shape(shown.patch_size)}"),
    ]
    if not shown.channel_plans:
        return [*fields, ("Intensity", f"{shown.intensity.unit}, {shown.intensity.normalise}")]
    fields.append(("Inputs", ", ".join(plan.name for plan in shown.channel_plans)))
    for plan in shown.channel_plans:
        fields.append((f"Intensity of {plan.name}", f"{plan.intensity.unit}, {plan.intensity.normalise}"))
    filled = data.table.filled
    return [*fields, *((f"{name} missing", f"{len(ids)} cases, filled with 0") for name, ids in filled.items())]


def _model_fields(assembly: Assembly) -> list[tuple[str, str]]:
    total = sum(p.numel() for p in assembly.model.parameters())
    start = "random" if assembly.coverage is None else assembly.coverage.source
    return [
        ("Backbone", assembly.parts.backbone.qualified),
        ("Head", assembly.parts.head.qualified),
        ("Parameters", f"{total:,}"),
        ("Start", start),
        ("Device", str(assembly.device)),
    ]


def _cost_fields(cost: Estimate) -> list[tuple[str, str]]:
    return [
        ("Input", shape(cost.image_size)),
        ("Steps", f"{cost.steps} of {1000 * cost.step_seconds:.0f} ms"),
        ("Time", f"about {cost.seconds / 60:.1f} minutes, validation not counted"),
        ("Memory", f"about {cost.memory_bytes / 2**20:.0f} MiB"),
        *((f"From epoch {choice.epoch + 1}", _frozen(choice)) for choice in cost.frozen if choice.why),
    ]


def _frozen(choice: Choice) -> str:
    if choice.start:
        return f"{choice.why}; saves about {choice.saved_seconds / 60:.1f} minutes of the time above"
    return f"frozen stages computed in every step: {choice.why}"


def _as_json(assembly: Assembly, cost: Estimate) -> dict[str, Any]:
    import dataclasses

    from medtl_monai.data.cases import HELD_OUT, PARTS

    data = assembly.data
    return {
        "cases": {part: list(data.splits.ids(part)) for part in (*PARTS, HELD_OUT)},
        "model": assembly.record.to_json(),
        "coverage": assembly.coverage.to_json() if assembly.coverage else None,
        "policy": assembly.schedule.summary(),
        "cost": dataclasses.asdict(cost),
    }

"""The report's account of training: curves, who trained when, and what weights the stages started from."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from medtl_monai.outputs.figures.learning import Span, learning_curves
from medtl_monai.outputs.report_files import RunFiles
from medtl_monai.outputs.report_text import by, count, number
from medtl_monai.specs import Rule
from medtl_monai.transfer.table import Phase, PolicyTable

_PARAMS = {"all": "trains", "norm": "norm layers train", "bias": "biases train", "adapter": "adapters train"}


def curves(files: RunFiles) -> Markup | None:
    """Return the learning curves, or None before the first epoch."""
    if not files.epochs:
        return None
    key = files.record.get("key_metric")
    return learning_curves(files.epochs, key, files.best_epoch, spans(files))


def spans(files: RunFiles) -> list[Span]:
    """Return the phases of the policy, each with what trains in it."""
    table = files.policy
    if table is None:
        return []
    return [Span(phase.first, phase.last, _what(phase, table)) for phase in table.phases()]


def policy_rows(files: RunFiles) -> dict[str, Any] | None:
    """Return the policy as a table: a column for each phase, a row for each stage; None without ``policy.csv``."""
    table = files.policy
    if table is None:
        return None
    trainable = {int(line["epoch"]): line.get("trainable") for line in files.epochs}
    phases = table.phases()
    return {
        "name": table.policy,
        "phases": [
            {"epochs": _epochs(phase), "trainable": number(trainable[phase.first]) if phase.first in trainable else ""}
            for phase in phases
        ],
        "counted": any(phase.first in trainable for phase in phases),
        "stages": [
            {
                "name": stage.name,
                "role": stage.role,
                "weights": _weights(table, stage.name, stage.pretrained),
                "cells": [_cell(table, phase, stage.name) for phase in phases],
            }
            for stage in table.stages
        ],
        "plateaus": table.max_plateaus,
    }


def coverage_rows(files: RunFiles) -> dict[str, Any] | None:
    """Return what weights every stage received, or None where none were loaded."""
    report = files.coverage
    if report is None:
        return None
    return {
        "source": report.source,
        "sha256": report.sha256[:12],
        "share": f"{100 * report.coverage:.0f} %",
        "loaded": f"{report.loaded} of {report.total}",
        "stages": [{**row, "percent": round(100 * row["loaded"] / row["total"]) if row["total"] else None}
                   for row in report.rows()],
        "unused": len(report.unused),
        "adaptations": report.adaptations,
    }  # fmt: skip


def settings(files: RunFiles) -> list[tuple[str, str]]:
    """Return how the optimisation was set up, from the configuration and the tuning record."""
    facts: list[tuple[str, str]] = []
    config = files.config
    if config is not None:
        t = config.training
        clip = "off" if t.clip_grad_norm is None else f"norm {t.clip_grad_norm:g}"
        facts += [
            ("Epochs", f"{t.epochs}, at least {count(t.min_steps, 'step')} each"),
            ("Batch size", str(t.batch_size) + (", classes in turn" if t.sampling == "balanced" else "")),
            ("Optimizer", f"{t.optimizer}, learning rate {t.lr:g} ({t.schedule}), weight decay {t.weight_decay:g}"),
            ("Warm-up", f"{t.warmup:.0%} of the steps"),
            ("Gradient clipping", clip),
            ("Early stopping", "off" if t.patience is None else f"after {count(t.patience, 'epoch')} without gain"),
            ("Seed", str(t.seed)),
            ("Augmentation", _augmentation(files)),
        ]
    if files.tuning:
        facts.append(("Arithmetic", _arithmetic(files.tuning)))
    return facts


def _augmentation(files: RunFiles) -> str:
    if files.config is None or not files.config.augmentation.enabled:
        return "off"
    a = files.config.augmentation
    parts = [f"rotation ±{a.rotate_deg:g}°", f"scale ±{a.scale:.0%}", f"translation ±{a.translate:.0%}"]
    parts += [f"intensity ±{a.intensity:.0%}", f"noise {a.noise:g}"]
    return ", ".join([*parts, f"flips along axes {by(a.flip_axes)}" if a.flip_axes else "no flips"])


def _arithmetic(tuning: dict[str, Any]) -> str:
    text = str(tuning.get("precision", "?")) + (", channels-last" if tuning.get("channels_last") else "")
    kept = tuning.get("fp32_layers") or []
    text += f", {count(len(kept), 'layer')} kept in fp32" if kept else ""
    text += f", {count(tuning['threads'], 'thread')}" if tuning.get("threads") else ""
    text += f", {count(tuning['workers'], 'worker')}" if tuning.get("workers") else ""
    times = tuning.get("milliseconds") or {}
    measured = ", ".join(f"{name} {number(ms, 3)} ms" for name, ms in times.items())
    return text + (f"; measured: {measured}" if measured else "")


def _what(phase: Phase, table: PolicyTable) -> str:
    names = [stage.name for stage in table.stages if stage.name in phase.trains]
    if len(names) == len(table.stages):
        some = any(params != "all" for params in phase.trains.values())
        return "part of every stage" if some else "all stages"
    return " + ".join(names) if len(names) <= 2 else f"{len(names)} of {len(table.stages)} stages"


def _epochs(phase: Phase) -> str:
    first, last = phase.first + 1, phase.last + 1
    return f"epoch {first}" if first == last else f"epochs {first}–{last}"


def _weights(table: PolicyTable, name: str, pretrained: bool) -> str:
    if name in table.random_frozen:
        return "random, frozen"
    return "loaded" if pretrained else "new"


def _cell(table: PolicyTable, phase: Phase, name: str) -> dict[str, Any]:
    """Return what a stage does in a phase; factors may change from epoch to epoch within it."""
    rules = [table.row(epoch)[name] for epoch in range(phase.first, phase.last + 1)]
    first: Rule = rules[0]
    if first.frozen:
        return {"text": "frozen", "frozen": True, "detail": ""}
    detail = [f"lr ×{_range([rule.lr for rule in rules])}"]
    if any(rule.norm == "eval" for rule in rules):
        detail.append("statistics fixed")
    if any(rule.anchor for rule in rules):
        detail.append(f"anchor {_range([rule.anchor for rule in rules])}")
    return {"text": _PARAMS.get(first.params, first.params), "frozen": False, "detail": ", ".join(detail)}


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return number(low, 3) if low == high else f"{number(low, 3)}–{number(high, 3)}"

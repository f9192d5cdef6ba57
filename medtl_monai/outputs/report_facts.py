"""The report's headline, data, environment and commands: short facts from the run's records."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import HELD_OUT, PARTS
from medtl_monai.evaluation.statistics import MIN_GROUPS
from medtl_monai.outputs.report_files import EvaluatedPart, RunFiles
from medtl_monai.outputs.report_results import interval_text
from medtl_monai.outputs.report_text import by, count, duration, fixed, metric_name, number

Facts = list[tuple[str, str]]

_FITS = {"crop": "cropped or padded", "shrink": "larger images made smaller", "resize": "made larger or smaller"}


def headline(files: RunFiles) -> dict[str, Any]:
    """Return title, key result, banners and the run in six facts."""
    record = files.record
    return {
        "name": files.name,
        "task": record.get("task", "unknown task"),
        "status": record.get("status", "unknown"),
        "key": key_result(files),
        "banners": banners(files),
        "facts": [
            ("Backbone", _with_options(files, "backbone")),
            ("Head", _with_options(files, "head")),
            ("Freeze policy", str(record.get("policy", "–"))),
            ("Start", start(files)),
            ("Training", _training(files)),
            ("Cases", ", ".join(f"{n} {part}" for part, n in files.below("cases").items()) or "–"),
        ],
    }


def start(files: RunFiles) -> str:
    """Return what the weights were before training."""
    if files.coverage is not None:
        share = f"{files.coverage.loaded} of {files.coverage.total} backbone tensors"
        source = files.record.get("source")
        return f"shared layers of run {source} ({share})" if source else f"weights {files.coverage.source} ({share})"
    if any(problem.startswith("coverage.json") for problem in files.problems):
        return "not known: coverage.json is damaged"
    return "random weights"


def key_result(files: RunFiles) -> dict[str, str] | None:
    """Return the value of the key metric on the test part, else what validation said; None if there is neither."""
    name = files.record.get("key_metric")
    test = next((part for part in files.parts if part.part == "test" and name in part.metrics), None)
    if isinstance(name, str) and test is not None:
        bounded = test.intervals.get(name) is not None
        interval = f"95 % interval {interval_text(test, name)}" if bounded else f"interval: {interval_text(test, name)}"
        return {
            "label": f"{metric_name(name)}, test",
            "value": fixed(test.metrics[name]),
            "interval": interval,
            "cases": who(files, test),
        }
    best = files.record.get("best_value")
    if best is None:
        values = [line.get(f"val/{name}") for line in files.epochs if line["epoch"] == files.best_epoch]
        best = values[0] if values else None
    if not isinstance(name, str) or not isinstance(best, (int, float)):
        return None
    return {
        "label": f"{metric_name(name)}, validation",
        "value": fixed(float(best)),
        "interval": "no interval: these cases chose the checkpoint",
        "cases": f"not yet measured on test cases: medtl evaluate {shlex.quote(files.name)}",
    }


def who(files: RunFiles, part: EvaluatedPart) -> str:
    """Return how many cases of how many patients, or of what else they are grouped by."""
    cases = count(part.cases, "case")
    data = files.config.data if files.config else None
    if data is not None and data.group_by is not None:
        return f"{cases} in {count(part.groups, 'group')} by {data.group_by}"
    alone = files.splits and len({row.get("group") for row in files.splits}) == len(files.splits)
    if data is not None and alone and not _patients_known(files, data):
        return f"{cases}, each counted as a patient of its own"
    return f"{cases} of {count(part.groups, 'patient')}"


def _patients_known(files: RunFiles, data: DataConfig) -> bool:
    """Whether the images are DICOM, which says whose they are; the stored configuration has no places."""
    inputs = files.record.get("inputs") or ()
    whole = "dataset" in inputs and any(files.below("images").get("modalities") or ())
    return data.studies is not None or "studies" in inputs or whole


def banners(files: RunFiles) -> list[tuple[str, str]]:
    """Return ``(level, text)`` of what a reader must know first; levels are danger, warning and note."""
    found = control_banners(files)
    status = files.record.get("status")
    if status != "finished":
        done = f"{len(files.epochs)} epochs" + (f" of {files.config.training.epochs}" if files.config else "")
        mend = f"Go on with: medtl train --resume {shlex.quote(files.name)}"
        found.append(("warning", f"Training has not finished (status: {status}, {done}). {mend}"))
    for part in files.parts:
        found += part_banners(files, part)
    return found + [("warning", f"{problem}.") for problem in files.problems]


def control_banners(files: RunFiles) -> list[tuple[str, str]]:
    """Return the banner of a control experiment, whose frozen stages never had weights."""
    frozen = files.record.get("random_frozen") or ()
    names = ", ".join(map(str, frozen))
    text = f"Control experiment: these stages were frozen with random weights and learnt nothing: {names}."
    return [("danger", text)] if frozen else []


def part_banners(files: RunFiles, part: EvaluatedPart) -> list[tuple[str, str]]:
    """Return what must be known before the results of a part are read."""
    found = []
    best, measured = files.best_epoch, part.checkpoint_epoch
    if best is not None and measured is not None and measured != best + 1:
        text = (
            f"The {part.part} results are of the checkpoint of epoch {measured}, the best is now of epoch {best + 1}."
        )
        found.append(("warning", f"{text} Evaluate again."))
    if part.groups < MIN_GROUPS:
        text = f"Too few patients for an interval: the {part.part} part has {part.groups}, at least {MIN_GROUPS}"
        found.append(("note", f"{text} are needed. The values alone say little."))
    return found


def data_facts(files: RunFiles) -> Facts:
    """Return what images and labels were."""
    target, images = files.target, files.below("images")
    if not target and not images:
        return []
    return [
        ("Label", ", ".join(map(str, target.get("columns", ()))) or "–"),
        *_label_facts(files),
        ("Modality", ", ".join(m or "not known" for m in images.get("modalities", ())) or "–"),
        ("Values", ", ".join("arbitrary" if u == "any" else str(u) for u in images.get("units", ())) or "–"),
        ("Channels", number(images.get("channels"))),
        *_input_facts(files),
    ]


def _input_facts(files: RunFiles) -> Facts:
    """Return the names of the channels, and how often one is missing."""
    images = files.below("images")
    if not images.get("inputs"):
        return []
    facts = [("Inputs", ", ".join(map(str, images["inputs"])))]
    filled, cases = images.get("filled") or {}, files.below("cases")
    total = sum(n for n in cases.values() if isinstance(n, int))
    if filled:
        counts = ", ".join(f"{name} in {number(len(ids))} of {number(total)} cases" for name, ids in filled.items())
        facts.append(("Missing, filled with 0", counts))
    return facts


def part_rows(files: RunFiles) -> list[tuple[str, str, str]]:
    """Return part, cases and groups of ``splits.csv``."""
    cases = Counter(row.get("split") for row in files.splits)
    groups = Counter(part for _, part in {(row.get("group"), row.get("split")) for row in files.splits})
    return [(part, number(cases[part]), number(groups[part])) for part in (*PARTS, HELD_OUT) if cases[part]]


def preprocessing_facts(files: RunFiles) -> Facts:
    """Return how images were brought to the network."""
    plan = files.below("model", "preprocessing")
    if not plan:
        return []
    intensity = files.below("model", "preprocessing", "intensity")
    size = by(plan.get("size")) if plan.get("size") else "each image's own"
    return [
        ("Dimensions", number(plan.get("spatial_dims"))),
        ("Orientation", str(plan.get("orientation") or "as stored")),
        ("Spacing", by(plan.get("spacing_mm"), "mm") if plan.get("spacing_mm") else "each image's own"),
        ("Size", size + (f", {_FITS[plan['fit']]}" if plan.get("size") and plan.get("fit") in _FITS else "")),
        ("Training patch", by(plan.get("patch_size")) if plan.get("patch_size") else "whole image"),
        *(_channel_facts(plan) or _value_facts(intensity)),
        ("Missing slices", str(plan.get("on_gap", "–"))),
    ]


def _channel_facts(plan: Mapping[str, Any]) -> Facts:
    """Return how the values of each named channel are changed."""
    found = []
    for channel in plan.get("channel_plans") or ():
        (_, kept), (_, normalised) = _value_facts(channel.get("intensity") or {})
        found.append((f"Values of {channel.get('name')}", f"{kept}; {normalised}"))
    return found


def _value_facts(intensity: Mapping[str, Any]) -> Facts:
    clip = intensity.get("clip")
    percentiles = intensity.get("clip_percentiles")
    unit = "" if intensity.get("unit", "any") == "any" else f" {intensity['unit']}"
    kept = "all values"
    if clip:
        kept = f"{number(clip[0])} to {number(clip[1])}{unit}"
    elif percentiles:
        kept = f"percentiles {number(percentiles[0])} to {number(percentiles[1])} of each image"
    return [("Values kept", kept), ("Normalisation", str(intensity.get("normalise", "–")))]


def environment_facts(files: RunFiles) -> Facts:
    """Return versions and hardware."""
    found = files.environment
    facts = [("medtl-monai", str(files.record.get("medtl", "–")))]
    if found:
        facts += [
            ("Python", str(found.get("python", "–"))),
            ("System", f"{found.get('system', '–')}, {found.get('machine', '–')}"),
            ("Device", f"{found.get('device', '–')}, {number(found.get('cores'))} cores"),
        ]
    packages = found.get("packages")
    return facts + [(str(k), str(v)) for k, v in (packages if isinstance(packages, dict) else {}).items()]


def plugin_rows(files: RunFiles) -> list[tuple[str, ...]]:
    """Return kind, name, distribution with version, options and digest of everything used."""
    rows: list[tuple[str, ...]] = []
    for plugin in files.plugins:
        options = ", ".join(f"{k}={v}" for k, v in (plugin.get("parameters") or {}).items()) or "–"
        source = f"{plugin.get('distribution', '–')} {plugin.get('version', '')}".strip()
        digest = str(plugin.get("file_sha256") or plugin.get("digest") or "–")[:12]
        rows.append((str(plugin.get("kind", "–")), str(plugin.get("name", "–")), source, options, digest))
    return rows


def commands(files: RunFiles) -> list[str]:
    """Return the commands that train the run again and measure it."""
    run = shlex.quote(files.name)
    again = shlex.quote(f"{files.name}-again")
    return [f"medtl train {run}/config.yaml --out {again}", f"medtl evaluate {again}"]


def _label_facts(files: RunFiles) -> Facts:
    target = files.target
    kind, names, counts = target.get("kind"), target.get("classes") or (), target.get("counts") or ()
    if kind in ("class", "classes") and counts:
        shown = ", ".join(f"{name}: {n}" for name, n in zip(names, counts, strict=False))
        return [("Classes in training" if kind == "class" else "Labels set in training", shown)]
    if kind == "number":
        columns = target.get("columns") or ()
        spread = zip(columns, target.get("mean") or (), target.get("std") or (), strict=False)
        return [(f"{name} in training", f"mean {number(m)}, standard deviation {number(s)}") for name, m, s in spread]
    if kind == "mask":
        ignored = target.get("ignore")
        extra = [] if ignored is None else [("Ignored mask value", number(ignored))]
        return [("Structures", ", ".join(map(str, names[1:]))), *extra]
    return []


def _with_options(files: RunFiles, kind: str) -> str:
    name = str(files.below("model").get(kind, "–"))
    plugin = next((p for p in files.plugins if p.get("kind") == kind), {})
    version = plugin.get("version")
    return name if version is None else f"{name} ({version})"


def _training(files: RunFiles) -> str:
    epochs = files.record.get("epochs", len(files.epochs))
    text = f"{epochs} epochs" if epochs != 1 else "1 epoch"
    if files.record.get("stopped_early"):
        text += ", stopped early"
    if files.best_epoch is not None:
        text += f", best epoch {files.best_epoch + 1}"
    seconds = files.record.get("seconds")
    return text + (f", {duration(seconds)}" if seconds else "")

"""Run folders as training and evaluation leave them, written without training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from medtl_monai.config import dump, load_config
from medtl_monai.data.inputs import Inputs
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import At, Rule, StageInfo, TargetInfo
from medtl_monai.training.folder import RunFolder
from medtl_monai.transfer.coverage import CoverageReport, StageCoverage
from medtl_monai.transfer.schedule import plan

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
EPOCHS = 12
PROBE = 4

TARGETS: dict[str, dict[str, Any]] = {
    "classification": {"kind": "class", "columns": ["lesion"], "classes": ["benign", "malignant"], "counts": [33, 21]},
    "multiclass": {"kind": "class", "columns": ["type"], "classes": ["a", "b", "c", "d"], "counts": [20, 14, 12, 8]},
    "multilabel": {"kind": "classes", "columns": ["oedema", "effusion", "nodule"],
                   "classes": ["oedema", "effusion", "nodule"], "counts": [20, 14, 9]},
    "regression": {"kind": "number", "columns": ["anterior_ml"], "mean": [1.62], "std": [0.31]},
    "segmentation": {"kind": "mask", "columns": ["mask"], "classes": ["background", "anterior", "posterior"]},
}  # fmt: skip
KEYS = {"classification": "roc_auc", "multiclass": "roc_auc", "multilabel": "roc_auc", "regression": "mae",
        "segmentation": "dice"}  # fmt: skip
TASKS = {"multiclass": "classification"}


class LinearProbeThenAll(FreezePolicy):
    """The head for some epochs, then everything, features slowly."""

    def __call__(self, at: At, stages: Any) -> dict[str, Rule]:
        slow = {s.name: Rule(lr=0.1) for s in stages if s.role != "head" and at.epoch >= PROBE}
        return {**slow, "head": Rule()}


def make_run(
    path: Path, kind: str = "classification", *, parts: tuple[str, ...] = ("test",), groups: int = 24, **record: Any
) -> Path:
    """Write a run folder of a kind of :data:`TARGETS`; ``record`` changes entries of ``run.json``."""
    path.mkdir(parents=True)
    target = {"classes": [], "counts": [], "cases": 54, "mean": [], "std": [], "ignore": None, **TARGETS[kind]}
    _write_json(path / "run.json", {**_record(kind, target), **record})
    _write_config(path, target["columns"])
    _write_epochs(path, KEYS[kind], 0.9 if kind == "regression" else 0.55)
    _write_transfer(path)
    _write_environment(path)
    _write_splits(path)
    for part in parts:
        write_part(path, part, kind, groups=groups)
    return path


class Stand:
    """Stands in for a :class:`~medtl_monai.training.trained.TrainedRun`: a head, and predictions by a given function.

    Args:
        path: Its run folder.
        head: The head whose metrics count.
        target: What the labels are.
        answer: Maps a volume to a prediction (a batch of one), or raises.
        unit: Unit that the preprocessing asks for.
    """

    def __init__(self, path: Path, head: Any, target: TargetInfo, answer: Any, *, unit: str = "any") -> None:
        self.folder = RunFolder(path)
        self.record = SimpleNamespace(head="medtl-monai:stand-in", context=SimpleNamespace(target=target))
        self.preprocessing = SimpleNamespace(on_gap="error", units=unit if unit != "any" else None)
        self.model = SimpleNamespace(head=head)
        self.inputs = Inputs()
        self.epoch = 3
        self.flips = ()
        self.answer = answer

    def predict(self, volume: Any, *, case_id: str) -> Any:
        """Return the given answer."""
        return self.answer(volume)


def write_part(path: Path, part: str, kind: str, *, groups: int = 24, checkpoint_epoch: int = 10) -> None:
    """Write ``evaluation/PART`` with predictions that are mostly right."""
    rows = _ROWS[kind](np.random.default_rng(7))
    metrics, intervals = _metrics(kind)
    few = groups < 5
    folder = path / "evaluation" / part
    folder.mkdir(parents=True)
    _write_json(
        folder / "metrics.json",
        {"run": path.name, "part": part, "checkpoint_epoch": checkpoint_epoch, "cases": len(rows), "groups": groups,
         "metrics": metrics, "intervals": {k: None if few else v for k, v in intervals.items()}},
    )  # fmt: skip
    write_rows(folder / "predictions.csv", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _record(kind: str, target: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": 1, "id": "0011223344556677", "medtl": "0.1.0", "status": "finished",
        "task": TASKS.get(kind, kind), "policy": "lp-ft", "source": None,
        "cases": {"train": 54, "val": 18, "test": 24}, "random_frozen": [],
        "images": {"modalities": ["MR"], "units": ["any"], "channels": 1},
        "model": {
            "backbone": "medtl-monai:resnet18-3d", "backbone_parameters": {"features": 64},
            "head": f"medtl-monai:{TASKS.get(kind, kind)}", "head_parameters": {"dropout": 0.2},
            "context": {"stages": [], "spatial_dims": 3, "target": target, "image_channels": 1},
            "preprocessing": {
                "spatial_dims": 3, "kind": target["kind"], "channels": 1, "orientation": "RAS",
                "spacing_mm": [1.0, 1.0, 1.5], "size": [64, 64, 48], "fit": "crop", "patch_size": None,
                "intensity": {"unit": "any", "clip": None, "clip_percentiles": [0.5, 99.5], "normalise": "zscore"},
                "on_gap": "error",
                "notes": ["3 of 54 training images are larger than 64×64×48 and are cropped about their centre"],
            },
        },
        "key_metric": KEYS[kind], "mode": "min" if kind == "regression" else "max", "seconds": 4210.5,
        "epochs": EPOCHS, "best_epoch": 9, "best_value": 0.86, "stopped_early": False,
    }  # fmt: skip


def _write_config(path: Path, columns: list[str]) -> None:
    config = load_config(None, {
        "data.studies": "studies", "data.labels": "labels.csv", "data.target": columns,
        "training.epochs": EPOCHS, "out": path.name,
    })  # fmt: skip
    (path / "config.yaml").write_text(dump(config), encoding="utf-8")


def _write_epochs(path: Path, key: str, level: float) -> None:
    rng = np.random.default_rng(3)
    lines = []
    for epoch in range(EPOCHS):
        done = epoch / (EPOCHS - 1)
        value = level + (-0.5 if level > 0.6 else 0.31) * (1 - np.exp(-3 * done)) + rng.normal(0, 0.008)
        lines.append({
            "epoch": epoch, "loss": float(0.72 * np.exp(-1.8 * done) + 0.08 + rng.normal(0, 0.01)),
            "lr": float(1e-3 * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-6),
            "trainable": 513 if epoch < PROBE else 33_161_537, "seconds": 350.9, "best": epoch in (0, 1, 3, 5, 7, 9),
            f"val/{key}": float(value),
        })  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_transfer(path: Path) -> None:
    infos = [StageInfo(name=n, role="backbone", pretrained=True, kinds=frozenset({"all", "norm"})) for n in STAGES]
    infos.append(StageInfo(name="head", role="head", pretrained=False, kinds=frozenset({"all", "bias"})))
    plan(LinearProbeThenAll(), infos, EPOCHS, name="lp-ft").write(path / "policy.csv")
    tensors = {name: tuple(f"{name}.{n}" for n in range(12)) for name in STAGES}
    stages = [StageCoverage(name=name, role="backbone", loaded=keys) for name, keys in tensors.items()]
    stages.append(StageCoverage(name="head", role="head", missing=("head.weight", "head.bias")))
    report = CoverageReport(
        source="resnet18-3d-ct", sha256="ab" * 32, stages=tuple(stages), unused=("fc.weight", "fc.bias"),
        adaptations=("stem.0.weight: 3 input channels became 1, kernels summed",),
    )  # fmt: skip
    _write_json(path / "coverage.json", report.to_json())


def _write_environment(path: Path) -> None:
    packages = {"torch": "2.13.0+cpu", "monai": "1.6.1", "numpy": "2.4.6", "pydicom": "3.0.2"}
    _write_json(path / "environment.json", {"python": "3.11.7", "system": "Linux", "machine": "x86_64",
                                            "packages": packages, "device": "cpu", "cores": 8})  # fmt: skip
    _write_json(path / "tuning.json", {"precision": "bf16", "channels_last": True, "fp32_layers": ["layer1.0"],
                                       "threads": 8, "milliseconds": {"fp32": 6619.63, "bf16": 2504.41}})  # fmt: skip
    names = {"backbone": "resnet18-3d", "head": "classification", "policy": "lp-ft"}
    _write_json(path / "plugins.json", [
        {"kind": kind, "name": f"medtl-monai:{name}", "plugin": "medtl-monai/builtin", "distribution": "medtl-monai",
         "version": "0.1.0", "digest": "87381f968a5b" + "0" * 52, "parameters": {"n": 2}, "file_sha256": None}
        for kind, name in names.items()
    ])  # fmt: skip


def _write_splits(path: Path) -> None:
    rows = []
    for part, number, patients in (("train", 54, 40), ("val", 18, 14), ("test", 24, 24)):
        rows += [{"case_id": _id(f"{part}{n}"), "group": _id(f"{part}g{n % patients}"), "split": part}
                 for n in range(number)]  # fmt: skip
    write_rows(path / "splits.csv", rows)


def _id(text: str) -> str:
    return f"{sum(ord(c) * 131**n for n, c in enumerate(text)) % 16**12:012x}"


def _cases(count: int = 24) -> list[dict[str, Any]]:
    return [{"case_id": _id(f"test{n}"), "row": n + 2} for n in range(count)]


def _class_rows(rng: np.random.Generator, kind: str) -> list[dict[str, Any]]:
    names = TARGETS[kind]["classes"]
    rows = []
    for n, case in enumerate(_cases()):
        true = n % len(names)
        logits = rng.normal(0, 1, len(names)) + 1.6 * (np.arange(len(names)) == true)
        p = np.exp(logits) / np.exp(logits).sum()
        probabilities = {f"probability_{name}": float(v) for name, v in zip(names, p, strict=True)}
        rows.append({**case, "true": names[true], "predicted": names[int(p.argmax())], **probabilities})
    return rows


def _label_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    names = TARGETS["multilabel"]["classes"]
    rows = []
    for n, case in enumerate(_cases()):
        true = [int(n % (k + 2) == 0) for k in range(len(names))]
        p = 1 / (1 + np.exp(-(rng.normal(0, 1, len(names)) + 3 * np.array(true) - 1.5)))
        row: dict[str, Any] = dict(case)
        for name, t, v in zip(names, true, p, strict=True):
            known = not (name == "nodule" and n % 5 == 0)
            row |= {f"true_{name}": t if known else "", f"predicted_{name}": int(v >= 0.5), f"probability_{name}": v}
        rows.append(row)
    return rows


def _number_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    true = rng.normal(1.62, 0.31, 24)
    predicted = 0.75 * true + 0.42 + rng.normal(0, 0.12, 24)
    pairs = zip(_cases(), true, predicted, strict=True)
    return [{**case, "true_anterior_ml": t, "predicted_anterior_ml": p} for case, t, p in pairs]


def _mask_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for n, case in enumerate(_cases()):
        a, b = np.clip(rng.normal(0.86, 0.05), 0, 1), np.clip(rng.normal(0.81, 0.08), 0, 1)
        second = "" if n == 4 else f"{b:.6f}"
        mean = a if n == 4 else (a + b) / 2
        rows.append({**case, "dice": f"{mean:.6f}", "dice/anterior": f"{a:.6f}", "dice/posterior": second})
    return rows


_ROWS = {
    "classification": lambda rng: _class_rows(rng, "classification"),
    "multiclass": lambda rng: _class_rows(rng, "multiclass"),
    "multilabel": _label_rows,
    "regression": _number_rows,
    "segmentation": _mask_rows,
}


def _metrics(kind: str) -> tuple[dict[str, float], dict[str, list[float] | None]]:
    if kind == "regression":
        values = {"mae": 0.118, "rmse": 0.151, "r2": 0.71, "pearson_r": 0.88, "spearman_r": 0.86}
    elif kind == "segmentation":
        values = {"dice": 0.836, "dice/anterior": 0.861, "dice/posterior": 0.811}
    elif kind == "multilabel":
        names = TARGETS[kind]["classes"]
        bases = {"roc_auc": 0.9, "average_precision": 0.82, "f1_macro": 0.77}
        values = {}
        for base, value in bases.items():
            values |= {base: value, **{f"{base}/{name}": value - 0.02 * n for n, name in enumerate(names)}}
    else:
        values = {"roc_auc": 0.88, "balanced_accuracy": 0.79, "accuracy": 0.79, "f1_macro": 0.79,
                  "average_precision": 0.9}  # fmt: skip
    intervals: dict[str, list[float] | None] = {k: [v - 0.08, v + 0.07] for k, v in values.items()}
    return values, intervals


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")

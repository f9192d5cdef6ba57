"""What became of every tensor when weights were loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from medtl_monai.specs import Role

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """A tensor whose shape in the file is not the model's.

    Attributes:
        name: Its name in the model.
        file: Shape in the file.
        model: Shape in the model.
    """

    name: str
    file: Shape
    model: Shape


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageCoverage:
    """What one stage received.

    Attributes:
        name: The stage.
        role: backbone, neck or head.
        loaded: Names of the tensors that were loaded.
        missing: Names of the tensors that the file does not have.
        mismatched: Tensors of another shape.
    """

    name: str
    role: Role
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()

    @property
    def total(self) -> int:
        """Number of tensors that count."""
        return len(self.loaded) + len(self.missing) + len(self.mismatched)

    @property
    def pretrained(self) -> bool:
        """Whether every tensor was loaded: measured, not declared."""
        return self.role != "head" and len(self.loaded) == self.total


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CoverageReport:
    """What a weights file gave to a model.

    Attributes:
        source: What was loaded, without a folder.
        sha256: Hash of the file's bytes, or empty.
        stages: Every stage in order.
        unused: Keys of the file that nothing was loaded from.
        adaptations: What was changed to fit, one sentence each.
        origin: Where the file comes from: its name, a package, an address without its query, or a commit of the hub.
    """

    source: str
    sha256: str
    stages: tuple[StageCoverage, ...]
    unused: tuple[str, ...] = ()
    adaptations: tuple[str, ...] = ()
    origin: str = ""

    @property
    def loaded(self) -> int:
        """Number of backbone tensors that were loaded."""
        return sum(len(s.loaded) for s in self.stages if s.role == "backbone")

    @property
    def total(self) -> int:
        """Number of backbone tensors."""
        return sum(s.total for s in self.stages if s.role == "backbone")

    @property
    def coverage(self) -> float:
        """Share of the backbone's tensors that were loaded."""
        return self.loaded / self.total if self.total else 1.0

    @property
    def pretrained(self) -> dict[str, bool]:
        """Whether each stage received all its weights; for :func:`medtl_monai.transfer.stages.stage_infos`."""
        return {stage.name: stage.pretrained for stage in self.stages}

    def rows(self) -> list[dict[str, Any]]:
        """Return one plain mapping a stage: ``stage, role, loaded, total, missing, mismatched, pretrained``."""
        return [
            {
                "stage": stage.name,
                "role": stage.role,
                "loaded": len(stage.loaded),
                "total": stage.total,
                "missing": len(stage.missing),
                "mismatched": len(stage.mismatched),
                "pretrained": stage.pretrained,
            }
            for stage in self.stages
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values (``coverage.json``)."""
        value = dataclasses.asdict(self)
        return {**value, "coverage": self.coverage, "pretrained": self.pretrained}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CoverageReport:
        """Read back what :meth:`to_json` returned."""
        return cls(
            source=value["source"],
            sha256=value["sha256"],
            stages=tuple(_stage(stage) for stage in value["stages"]),
            unused=tuple(value["unused"]),
            adaptations=tuple(value["adaptations"]),
            # Runs of earlier versions do not say.
            origin=value.get("origin", ""),
        )


def _stage(value: Mapping[str, Any]) -> StageCoverage:
    return StageCoverage(
        name=value["name"],
        role=value["role"],
        loaded=tuple(value["loaded"]),
        missing=tuple(value["missing"]),
        mismatched=tuple(
            Mismatch(name=m["name"], file=tuple(m["file"]), model=tuple(m["model"])) for m in value["mismatched"]
        ),
    )

"""What a run must remember to build its model again: names, parameters, the head's context, the preprocessing."""

from __future__ import annotations

import dataclasses
from typing import Any

from medtl_monai.host import Choice, Host
from medtl_monai.specs import HeadContext, Stage, TargetInfo, to_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """Everything that is needed to rebuild a run's model, beside its tensors.

    Attributes:
        backbone: Qualified name of the backbone.
        backbone_parameters: Its build options.
        head: Qualified name of the head.
        head_parameters: Its build options.
        context: What the head was built for.
        preprocessing: The preprocessing as JSON.
    """

    backbone: str
    backbone_parameters: dict[str, Any]
    head: str
    head_parameters: dict[str, Any]
    context: HeadContext
    preprocessing: dict[str, Any]

    def choices(self, host: Host) -> tuple[Choice, Choice]:
        """Return backbone and head with the options they were built with.

        Raises:
            PluginError: If a plugin that offers them is not installed.
        """
        return (
            host.resolve("backbone", self.backbone, self.backbone_parameters),
            host.resolve("head", self.head, self.head_parameters),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value: dict[str, Any] = to_json(self)
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelRecord:
        """Read back what :meth:`to_json` returned."""
        context = value["context"]
        stages = tuple(Stage(**_tuples(stage)) for stage in context["stages"])
        target = TargetInfo(**_tuples(context["target"]))
        return cls(
            **{
                **value,
                "backbone_parameters": _tuples(value["backbone_parameters"]),
                "head_parameters": _tuples(value["head_parameters"]),
                "context": HeadContext(**{**context, "stages": stages, "target": target}),
            }
        )


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

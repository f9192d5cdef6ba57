"""What a run must remember to build its model again: names, parameters, the head's context, the preprocessing."""

from __future__ import annotations

import dataclasses
from typing import Any

from medtl_monai.errors import PluginError, RunError
from medtl_monai.host import Choice, Host, Kind
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
            RunError: If a plugin that offers them is not there, and how to get it.
        """
        return (
            _resolve(host, "backbone", self.backbone, self.backbone_parameters),
            _resolve(host, "head", self.head, self.head_parameters),
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


def _resolve(host: Host, kind: Kind, name: str, parameters: dict[str, Any]) -> Choice:
    try:
        return host.resolve(kind, name, parameters)
    except PluginError as error:
        distribution = name.partition(":")[0]
        if distribution.endswith(".py"):
            mend = f"Give its one-file plugin: --plugin {distribution} (the run keeps a copy in its plugins folder)"
        else:
            mend = f"Install it: pip install {distribution} (its version is in the run's plugins.json)"
        raise RunError(f"the run needs the {kind} {name!r}: {error.what}", mend=mend) from error


def _tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

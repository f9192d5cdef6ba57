"""A policy's table for a backbone, without data: what ``medtl policies show POLICY --backbone B`` prints."""

from __future__ import annotations

from medtl_monai.config import ModelConfig, RunConfig
from medtl_monai.errors import ConfigError
from medtl_monai.host import Host
from medtl_monai.specs import HeadContext, HeadSpec, TargetInfo
from medtl_monai.training.assemble import build_model, choose_parts
from medtl_monai.training.record import ModelRecord
from medtl_monai.transfer.adapters import adapt
from medtl_monai.transfer.expression import choose_policy
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.schedule import plan
from medtl_monai.transfer.stages import parameter_counts, stage_infos
from medtl_monai.transfer.table import PolicyTable


def preview(host: Host, policy: str, *, backbone: str, head: str, epochs: int) -> PolicyTable:
    """Evaluate a policy for a backbone whose weights are assumed to be loaded.

    Necks of the head are taken as new, as they are unless a finished run of the same head is the backbone.

    Args:
        host: The plugins.
        policy: The policy, or policies combined.
        backbone: A backbone's name, or the folder of a finished run.
        head: A head's name. It is built for two classes, or whatever is the least it takes.
        epochs: Epochs of the run.

    Raises:
        MedtlError: As training would, if a name is unknown or the policy does not fit the backbone.
    """
    if epochs < 1:
        raise ConfigError(f"epochs is {epochs}", where="--epochs", mend="Give 1 or more")
    chosen = choose_policy(host, policy)
    model = _model(host, backbone, head)
    loaded = {stage.name: stage.role == "backbone" for stage in model.stages}
    infos = stage_infos(model.stages, loaded)
    table = plan(chosen.policy, infos, epochs, name=chosen.name, counts=parameter_counts(model.stages))
    table = adapt(model, table)
    Freezer(model, table)
    return table


def _model(host: Host, backbone: str, head: str) -> TransferModel:
    parts = choose_parts(RunConfig(model=ModelConfig(backbone=backbone, head=head)), host)
    context = HeadContext(
        stages=parts.stages,
        spatial_dims=parts.input.spatial_dims,
        target=_target(parts.head_spec),
        image_channels=len(parts.input.channels),
    )
    record = ModelRecord(
        backbone=parts.backbone.qualified,
        backbone_parameters=dict(parts.backbone.parameters),
        head=parts.head.qualified,
        head_parameters=dict(parts.head.parameters),
        context=context,
        preprocessing={},
    )
    return build_model(record, parts.backbone, parts.head, seed=0)


def _target(spec: HeadSpec) -> TargetInfo:
    """Return the smallest target that a head can be built for."""
    if spec.target == "number":
        return TargetInfo(kind="number", columns=("value",), cases=2, mean=(0.0,), std=(1.0,))
    counts = () if spec.target == "mask" else (1, 1)
    return TargetInfo(
        kind=spec.target,
        columns=("a", "b") if spec.target == "classes" else ("label",),
        classes=("a", "b"),
        counts=counts,
        labelled=(2, 2) if spec.target == "classes" else (),
        cases=2,
    )

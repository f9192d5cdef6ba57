"""From a configuration to everything a run needs, decided and checked before the first step.

Nothing here writes; ``medtl train --dry-run`` shows what this module decided.
"""

from __future__ import annotations

import dataclasses

import torch

from medtl_monai.config import RunConfig
from medtl_monai.data.cases import CaseTable, load_cases
from medtl_monai.data.image_info import ImageInfo, image_info
from medtl_monai.data.kinds import infer_kind
from medtl_monai.data.layouts import settle
from medtl_monai.data.preprocessing import Preprocessing, plan_preprocessing
from medtl_monai.data.splits import Splits, make_splits
from medtl_monai.errors import ConfigError, DataError, PluginError, PolicyError, RunError
from medtl_monai.host import Choice, Host
from medtl_monai.modules import Backbone, Head
from medtl_monai.specs import BackboneSpec, HeadContext, HeadSpec, InputSpec, Stage, TargetKind
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.record import ModelRecord
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.source import RunSource, open_source
from medtl_monai.training.weights import Seen, load_pretrained
from medtl_monai.transfer.adapters import adapt, adapters
from medtl_monai.transfer.coverage import CoverageReport
from medtl_monai.transfer.expression import PolicyChoice, choose_policy
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.schedule import plan
from medtl_monai.transfer.stages import parameter_counts, stage_infos
from medtl_monai.transfer.table import PolicyTable

_DEFAULT_HEADS: dict[TargetKind, str] = {
    "class": "classification",
    "classes": "multilabel",
    "number": "regression",
    "mask": "segmentation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The plugins' parts a run is made of.

    Attributes:
        backbone: The chosen backbone.
        head: The chosen head.
        source: The finished run whose shared layers are reused, if any.
        stages: The backbone's stages, as built with its options.
        input: What it wants to see, as built with its options; a source run's own preprocessing where there is one.
    """

    backbone: Choice
    head: Choice
    source: RunSource | None
    stages: tuple[Stage, ...]
    input: InputSpec

    @property
    def backbone_spec(self) -> BackboneSpec:
        """The backbone's spec."""
        return _backbone_spec(self.backbone)

    @property
    def head_spec(self) -> HeadSpec:
        """The head's spec."""
        spec = self.head.spec
        if not isinstance(spec, HeadSpec):
            raise TypeError(f"{self.head.qualified} is not a head")
        return spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run.

    Attributes:
        table: All cases.
        splits: Which part each is in.
        preprocessing: Resolved from the backbone's input spec and the training images.
        images: Geometry, modality and unit of the training images.
    """

    table: CaseTable
    splits: Splits
    preprocessing: Preprocessing
    images: tuple[ImageInfo, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembly:
    """A run, ready to be trained.

    Attributes:
        config: The configuration.
        device: Where it will run.
        parts: Backbone and head.
        policy: The freeze policy and the plugins it is made of; None when an earlier run's table is taken up.
        data: Cases, splits, preprocessing.
        model: Backbone and head, weights loaded.
        coverage: What was loaded where; None when nothing was to be loaded.
        schedule: The freeze policy, evaluated for every epoch.
        record: What the run must remember to build the model again.
    """

    config: RunConfig
    device: torch.device
    parts: Parts
    policy: PolicyChoice | None
    data: RunData
    model: TransferModel
    coverage: CoverageReport | None
    schedule: PolicyTable
    record: ModelRecord


def assemble(config: RunConfig, host: Host, reporter: Reporter) -> Assembly:
    """Resolve plugins, read the cases, build the model, load weights, evaluate the policy.

    Raises:
        MedtlError: With the first thing that does not fit, before anything is trained.
    """
    device = choose_device(config.training.device)
    # What the layout of a data set says becomes part of the run's configuration.
    config = config.model_copy(update={"data": settle(config.data)})
    parts = choose_parts(config, host)
    data = read_data(config, parts, reporter)
    record = describe(parts, data)
    model = build_model(record, parts.backbone, parts.head, seed=config.training.seed)
    # Not the data's preprocessing but the backbone's wish says what the weights have seen.
    seen = Seen(learnt=parts.input.intensity, images=data.preprocessing, channels=record.context.image_channels)
    coverage = load_pretrained(model, parts.backbone_spec, parts.source, config.model, seen=seen, reporter=reporter)
    if coverage is not None:
        reporter.note(f"loaded {coverage.loaded} of {coverage.total} backbone tensors from {coverage.source}")
        for adaptation in coverage.adaptations:
            reporter.note(adaptation)
    # The default: a probe first where there is something to keep.
    policy = choose_policy(host, config.model.policy or ("full" if coverage is None else "lp-ft"))
    schedule = plan_policy(model, policy, config, coverage)
    _check_adapters(schedule, host)
    _check_plateaus(schedule, data)
    _note_adapters(model, schedule, reporter)
    return Assembly(
        config=config,
        device=device,
        parts=parts,
        policy=policy,
        data=data,
        model=model,
        coverage=coverage,
        schedule=schedule,
        record=record,
    )


def reassemble(folder: RunFolder, config: RunConfig, host: Host) -> Assembly:
    """Build what :func:`assemble` built when the run started, from what the run stored.

    Nothing is decided anew: splits, preprocessing, policy table and model come from the folder.

    Raises:
        RunError: If the run is damaged or its cases are not the same.
        PluginError: If a plugin that it needs is not installed.
    """
    record = ModelRecord.from_json(folder.record["model"])
    backbone, head = record.choices(host)
    parts = Parts(
        backbone=backbone,
        head=head,
        source=None,
        stages=record.context.stages,
        input=_backbone_spec(backbone).input,
    )
    # First the splits: under another id key, that is what is wrong, and not that cases are missing.
    splits = Splits.read(folder.splits_file, run=folder.name)
    model = build_model(record, backbone, head, seed=config.training.seed)
    table = load_cases(config.data, parts.head_spec.target)
    _check_same_cases(folder, splits, table)
    schedule = PolicyTable.read(folder.path / "policy.csv")
    _check_adapters(schedule, host)
    return Assembly(
        config=config,
        device=choose_device(config.training.device),
        parts=parts,
        policy=None,
        data=RunData(
            table=table, splits=splits, preprocessing=Preprocessing.from_json(record.preprocessing), images=()
        ),
        model=model,
        coverage=None,
        schedule=adapt(model, schedule),
        record=record,
    )


def _check_same_cases(folder: RunFolder, splits: Splits, table: CaseTable) -> None:
    stored, found = set(splits.parts), {case.case_id for case in table.cases}
    if stored != found:
        raise RunError(
            f"the data has changed since the run started: {len(stored - found)} cases are missing, "
            f"{len(found - stored)} are new",
            where=folder.name,
            mend="Give the same studies, labels and id key, or start a new run with splits.file set to this run's",
        )


def _check_adapters(schedule: PolicyTable, host: Host) -> None:
    """Refuse adapters from outside the plugins: a run folder is data, and must not choose what code is run."""
    for spec in schedule.adapters().values():
        package = spec.build.partition(":")[0].partition(".")[0]
        if package not in {record.module.partition(".")[0] for record in host.plugins if record.state == "active"}:
            mend = "Install it (its version is in the run's plugins.json), or give its one-file plugin: --plugin FILE"
            what = f"the run needs adapter {spec.name!r} of {package!r}, which is no active plugin"
            raise RunError(what, mend=mend)


def choose_device(name: str) -> torch.device:
    """Return the device to run on.

    Raises:
        ConfigError: If torch does not know it or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        # torch says "Torch not compiled with CUDA enabled" in an AssertionError.
        mend = "Use --device cpu, or auto"
        raise ConfigError(f"device {name!r} is not available here", where="training.device", mend=mend) from None
    return device


def choose_parts(config: RunConfig, host: Host) -> Parts:
    """Resolve backbone and head by name and check that they fit each other."""
    source = open_source(config.model.backbone)
    backbone = source.backbone(host) if source else host.resolve("backbone", config.model.backbone)
    head = _choose_head(config, host)
    stages, wanted = _as_built(backbone)
    parts = Parts(
        backbone=backbone,
        head=head,
        source=source,
        stages=stages,
        input=source.input_spec(wanted) if source else wanted,
    )
    _check_fit(parts)
    return parts


def _choose_head(config: RunConfig, host: Host) -> Choice:
    """Resolve the head; where classes are balanced by drawing, its loss must not weigh them as well."""
    balanced = config.training.sampling == "balanced"
    default = _DEFAULT_HEADS[infer_kind(config.data)]
    if balanced and default == "classification":
        default += ":class_weights=none"
    head = host.resolve("head", config.model.head or default)
    if balanced and head.parameters.get("class_weights") == "balanced":
        raise ConfigError(
            f"rare classes would count twice: draws are balanced, and head {head.spec.name!r} weighs classes too",
            where="training.sampling",
            mend=f"Use --head {head.spec.name}:class_weights=none, or training.sampling=natural",
        )
    return head


def _as_built(backbone: Choice) -> tuple[tuple[Stage, ...], InputSpec]:
    """Return stages and input of a backbone with its options: more levels, for example, need larger images."""
    spec = _backbone_spec(backbone)
    if all(backbone.parameters[p.name] == p.default for p in spec.parameters):
        return spec.stages, spec.input
    built = _built(backbone, in_channels=1)
    return built.stage_specs or spec.stages, built.input_spec or spec.input


def _built(backbone: Choice, *, in_channels: int) -> Backbone:
    built = backbone.build(in_channels=in_channels)
    if not isinstance(built, Backbone):
        what = f"its build returned {type(built).__name__}, not a Backbone"
        raise PluginError(what, where=backbone.qualified, mend="Ask its author, or choose another backbone")
    return built


def _backbone_spec(choice: Choice) -> BackboneSpec:
    if not isinstance(choice.spec, BackboneSpec):
        raise TypeError(f"{choice.qualified} is not a backbone")
    return choice.spec


def _check_fit(parts: Parts) -> None:
    backbone, head = parts.backbone_spec, parts.head_spec
    dims = backbone.input.spatial_dims
    if dims not in head.spatial_dims:
        raise PluginError(
            f"head {head.name!r} works in {' and '.join(f'{d}D' for d in head.spatial_dims)}, "
            f"backbone {backbone.name!r} is {dims}D",
            mend=f"Choose a head or backbone of one dimensionality: 'medtl heads --dims {dims}'",
        )
    if len(parts.stages) < head.min_stages:
        raise PluginError(
            f"head {head.name!r} needs {head.min_stages} stages, backbone {backbone.name!r} has {len(parts.stages)}",
            mend="Choose a backbone with more stages: 'medtl backbones'",
        )


def read_data(config: RunConfig, parts: Parts, reporter: Reporter) -> RunData:
    """Join images to labels, divide them, and resolve the preprocessing from the training images."""
    kind = parts.head_spec.target
    table = load_cases(config.data, kind)
    splits = make_splits(table, config.splits)
    for note in (*table.notes, *splits.notes):
        reporter.note(note)
    train = splits.ids("train")
    if not train:
        raise DataError("no case is left for training", mend="Lower splits.val and splits.test, or add cases")
    # Values are looked at in the unit in which the network will see them.
    unit = config.preprocessing.unit or parts.input.intensity.unit
    look = config.preprocessing.model_copy(update={"unit": None if unit == "any" else unit})
    images = []
    for n, case_id in enumerate(train, 1):
        images.append(image_info(table, table[case_id], look))
        reporter.count("looking at images", n, len(train))
    learnt = parts.source.learnt if parts.source else None
    preprocessing = plan_preprocessing(parts.input, config.preprocessing, kind, images, learnt)
    for note in preprocessing.notes:
        reporter.note(note)
    return RunData(table=table, splits=splits, preprocessing=preprocessing, images=tuple(images))


def describe(parts: Parts, data: RunData) -> ModelRecord:
    """Return what is needed to build the model."""
    context = HeadContext(
        stages=parts.stages,
        spatial_dims=parts.backbone_spec.input.spatial_dims,
        target=data.table.info(data.splits.ids("train")),
        image_channels=data.preprocessing.channels,
    )
    return ModelRecord(
        backbone=parts.backbone.qualified,
        backbone_parameters=dict(parts.backbone.parameters),
        head=parts.head.qualified,
        head_parameters=dict(parts.head.parameters),
        context=context,
        preprocessing=data.preprocessing.to_json(),
    )


def build_model(record: ModelRecord, backbone: Choice, head: Choice, *, seed: int) -> TransferModel:
    """Build backbone and head with seeded initial weights.

    Backbone and head are seeded separately: two runs that differ only in the backbone's weights start with one head.
    """
    torch.manual_seed(seed)
    trunk = _built(backbone, in_channels=record.context.image_channels)
    torch.manual_seed(seed + 1)
    task = head.build(record.context)
    if not isinstance(task, Head):
        what = f"its build returned {type(task).__name__}, not a Head"
        raise PluginError(what, where=head.qualified, mend="Ask its author, or choose another head")
    return TransferModel(trunk, task)


def plan_policy(
    model: TransferModel, policy: PolicyChoice, config: RunConfig, coverage: CoverageReport | None
) -> PolicyTable:
    """Evaluate the policy for every epoch, check it against what was measured, and put its adapters into the model."""
    infos = stage_infos(model.stages, coverage.pretrained if coverage else {})
    table = plan(
        policy.policy,
        infos,
        config.training.epochs,
        name=policy.name,
        allow_random_frozen=config.model.allow_random_frozen,
        counts=parameter_counts(model.stages),
    )
    table = adapt(model, table, seed=config.training.seed + 2)  # backbone and head have the two seeds before
    Freezer(model, table)  # checks that no stage would keep normalisation statistics that were never measured
    return table


def _check_plateaus(schedule: PolicyTable, data: RunData) -> None:
    if schedule.waits(0, 0) and not data.splits.ids("val"):
        raise PolicyError(
            "it waits for the validation metric to stall, and there are no validation cases",
            where=schedule.policy,
            mend="Raise splits.val, or choose a policy that goes by epochs, such as gradual",
        )


def _note_adapters(model: TransferModel, schedule: PolicyTable, reporter: Reporter) -> None:
    if names := sorted({spec.name for spec in schedule.adapters().values()}):
        count = sum(entry.parameter.numel() for stage in model.stages for entry in stage.select("adapter"))
        reporter.note(f"adapters ({', '.join(names)}) in {len(adapters(model))} layers: {count:,} parameters")

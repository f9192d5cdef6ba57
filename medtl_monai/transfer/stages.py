"""The ordered stages of a model: which modules, parameters and tensors belong to each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from medtl_monai.errors import SpecError
from medtl_monai.modules import Adapter, Backbone, Head
from medtl_monai.specs import NormMode, Params, Role, Rule, StageInfo

HEAD = "head"
"""Name of the stage that holds everything of a head that is not in its necks."""

_NORM_TYPES = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_MODE_SENSITIVE = (nn.modules.dropout._DropoutNd, *_NORM_TYPES)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageParameter:
    """One parameter of a stage.

    Attributes:
        name: Its name in the model, such as ``backbone.stages.layer1.0.weight``.
        parameter: The parameter itself.
        norm: Whether it belongs to a normalisation layer.
        bias: Whether it is a bias (those of normalisation layers included).
        adapter: Whether it belongs to an adapter; it is then neither ``norm`` nor ``bias``.
    """

    name: str
    parameter: nn.Parameter
    norm: bool
    bias: bool
    adapter: bool = False

    @property
    def decays(self) -> bool:
        """Whether weight decay is meant for it: not for biases, normalisation parameters and other vectors."""
        return not (self.norm or self.bias) and self.parameter.ndim > 1

    def chosen_by(self, params: Params) -> bool:
        """Whether a rule with this parameter set trains it."""
        kinds = {"norm": self.norm, "bias": self.bias, "adapter": self.adapter}
        return params == "all" or kinds.get(params, False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelStage:
    """A stage of a model: the unit of freezing and of train or eval mode.

    Attributes:
        name: Unique in the model.
        role: backbone, neck or head.
        roots: Modules whose whole trees belong to the stage.
        shell: A module of which only the flag and its own parameters belong to it (the head around its necks), or None.
        parameters: Its parameters, each once.
        tensors: Names of its parameters and persistent buffers in the model's state dict.
    """

    name: str
    role: Role
    roots: tuple[nn.Module, ...]
    shell: nn.Module | None
    parameters: tuple[StageParameter, ...]
    tensors: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of scalars in each parameter set: ``{"all": …, "norm": …, "bias": …}``, and ``"adapter"`` if any."""
        kinds: list[Params] = ["all", "norm", "bias"]
        if any(entry.adapter for entry in self.parameters):
            kinds.append("adapter")
        return {kind: sum(p.parameter.numel() for p in self.select(kind)) for kind in kinds}

    @property
    def kinds(self) -> frozenset[str]:
        """The parameter sets that are not empty."""
        return frozenset(kind for kind, count in self.counts.items() if count)

    @property
    def keeps_statistics(self) -> bool:
        """Whether one of its normalisation layers has running statistics."""
        return any(_has_statistics(module) for module in self.modules())

    def select(self, params: Params) -> list[StageParameter]:
        """Return the parameters that a rule with this parameter set trains."""
        return [p for p in self.parameters if p.chosen_by(params)]

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module of the stage once, the shell included."""
        if self.shell is not None:
            yield self.shell
        seen: set[int] = set()
        for root in self.roots:
            for module in root.modules():
                if id(module) not in seen:
                    seen.add(id(module))
                    yield module

    def set_mode(self, training: bool, *, norm: NormMode = "live") -> None:
        """Put the whole stage into train or eval mode, with ``norm="eval"`` its normalisation layers always into eval.

        The whole tree is switched, not only layers of known types: dropout and stochastic depth of a frozen stage must
        be still, too.
        """
        for root in self.roots:
            root.train(training)
        if self.shell is not None:
            self.shell.training = training
        if training and norm == "eval":
            for module in self.modules():
                if is_norm(module):
                    module.train(False)

    def info(self, *, pretrained: bool) -> StageInfo:
        """Return what a policy may know of it; a stage without any tensor lacks no weights."""
        known = pretrained or not self.tensors
        return StageInfo(name=self.name, role=self.role, pretrained=known, kinds=self.kinds)


def collect(backbone: Backbone, head: Head) -> tuple[ModelStage, ...]:
    """Return the stages of a model ``{"backbone": backbone, "head": head}``: backbone, necks, head, in this order.

    A neck whose name a backbone stage (or the head itself) already has is called ``necks.<name>``.

    Raises:
        SpecError: If a parameter or buffer belongs to no stage or to two, or a layer that behaves differently in
            training (dropout, normalisation) is shared by two stages.
    """
    stages = list(backbone_stages(backbone))
    names = list(backbone.stages)
    for name, module in head.necks.items():
        unique = f"necks.{name}" if name in (*names, HEAD) else name
        stages.append(_stage(unique, "neck", f"head.necks.{name}", module))
    stages.append(_head_stage(head))
    _check_partition(stages, {"backbone": backbone, "head": head})
    return tuple(stages)


def backbone_stages(backbone: Backbone) -> tuple[ModelStage, ...]:
    """Return a backbone's stages in order, their tensors named ``backbone.stages.…`` as in a model.

    Raises:
        SpecError: If a stage is called ``head``.
    """
    if HEAD in backbone.stages:
        mend = "Rename the stage: 'head' is the task head"
        raise SpecError("a backbone stage is called 'head'", where=type(backbone).__name__, mend=mend)
    return tuple(_stage(name, "backbone", f"backbone.stages.{name}", part) for name, part in backbone.stages.items())


def stage_infos(stages: Iterable[ModelStage], pretrained: Mapping[str, bool] | None = None) -> tuple[StageInfo, ...]:
    """Return what a policy may know of the stages; those not in ``pretrained`` received no weights."""
    return tuple(s.info(pretrained=(pretrained or {}).get(s.name, False)) for s in stages)


def parameter_counts(stages: Iterable[ModelStage]) -> dict[str, dict[str, int]]:
    """Return the number of scalars of every stage and parameter set."""
    return {stage.name: stage.counts for stage in stages}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: by type, by its running statistics, or by name and shape.

    A list of types alone would miss the layers that networks define for themselves.
    """
    if isinstance(module, _NORM_TYPES) or _has_statistics(module):
        return True
    own = list(module.parameters(recurse=False))
    flat = all(max(p.shape, default=1) == p.numel() for p in own)
    return "norm" in type(module).__name__.lower() and flat and not any(module.children())


def _has_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None or getattr(module, "running_var", None) is not None


def _stage(name: str, role: Role, prefix: str, module: nn.Module) -> ModelStage:
    pairs = [(f"{prefix}.{path}" if path else prefix, part) for path, part in module.named_modules()]
    return ModelStage(
        name=name,
        role=role,
        roots=(module,),
        shell=None,
        parameters=_parameters(pairs),
        tensors=tuple(f"{prefix}.{key}" for key in module.state_dict(keep_vars=True)),
    )


def _head_stage(head: Head) -> ModelStage:
    pairs = [
        (f"head.{path}" if path else "head", part)
        for path, part in head.named_modules()
        if path != "necks" and not path.startswith("necks.")
    ]
    return ModelStage(
        name=HEAD,
        role="head",
        roots=tuple(child for name, child in head.named_children() if name != "necks"),
        shell=head,
        parameters=_parameters(pairs),
        tensors=tuple(f"head.{key}" for key in head.state_dict(keep_vars=True) if not key.startswith("necks.")),
    )


def _parameters(modules: Iterable[tuple[str, nn.Module]]) -> tuple[StageParameter, ...]:
    pairs = list(modules)
    added = {id(part) for _, module in pairs if isinstance(module, Adapter) for part in _added(module)}
    found: dict[int, StageParameter] = {}
    for path, module in pairs:
        adapter, norm = id(module) in added, is_norm(module)
        for leaf, parameter in module.named_parameters(recurse=False):
            bias = leaf.endswith("bias") and parameter.ndim == 1
            entry = StageParameter(
                name=f"{path}.{leaf}",
                parameter=parameter,
                norm=norm and not adapter,
                bias=bias and not adapter,
                adapter=adapter,
            )
            # By identity, never by value: two zero biases are two parameters, a tied weight is one.
            found.setdefault(id(parameter), entry)
    return tuple(found.values())


def _added(adapter: Adapter) -> list[nn.Module]:
    """Return an adapter's own modules: all but the layer that it was made for."""
    base = {id(module) for module in adapter.base.modules()}
    return [module for module in adapter.modules() if id(module) not in base]


def _check_partition(stages: list[ModelStage], parts: Mapping[str, nn.Module]) -> None:
    _check_owners(stages, parts)
    seen: dict[int, str] = {}
    for stage in stages:
        for module in stage.modules():
            other = seen.setdefault(id(module), stage.name)
            if other != stage.name and isinstance(module, _MODE_SENSITIVE):
                raise SpecError(
                    f"stages {other!r} and {stage.name!r} share one {type(module).__name__} layer",
                    mend="Build a layer of its own for each stage: one could not be frozen without the other",
                )


def _check_owners(stages: list[ModelStage], parts: Mapping[str, nn.Module]) -> None:
    owner: dict[int, str] = {}
    for stage in stages:
        for tensor in _stage_tensors(stage):
            other = owner.setdefault(id(tensor), stage.name)
            if other != stage.name:
                raise SpecError(
                    f"stages {other!r} and {stage.name!r} share a tensor of shape {tuple(tensor.shape)}",
                    mend="Put each parameter into exactly one stage: tied weights cannot be frozen in one of two",
                )
    for part, module in parts.items():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if isinstance(tensor, Tensor) and id(tensor) not in owner:
                mend = "Register it inside one of the stages, or it can be neither loaded nor frozen"
                raise SpecError("the tensor belongs to no stage", where=f"{part}.{name}", mend=mend)


def _stage_tensors(stage: ModelStage) -> Iterator[Tensor]:
    for module in stage.modules():
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)


def frozen_statistics(rule: Rule) -> bool:
    """Whether a rule keeps normalisation statistics frozen: said so, or nothing but biases or adapters train."""
    return rule.norm == "eval" or rule.params in ("bias", "adapter", "none")

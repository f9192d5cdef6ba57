"""Adapters: put into a model once, stored beside the merged weights, folded back into plain layers."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medtl_monai.adapters import AdapterSpec
from medtl_monai.errors import MedtlError, PluginError, PolicyError, RunError
from medtl_monai.isolation import contained, describe
from medtl_monai.modules import Adapter
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.stages import ModelStage, collect, parameter_counts, stage_infos
from medtl_monai.transfer.table import PolicyTable

Tensors = dict[str, Tensor]


def adapt(model: TransferModel, table: PolicyTable, *, seed: int = 0) -> PolicyTable:
    """Put the adapters that a table names into a model, in place.

    It comes after weights are loaded and before anything keeps the model's parameters: optimizer, anchors, averages.

    Args:
        model: The model the table was planned for.
        table: The table; without adapters nothing is done.
        seed: Seed of the adapters' first weights.

    Returns:
        The table with the adapters' parameters in its stages and counts.

    Raises:
        PolicyError: If an adapter fits no layer of a stage it was given to, or a layer whose weight others share.
        PluginError: If the adapter's code cannot be imported, fails, or returns something else.
    """
    wanted = table.adapters()
    if not wanted:
        return table
    owners = _owners(model)
    torch.manual_seed(seed)
    for stage in model.stages:
        if stage.name in wanted:
            _adapt_stage(model, stage, wanted[stage.name], owners, table.policy)
    model.stages = collect(model.backbone, model.head)
    pretrained = {info.name: info.pretrained for info in table.stages}
    infos = stage_infos(model.stages, pretrained)
    return dataclasses.replace(table, stages=infos, counts=parameter_counts(model.stages))


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Return the adapters of a model by the name of the layer each one stands for; one under two names comes once."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Adapter)}


def merged_state(model: nn.Module) -> Tensors:
    """Return the state of the plain model: every adapter folded into its layer, every name as without adapters.

    Without adapters this is ``model.state_dict()``. The model stays as it is.

    Raises:
        PluginError: If an adapter's merged tensors are not those of its layer.
    """
    state: Tensors = dict(model.state_dict())
    for name, adapter in _every(model):
        plain = _merge(name, adapter)
        kept = {key: tensor for key, tensor in state.items() if not key.startswith(f"{name}.")}
        state = {**kept, **{f"{name}.{leaf}": tensor for leaf, tensor in plain.items()}}
    return state


def adapter_state(model: nn.Module) -> Tensors:
    """Return the tensors of adapters and of the layers under them, unmerged: what a resume needs beside the rest."""
    names = tuple(f"{name}." for name, _ in _every(model))
    return {key: tensor for key, tensor in model.state_dict().items() if names and key.startswith(names)}


def load_states(model: nn.Module, merged: Mapping[str, Tensor], unmerged: Mapping[str, Tensor]) -> None:
    """Bring back, bitwise, what :func:`merged_state` and :func:`adapter_state` returned.

    Raises:
        RunError: If the tensors are not those of this model.
    """
    plain = {f"{name}.{leaf}" for name, adapter in _every(model) for leaf in adapter.base.state_dict()}
    state = {**{key: tensor for key, tensor in merged.items() if key not in plain}, **unmerged}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        mend = "Install the plugin versions named in the run's plugins.json, or train again"
        raise RunError("the checkpoint does not fit the model that the run describes", mend=mend) from error


def merge(model: TransferModel) -> None:
    """Put plain layers with merged weights back in the place of every adapter, in place.

    The model then has the names, shapes and number of operations of one that never had adapters.
    """
    for name, adapter in adapters(model).items():
        plain = _merge(name, adapter)
        with torch.no_grad():
            for leaf, tensor in adapter.base.state_dict(keep_vars=True).items():
                tensor.copy_(plain[leaf])
    for name, adapter in _every(model):
        _put(model, name, adapter.base)
    model.stages = collect(model.backbone, model.head)


def _adapt_stage(
    model: TransferModel, stage: ModelStage, spec: AdapterSpec, owners: Mapping[int, set[int]], policy: str
) -> None:
    build = _builder(spec)
    prefix = {"backbone": f"backbone.stages.{stage.name}", "neck": f"head.necks.{stage.name.removeprefix('necks.')}"}
    own = {id(module) for module in stage.modules()}
    root = prefix.get(stage.role, "head")
    made: dict[int, Adapter] = {}
    below: set[int] = set()
    # The list first: what is put in must not be looked at.
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if id(layer) not in own - below or not (name == root or name.startswith(f"{root}.")):
            continue
        if id(layer) not in made:
            short = name.removeprefix(root).removeprefix(".")
            adapter = _build(build, spec, short, layer, where=f"{stage.name}: {short}")
            if adapter is None:
                continue
            _check_alone(layer, owners, spec, where=f"{stage.name}: {short}")
            made[id(layer)] = adapter
            below |= {id(part) for part in layer.modules() if part is not layer}
        _put(model, name, made[id(layer)])
    if not made:
        what = f"adapter {spec.name!r} fits no layer of stage {stage.name!r}"
        mend = "Leave the stage out of the policy's stages, or widen its targets"
        raise PolicyError(what, where=policy, mend=mend)


def _builder(spec: AdapterSpec) -> Callable[..., Any]:
    module, _, path = spec.build.partition(":")

    def find() -> Callable[..., Any]:
        found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
        if not callable(found):
            raise TypeError(f"{spec.build!r} is a {type(found).__name__}, not a callable")
        return found

    return contained(find, lambda error: _failure(spec, error, where=spec.build))


def _build(build: Callable[..., Any], spec: AdapterSpec, name: str, layer: nn.Module, *, where: str) -> Adapter | None:
    made = contained(lambda: build(name, layer, **dict(spec.options)), lambda error: _failure(spec, error, where=where))
    if made is None:
        return None
    mend = "Ask the author of its plugin, or choose another policy"
    if not isinstance(made, Adapter):
        raise PluginError(f"adapter {spec.name!r} made a {type(made).__name__}, not an Adapter", where=where, mend=mend)
    if made.base is not layer:
        raise PluginError(f"adapter {spec.name!r} does not keep the layer as its base", where=where, mend=mend)
    like = next((p for p in layer.parameters() if p.is_floating_point()), None)
    made.to(like.device if like is not None else None)
    made.train(layer.training)
    return made


def _failure(spec: AdapterSpec, error: BaseException, *, where: str) -> MedtlError:
    if isinstance(error, MedtlError):
        return error
    if isinstance(error, ModuleNotFoundError):
        mend = f"Install the package that has {error.name!r}; for a one-file plugin give --plugin FILE"
    else:
        mend = "Check its options, or tell the plugin's author: --debug shows where it failed"
    return PluginError(f"adapter {spec.name!r} failed with {describe(error)}", where=where, mend=mend)


def _owners(model: nn.Module) -> dict[int, set[int]]:
    """Return, for each parameter, the modules that hold it."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    return owners


def _check_alone(layer: nn.Module, owners: Mapping[int, set[int]], spec: AdapterSpec, *, where: str) -> None:
    own = {id(module) for module in layer.modules()}
    if any(owners[id(p)] - own for p in layer.parameters()):
        # Merged, one tensor would have to hold two values.
        mend = "Leave this layer out of the adapter's targets"
        raise PolicyError(f"adapter {spec.name!r} fits a layer that shares its weight", where=where, mend=mend)


def _every(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Yield every name of every adapter: a layer that is used twice has two."""
    for name, part in list(model.named_modules(remove_duplicate=False)):
        if isinstance(part, Adapter):
            yield name, part


def _merge(name: str, adapter: Adapter) -> Tensors:
    with torch.no_grad():
        merged = {leaf: tensor.detach() for leaf, tensor in adapter.merged().items()}
    expected = {leaf: (t.shape, t.dtype) for leaf, t in adapter.base.state_dict().items()}
    if {leaf: (t.shape, t.dtype) for leaf, t in merged.items()} != expected:
        mend = "Ask the author of its plugin, or choose another policy"
        raise PluginError(f"{type(adapter).__name__} merges into tensors unlike its layer's", where=name, mend=mend)
    return merged


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = model.get_submodule(parent)
    # Not setattr: containers name their parts "0" and "values", too.
    owner._modules[leaf] = module

"""Loading pretrained weights into a model, counting every tensor, and refusing what does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from medtl_monai.errors import WeightsError
from medtl_monai.modules import Backbone
from medtl_monai.specs import Inflation
from medtl_monai.transfer.adapt import GreyFromColour, absorber, adapt_input_channels, inflate
from medtl_monai.transfer.coverage import CoverageReport, Mismatch, StageCoverage
from medtl_monai.transfer.downloaded import MAX_BYTES
from medtl_monai.transfer.keys import KeyMap, best_dialect, common_prefix, map_keys, suggest_prefixes, wrapped_dialect
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.reading import read_state
from medtl_monai.transfer.sources import resolve_source
from medtl_monai.transfer.stages import ModelStage, backbone_stages

__all__ = ["MAX_BYTES", "CoverageReport", "load_into", "read_state", "resolve_source"]

_COUNTER = "num_batches_tracked"


def load_into(
    model: TransferModel | Backbone,
    state: Mapping[str, Tensor],
    *,
    source: str,
    sha256: str = "",
    origin: str = "",
    min_coverage: float = 1.0,
    key_map: KeyMap = (),
    in_channels: int | None = None,
    inflation: Inflation | None = None,
    grey: GreyFromColour | None = None,
) -> CoverageReport:
    """Load weights into the backbone, and into the necks that fit as a whole; the head proper is never loaded.

    Nothing is changed unless the coverage suffices.

    Args:
        model: A model, or a backbone alone.
        state: Tensors by name, named as in the backbone (``stages.…``) or as in a run's model (``backbone.stages.…``,
            ``head.necks.…``), after ``key_map``; or in one of the backbone's ``dialects``.
        source: What the weights are called in the report and in messages, without a folder.
        sha256: Hash of the file, for the report.
        origin: Where the file comes from, for the report.
        min_coverage: Share of the backbone's tensors that must be loaded.
        key_map: Applied to the file's keys, see :func:`medtl_monai.transfer.keys.map_key`.
        in_channels: Channels of the model's input, where kernels made for another number may be adapted.
        inflation: How 2D kernels become 3D ones; None refuses them.
        grey: How images are normalised, where weights for colour images are adapted to grey ones.

    Raises:
        WeightsError: If too few tensors fit, two keys map to one name, or a tensor is not finite.
    """
    root, stages = _target(model)
    mapped = map_keys(tuple(state), key_map, source=source)
    dialect, names = _full_names(mapped, set(root.state_dict()), _dialects(model))
    loader = _Loader(root, {full: state[key] for full, key in names.items()}, in_channels, inflation, grey)
    coverage = tuple(loader.stage(stage, first=i == 0) for i, stage in enumerate(stages))
    used = loader.used
    report = CoverageReport(
        source=source,
        sha256=sha256,
        origin=origin,
        stages=coverage,
        unused=tuple(key for full, key in names.items() if full not in used),
        adaptations=(*([f"names are read as those of {dialect!r}"] if dialect else []), *loader.adaptations),
    )
    _require(report, min_coverage, mapped, stages, _dialects(model))
    loader.commit(source)
    return report


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    """What the file has for one tensor of the model."""

    key: str = ""
    tensor: Tensor | None = None
    note: str = ""
    other_shape: Mismatch | None = None


class _Loader:
    """Collects, stage by stage, what will be copied where; :meth:`commit` does it."""

    def __init__(
        self,
        root: nn.Module,
        state: Mapping[str, Tensor],
        in_channels: int | None,
        inflation: Inflation | None,
        grey: GreyFromColour | None,
    ) -> None:
        self.root = root
        self.state = state
        self.in_channels = in_channels
        self.inflation = inflation
        self.grey = grey
        self.used: set[str] = set()
        self.adaptations: list[str] = []
        self._targets: dict[str, Tensor] = root.state_dict(keep_vars=True)
        self._aliases: dict[int, list[str]] = {}
        for name, tensor in self._targets.items():
            self._aliases.setdefault(id(tensor), []).append(name)
        self._copies: dict[str, Tensor] = {}
        self._constants: dict[str, Tensor] = {}

    def stage(self, stage: ModelStage, *, first: bool) -> StageCoverage:
        """Match one stage's tensors with the file's."""
        if stage.role == "head":
            return StageCoverage(name=stage.name, role=stage.role)
        found: dict[str, _Match] = {}
        for name in stage.tensors:
            # A tensor that is registered under several names is one tensor, wherever the file has it.
            aliases = self._aliases[id(self._targets[name])]
            if name == aliases[0]:
                found[name] = self._match(name, aliases, first=first)
        self._absorb(found)
        counted = {name: match for name, match in found.items() if self._counts(name) or match.other_shape}
        coverage = StageCoverage(
            name=stage.name,
            role=stage.role,
            loaded=tuple(name for name, match in counted.items() if match.tensor is not None),
            missing=tuple(name for name, match in counted.items() if match.tensor is None and not match.other_shape),
            mismatched=tuple(match.other_shape for match in counted.values() if match.other_shape),
        )
        if stage.role == "neck" and not coverage.pretrained:
            # Half a decoder is worth nothing: it stays as it was built.
            return dataclasses.replace(coverage, loaded=(), missing=coverage.missing + coverage.loaded)
        for name, match in found.items():
            if match.tensor is not None:
                self._copies[name] = match.tensor
                self.used.add(match.key)
                self.adaptations += [match.note] if match.note else []
        return coverage

    def commit(self, source: str) -> None:
        """Copy everything that fits.

        Raises:
            WeightsError: If a tensor holds NaN or infinity; nothing is copied then.
        """
        for name, tensor in self._copies.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                mend = "The weights are broken: get them again or choose others"
                raise WeightsError(f"tensor {name!r} is not finite", where=source, mend=mend)
        with torch.no_grad():
            for name, tensor in self._copies.items():
                self._targets[name].copy_(tensor)

    def _absorb(self, found: dict[str, _Match]) -> None:
        """Put what folding left over into the bias or the normalisation behind the first layer."""
        for name, constant in self._constants.items():
            place = absorber(self.root, name)
            target = place[0] if place else ""
            match = found.get(target)
            if match is not None and match.tensor is not None and place is not None:
                tensor = (match.tensor.double() + place[1] * constant).to(match.tensor.dtype)
                found[target] = dataclasses.replace(match, tensor=tensor)
                note = f", the means into {target.rpartition('.')[2]}"
            elif place is None or target:
                note = ", but for the means: no bias or batch normalisation follows"
            else:
                note = ", the means are removed by the normalisation that follows"
            found[name] = dataclasses.replace(found[name], note=found[name].note + note)
        self._constants.clear()

    def _counts(self, name: str) -> bool:
        """Whether a tensor counts for coverage: the batch counter only where the statistics depend on it."""
        owner, _, leaf = name.rpartition(".")
        return leaf != _COUNTER or getattr(self.root.get_submodule(owner), "momentum", 0.1) is None

    def _match(self, name: str, aliases: list[str], *, first: bool) -> _Match:
        key = next((alias for alias in aliases if alias in self.state), None)
        if key is None:
            return _Match()
        tensor, note = self._fit(self.state[key], self._targets[name], name, first=first)
        if tensor is None:
            file, model = tuple(self.state[key].shape), tuple(self._targets[name].shape)
            return _Match(key=key, other_shape=Mismatch(name=name, file=file, model=model))
        return _Match(key=key, tensor=tensor, note=note)

    def _fit(self, tensor: Tensor, target: Tensor, name: str, *, first: bool) -> tuple[Tensor | None, str]:
        """Return the tensor in the target's shape, and what was changed for that; None if it does not fit."""
        notes = []
        if tensor.is_floating_point() != target.is_floating_point():
            return None, ""
        if self.inflation and tensor.ndim == 4 and target.ndim == 5 and tensor.shape[2:] == target.shape[2:4]:
            tensor = inflate(tensor, target.shape[-1], self.inflation)
            notes.append(f"2D kernel inflated to {tuple(tensor.shape[2:])} ({self.inflation})")
        if first and self._other_channels(tensor, target):
            old, new = tensor.shape[1], target.shape[1]
            if self.grey is not None and new == 1 and old == len(self.grey.means):
                tensor, self._constants[name] = self.grey.fold(tensor)
                how = "summed, normalisation folded in"
            else:
                tensor = adapt_input_channels(tensor, new)
                how = "summed" if new == 1 else f"cycled and scaled by {old}/{new}"
            notes.append(f"input channels {old} to {new} ({how})")
        if tensor.shape != target.shape:
            return None, ""
        if tensor.dtype != target.dtype:
            notes.append(f"{str(tensor.dtype).removeprefix('torch.')} to {str(target.dtype).removeprefix('torch.')}")
        return tensor, f"{name}: {', '.join(notes)}" if notes else ""

    def _other_channels(self, tensor: Tensor, target: Tensor) -> bool:
        return (
            self.in_channels is not None
            and target.ndim >= 4
            and tensor.ndim == target.ndim
            and target.shape[1] == self.in_channels != tensor.shape[1]
            and (tensor.shape[0], *tensor.shape[2:]) == (target.shape[0], *target.shape[2:])
        )


def _target(model: TransferModel | Backbone) -> tuple[nn.Module, tuple[ModelStage, ...]]:
    if isinstance(model, TransferModel):
        return model, model.stages
    return nn.ModuleDict({"backbone": model}), backbone_stages(model)


def _dialects(model: TransferModel | Backbone) -> Mapping[str, KeyMap]:
    return (model.backbone if isinstance(model, TransferModel) else model).dialects


def _full_names(
    mapped: Mapping[str, str], expected: set[str], dialects: Mapping[str, KeyMap]
) -> tuple[str, dict[str, str]]:
    """Return the dialect and ``{name in the model: key in the file}``: names are a run's, or a backbone's alone."""
    as_run = sum(name in expected for name in mapped)
    own = {name.removeprefix("backbone.") for name in expected if name.startswith("backbone.")}
    dialect, alone, hits = best_dialect(tuple(mapped), own, dialects)
    if hits > as_run:
        return dialect, {f"backbone.{name}": mapped[key] for name, key in alone.items()}
    return "", dict(mapped)


def _require(
    report: CoverageReport,
    min_coverage: float,
    mapped: Mapping[str, str],
    stages: Iterable[ModelStage],
    dialects: Mapping[str, KeyMap],
) -> None:
    if report.coverage >= min_coverage and report.loaded:
        return
    parts = [s for s in report.stages if s.role == "backbone"]
    missing, mismatched = sum(len(s.missing) for s in parts), [m for s in parts for m in s.mismatched]
    what = (
        f"{report.loaded} of {report.total} backbone tensors were loaded "
        f"({missing} missing, {len(mismatched)} of another shape), {min_coverage:.0%} are needed"
    )
    raise WeightsError(what, where=report.source, mend=_advice(report, mismatched, mapped, stages, dialects))


def _advice(
    report: CoverageReport,
    mismatched: list[Mismatch],
    mapped: Mapping[str, str],
    stages: Iterable[ModelStage],
    dialects: Mapping[str, KeyMap],
) -> str:
    names = [t for s in stages if s.role == "backbone" for t in s.tensors if not t.endswith(_COUNTER)]
    model_keys = [name.removeprefix("backbone.") for name in names]
    if mismatched and len(mismatched) >= report.total - report.loaded - len(mismatched):
        one = mismatched[0]
        return (
            f"For example {one.name.removeprefix('backbone.')} is {one.file} in the file and {one.model} in the model: "
            f"build the backbone with the options of the weights"
        )
    pair = suggest_prefixes(tuple(mapped), model_keys)
    wrapped = wrapped_dialect(tuple(mapped), model_keys, dialects)
    if wrapped is not None and wrapped[2] > max(report.loaded, pair[2] if pair else 0):
        prefix, dialect, hits = wrapped
        return (
            f"The file's keys are those of {dialect!r} behind {prefix!r}: "
            f"key_map=(({prefix!r}, ''),) would match {hits} tensors"
        )
    if pair is not None and pair[2] > report.loaded:
        other = f"the model's start with {pair[1]!r}" if pair[1] else "the model's have no prefix"
        return (
            f"The file's keys start with {pair[0]!r} where {other}: "
            f"key_map=(({pair[0]!r}, {pair[1]!r}),) would match {pair[2]} tensors"
        )
    prefix = common_prefix(tuple(mapped))
    example = next(iter(mapped), "")
    starts = f"all start with {prefix!r}" if prefix else f"look like {example!r}"
    return f"The file's keys {starts}, the model's look like {model_keys[0]!r}: choose weights made for this backbone"

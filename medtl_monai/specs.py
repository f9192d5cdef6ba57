"""What plugins offer, as inert data: frozen keyword-only dataclasses, no torch, no numpy.

A spec says what a thing is and where its code lives (a reference string ``"package.module:callable"``); the host
imports that code on first use only. All sequences are tuples so that a spec can be hashed, compared and pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from medtl_monai.errors import SpecError

if TYPE_CHECKING:
    from medtl_monai.adapters import AdapterSpec

CONTRACT = 1
"""Version of the plugin contract. A plugin may state ``CONTRACT = n``; the host refuses what is newer than itself."""

Role = Literal["backbone", "neck", "head"]
Params = Literal["all", "norm", "bias", "adapter", "none"]
NormMode = Literal["live", "eval"]
TargetKind = Literal["class", "classes", "number", "mask"]
Inflation = Literal["repeat", "centre"]
Normalise = Literal["zscore", "zscore-nonzero", "minmax", "fixed", "none"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_REFERENCE = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARAMS = "Use all, norm, bias, adapter or none"


def _check(ok: bool, what: str, where: str, mend: str) -> None:
    if not ok:
        raise SpecError(what, where=where, mend=mend)


def _check_name(name: object, kind: str) -> None:
    _check(
        isinstance(name, str) and _NAME.fullmatch(name) is not None,
        f"{name!r} is not a valid name",
        f"{kind}.name",
        "Use lower-case letters, digits, '.', '_' and '-', starting with a letter or digit",
    )


def _check_reference(value: object, where: str) -> None:
    _check(
        isinstance(value, str) and _REFERENCE.fullmatch(value) is not None,
        f"{value!r} is not a reference",
        where,
        "Write 'package.module:callable', or ':callable' in a one-file plugin",
    )


def _check_tuples(spec: Any) -> None:
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        _check(
            not isinstance(value, (list, set, dict)),
            f"{field.name} is a {type(value).__name__}",
            f"{type(spec).__name__}.{field.name}",
            "Use a tuple: specs are hashable values",
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One option of a build callable, settable by the user (``--policy last-n:n=2``).

    Attributes:
        name: The keyword argument's name.
        default: Its default; the type of the default decides how text from the command line is read
            (a tuple is written ``a+b``).
        help: One sentence.
    """

    name: str
    default: bool | int | float | str | tuple[str, ...] | None
    help: str = ""

    def __post_init__(self) -> None:
        what = f"{self.name!r} is not an identifier"
        _check(self.name.isidentifier(), what, "Parameter.name", "Use letters, digits and '_'")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a backbone, as seen by a head.

    Attributes:
        name: Its key in ``Backbone.stages``.
        channels: Channels of its tap.
        stride: Cumulative down-sampling of the tap against the input image, one integer per spatial axis.
    """

    name: str
    channels: int
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check(
            self.channels > 0, f"channels is {self.channels}", f"stage {self.name}", "Give the number its output has"
        )
        where = f"stage {self.name}"
        _check(all(s >= 1 for s in self.stride), f"stride is {self.stride}", where, "Use whole numbers from 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Intensity:
    """How voxel values are brought to the network.

    Attributes:
        unit: Unit the values must be in: ``"any"``, ``"HU"``, ``"BQML"``, ``"SUVbw"``, …; others are refused.
        clip: ``(low, high)`` in that unit, before normalisation.
        clip_percentiles: ``(low, high)`` in percent, per image; instead of ``clip``.
        normalise: ``"zscore"`` per image, ``"zscore-nonzero"`` over non-zero voxels, ``"minmax"`` to [0, 1],
            ``"fixed"`` with ``mean`` and ``std``, or ``"none"``.
        mean: Per channel, for ``"fixed"``.
        std: Per channel, for ``"fixed"``.
    """

    unit: str = "any"
    clip: tuple[float, float] | None = None
    clip_percentiles: tuple[float, float] | None = None
    normalise: Normalise = "zscore"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check(
            not (self.clip and self.clip_percentiles), "clip and clip_percentiles are both set", "Intensity", "Keep one"
        )
        for pair in (self.clip, self.clip_percentiles):
            _check(
                pair is None or pair[0] < pair[1],
                f"clip {pair} is not (low, high)",
                "Intensity",
                "Give the lower first",
            )
        if self.normalise == "fixed":
            _check(
                bool(self.mean) and len(self.mean) == len(self.std) and all(s > 0 for s in self.std),
                "normalise='fixed' needs mean and a positive std, one per channel",
                "Intensity",
                "Give both, or choose another way to normalise",
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """What a backbone wants to see; the host generates the preprocessing from it.

    Attributes:
        spatial_dims: 2 or 3.
        channels: Meaning of each input channel the weights were made for.
        variable_channels: Whether the first layer may be built for another number of channels.
        modality: DICOM Modality values it is meant for; empty means any.
        spacing_mm: Voxel spacing along each oriented axis; None keeps each image's own.
        orientation: Axis codes such as ``"RAS"`` (3D); None keeps the image's own.
        size: Fixed input size; None means any size that ``divisible_by`` allows.
        divisible_by: Each spatial size must be a multiple of this.
        min_size: Smallest usable size per axis; empty means ``divisible_by``.
        intensity: How values are normalised.
    """

    spatial_dims: Literal[2, 3]
    channels: tuple[str, ...] = ("image",)
    variable_channels: bool = True
    modality: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    size: tuple[int, ...] | None = None
    divisible_by: tuple[int, ...] = ()
    min_size: tuple[int, ...] = ()
    intensity: Intensity = dataclasses.field(default_factory=Intensity)

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check(self.spatial_dims in (2, 3), f"spatial_dims is {self.spatial_dims}", "InputSpec", "Use 2 or 3")
        _check(bool(self.channels), "channels is empty", "InputSpec", "Name one or more, such as (1,)")
        for field in ("spacing_mm", "size", "divisible_by", "min_size"):
            value = getattr(self, field)
            _check(
                not value or (len(value) == self.spatial_dims and all(v > 0 for v in value)),
                f"{field} {value} does not have {self.spatial_dims} positive entries",
                f"InputSpec.{field}",
                "Give one number above 0 for each axis",
            )
        if self.orientation is not None:
            codes = self.orientation
            ok = len(codes) == 3 and all(sum(c in pair for c in codes) == 1 for pair in ("LR", "AP", "SI"))
            _check(ok, f"orientation {codes!r} is not three axis codes", "InputSpec.orientation", "For example 'RAS'")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WeightsSpec:
    """One set of pretrained weights of a backbone.

    Attributes:
        id: Name of these weights, unique within the backbone.
        uris: Where the bytes are, tried in order: a path, ``file:``, ``package:dist/resource``, ``https://…``,
            ``hf://owner/repository@revision/path``.
        sha256: Hash of the file, checked before anything is parsed.
        bytes: Size of the file; more is never read.
        license: SPDX id of the *weights*, which is often not that of the code.
        citation: How to cite them.
        method: How they were trained, for example ``"supervised"`` or ``"masked-autoencoder"``.
        datasets: Ids of the data sets they have seen (leak check).
        key_map: ``(old prefix, new prefix)`` pairs applied to the file's keys, in order; an old one ``"re:…"`` is a
            regular expression, the new one then what :func:`re.sub` puts in place of its first match.
        min_coverage: Share of the backbone's tensors that must be loaded.
        inflation: How a 2D file's kernels become a 3D network's: ``"repeat"`` along the new axis divided by its length
            (Carreira and Zisserman 2017), ``"centre"`` with zeros around; None refuses them.
    """

    id: str
    uris: tuple[str, ...]
    sha256: str
    bytes: int
    license: str
    citation: str = ""
    method: str = ""
    datasets: tuple[str, ...] = ()
    key_map: tuple[tuple[str, str], ...] = ()
    min_coverage: float = 1.0
    inflation: Inflation | None = None

    def __post_init__(self) -> None:
        _check_tuples(self)
        where = f"weights {self.id}"
        _check_name(self.id, "WeightsSpec")
        _check(bool(self.uris), "uris is empty", where, "Say where the file is")
        _check(_SHA256.fullmatch(self.sha256) is not None, "sha256 is not 64 hex digits", where, "Run sha256sum FILE")
        _check(self.bytes > 0, f"bytes is {self.bytes}", where, "Give the size of the file")
        _check(bool(self.license), "license is empty", where, "Give the SPDX id of the weights' licence")
        _check(self.inflation in (None, "repeat", "centre"), "inflation is unknown", where, "Use repeat or centre")
        _check(0 < self.min_coverage <= 1, f"min_coverage is {self.min_coverage}", where, "Give a share such as 1.0")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSpec:
    """A backbone that a plugin offers.

    Attributes:
        name: Short name, unique within the plugin's distribution.
        summary: One line for lists.
        build: Reference to ``build(in_channels: int, **parameters) -> Backbone``.
        stages: Its stages in order.
        input: What it wants to see.
        weights: The pretrained weights on offer.
        parameters: Options of ``build``.
        license: SPDX id of the code.
        citations: How to cite it.
    """

    name: str
    summary: str
    build: str
    stages: tuple[Stage, ...]
    input: InputSpec
    license: str
    weights: tuple[WeightsSpec, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    citations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check_name(self.name, "BackboneSpec")
        where = f"backbone {self.name}"
        _check_reference(self.build, f"{where}.build")
        _check(bool(self.license), "license is empty", where, "Give an SPDX id such as 'Apache-2.0'")
        _check(isinstance(self.input, InputSpec), "input is not an InputSpec", where, "Make one with InputSpec(…)")
        _check(bool(self.stages), "stages is empty", where, "Describe one or more with Stage(…)")
        names = [stage.name for stage in self.stages]
        _check(len(set(names)) == len(names), f"stage names repeat: {names}", where, "Give each stage its own name")
        for stage in self.stages:
            _check(
                len(stage.stride) == self.input.spatial_dims,
                f"stage {stage.name} has {len(stage.stride)} strides for {self.input.spatial_dims} spatial dims",
                where,
                "Give one stride for each axis",
            )
        ids = [w.id for w in self.weights]
        _check(len(set(ids)) == len(ids), f"weights ids repeat: {ids}", where, "Give each its own id")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """A task head that a plugin offers.

    Attributes:
        name: Short name.
        summary: One line for lists.
        build: Reference to ``build(context: HeadContext, **parameters) -> Head``.
        task: ``"classification"``, ``"multilabel"``, ``"regression"``, ``"segmentation"``, …
        target: What kind of target it learns.
        spatial_dims: Which dimensionalities it works for.
        min_stages: How many backbone stages it needs at least.
        parameters: Options of ``build``.
        license: SPDX id.
        citations: How to cite it.
    """

    name: str
    summary: str
    build: str
    task: str
    target: TargetKind
    license: str
    spatial_dims: tuple[int, ...] = (2, 3)
    min_stages: int = 1
    parameters: tuple[Parameter, ...] = ()
    citations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check_name(self.name, "HeadSpec")
        where = f"head {self.name}"
        _check_reference(self.build, f"{where}.build")
        _check(
            self.target in ("class", "classes", "number", "mask"),
            f"target is {self.target!r}",
            where,
            "Use class, classes, number or mask",
        )
        _check(bool(self.license), "license is empty", where, "Give an SPDX id such as 'Apache-2.0'")
        dims = set(self.spatial_dims)
        _check(bool(dims) and dims <= {2, 3}, "spatial_dims is not 2, 3 or both", where, "Use (2,), (3,) or (2, 3)")
        _check(self.min_stages >= 1, f"min_stages is {self.min_stages}", where, "Use 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """A freeze policy that a plugin offers.

    Attributes:
        name: Short name.
        summary: One line for lists.
        build: Reference to ``build(**parameters) -> FreezePolicy``.
        parameters: Options of ``build``.
        license: SPDX id.
        citations: How to cite it.
    """

    name: str
    summary: str
    build: str
    license: str
    parameters: tuple[Parameter, ...] = ()
    citations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check_name(self.name, "PolicySpec")
        _check_reference(self.build, f"policy {self.name}.build")
        _check(bool(self.license), "license is empty", f"policy {self.name}", "Give an SPDX id such as 'Apache-2.0'")


Spec = BackboneSpec | HeadSpec | PolicySpec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TargetInfo:
    """What the labels of a data set are, as a head needs to know it.

    Attributes:
        kind: class, classes, number or mask.
        columns: The label columns.
        classes: Class names in index order (``class``), label names (``classes``), or structures with the
            background first (``mask``); empty for ``number``.
        counts: Training cases of each class (``class``), or with each label set (``classes``); empty otherwise.
        labelled: Training cases in which each label is known (``classes``); empty otherwise.
        cases: How many training cases there are.
        mean: Training mean of each column (``number``).
        std: Training standard deviation of each column (``number``), never zero.
        ignore: Label value that the loss leaves out (``mask``), or None.
    """

    kind: TargetKind
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    labelled: tuple[int, ...] = ()
    cases: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    ignore: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeadContext:
    """What the host tells a head when it builds it.

    Attributes:
        stages: The backbone's stages in order: channels and strides of the features the head will be given.
        spatial_dims: 2 or 3.
        target: What the labels are.
        image_channels: Channels of the input image.
    """

    stages: tuple[Stage, ...]
    spatial_dims: int
    target: TargetInfo
    image_channels: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageInfo:
    """What a freeze policy may know of a stage.

    Attributes:
        name: Its name: a backbone stage, a neck of the head, or ``"head"``.
        role: backbone, neck or head.
        pretrained: Whether *every* tensor of it was loaded (measured, not declared).
        kinds: Which parameter sets it has, of ``"all"``, ``"norm"``, ``"bias"``, and once they are in, ``"adapter"``.
    """

    name: str
    role: Role
    pretrained: bool
    kinds: frozenset[str] = frozenset({"all"})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class At:
    """The moment a policy is asked about.

    Attributes:
        epoch: Epoch about to start, from 0.
        epochs: Epochs of the whole run.
        plateaus: How often the key metric has stalled in the whole run so far (checkpointed by the host).
    """

    epoch: int
    epochs: int
    plateaus: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How one stage is trained during one epoch.

    Attributes:
        lr: Factor on the learning rate.
        params: Which parameters train: all (adapters included), only those of normalisation layers, only biases (those
            of normalisation layers included), only adapters, or none (the stage is frozen).
        norm: ``"live"`` normalises and updates statistics as usual; ``"eval"`` trains weights under frozen statistics.
        anchor: Strength of the pull towards the pretrained weights (L2-SP); replaces weight decay.
        adapter: Which adapters, for ``params="adapter"``.
    """

    lr: float = 1.0
    params: Params = "all"
    norm: NormMode = "live"
    anchor: float = 0.0
    adapter: AdapterSpec | None = None

    def __post_init__(self) -> None:
        _check(self.lr > 0 or self.params == "none", f"lr is {self.lr}", "Rule", "Use params='none' to freeze")
        _check(self.params in ("all", "norm", "bias", "adapter", "none"), f"params is {self.params!r}", "Rule", _PARAMS)
        _check(self.norm in ("live", "eval"), f"norm is {self.norm!r}", "Rule", "Use live or eval")
        _check(self.anchor >= 0, f"anchor is {self.anchor}", "Rule", "Use 0 or more")

    @property
    def frozen(self) -> bool:
        """Whether nothing of the stage trains."""
        return self.params == "none"


FROZEN = Rule(params="none", norm="eval")
"""The rule of a stage that a policy leaves out."""


def to_json(value: Any) -> Any:
    """Turn specs (nested) into plain JSON values; sets become sorted lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(to_json(v) for v in value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [to_json(v) for v in value]
    return value


def digest(spec: Spec) -> str:
    """Return the sha256 of a spec's canonical JSON: equal specs have equal digests."""
    text = json.dumps(to_json(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

"""The configuration of a run: typed, closed (unknown keys are refused with a suggestion), exportable as JSON schema.

Paths are taken relative to the current directory. Nothing here imports torch or numpy.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from medtl_monai.errors import ConfigError, did_you_mean


def _as_list(value: object) -> object:
    """Let a single string stand for a list, and commas separate its entries."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _as_seeds(value: object) -> object:
    """Let a number stand for as many seeds from 0, and commas separate several."""
    if isinstance(value, str):
        value = int(value) if value.strip().isdigit() else [part for part in value.split(",") if part.strip()]
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_switch(value: object) -> object:
    """Let ``off``, which YAML reads as false, and true be words."""
    return {True: "auto", False: "off"}[value] if isinstance(value, bool) else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
Seeds = Annotated[list[int], BeforeValidator(_as_seeds)]
_INPUT_NAME = re.compile(r"\w[\w+ -]*")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)


class SelectConfig(_Section):
    """Which series is a study's image, where it has several. What is left out does not matter."""

    modality: Names = []
    """Allowed values of Modality, such as MR."""
    image_type: Names = []
    """Values that ImageType must all contain; "!VALUE" excludes one."""
    description: str = ""
    """Regular expression searched in SeriesDescription, ignoring case."""
    orientation: Literal["axial", "coronal", "sagittal"] | None = None
    """Plane of the slices: the one nearest to it."""
    thickness_mm: tuple[float, float] | None = None
    """Lowest and highest slice distance."""
    min_slices: int = Field(2, ge=1)
    """Fewest slices of a volume; 1 accepts a lone slice."""
    sop_class: str = ""
    """Name or UID of the SOP class."""
    part: str = ""
    """Text in the name of the part, for series that hold several volumes: "EchoTime 20"."""
    run: Annotated[int, Field(ge=1)] | Literal["longest"] | None = None
    """Which run of a series with gaps, with on_gap split: its number along the slice normal, or longest."""
    derived: bool | None = None
    """true: derived images only; false: never. Default: originals where there are any."""
    localizer: bool | None = None
    """true: localizers only; false: never. Default: others where there are any."""

    @field_validator("description")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return value


class InputConfig(SelectConfig):
    """One of several images of a case, which becomes a channel: which series it is, and what if it is missing."""

    column: str | None = None
    """NIfTI: column of its paths. Default: the input's own name."""
    missing: Literal["error", "fill", "drop"] = "error"
    """A case without it: an error, a channel of zeros (after normalisation), or left out of the run."""
    min_coverage: float = Field(0.5, ge=0, le=1)
    """Share of the first input's field that it must cover; what it does not cover is its lowest value."""
    frame_of_reference: Literal["same", "ignore"] = "same"
    """DICOM: "ignore" takes positions as they are although the frame of reference is another (registered images)."""


class DataConfig(_Section):
    """Where images and labels are, and what is to be learnt."""

    dataset: Path | None = None
    """A whole data set in a known layout, in place of studies and labels: its folder brings both."""
    layout: Literal["auto", "decathlon", "nnunet", "class-folders"] = "auto"
    """How that folder is arranged: Medical Segmentation Decathlon, nnU-Net raw, one folder a class."""
    studies: Path | None = None
    """A tree of DICOM files. Leave out when the labels table has a column of NIfTI paths."""
    labels: Path | None = None
    """A CSV table: one row a case."""
    target: Names = []
    """The label column, or several."""
    key: str | None = None
    """Column joined to the studies: StudyInstanceUID, AccessionNumber or PatientID. Default: the first one there is."""
    image: Names = ["image"]
    """Column of NIfTI paths (relative to the table), used when there is no studies folder. Several become channels."""
    channels: Names = []
    """Names of the channels of four-dimensional NIfTI images, in the order of their fourth axis."""
    group_by: str | None = None
    """Column whose values never straddle two splits. Default: the patient."""
    split: str | None = None
    """Column holding given splits: train, val or test."""
    select: SelectConfig = SelectConfig()
    """Which series is a study's image, where it has several."""
    inputs: dict[str, InputConfig] = {}
    """Several images a case as channels, by name, in order. The first gives the grid; others are resampled to it."""
    unmatched: Literal["error", "drop"] = "error"
    """What to do with rows without a study and studies without a row."""
    structures: Names = []
    """Names of the mask's label values 1, 2, … For DICOM SEG and RTSTRUCT: which segments or regions, in this order.
    Default: all that the DICOM files name, or label-1, label-2, …"""
    off_grid_masks: Literal["error", "nearest"] = "error"
    """What to do with a NIfTI or DICOM SEG mask on another grid than its image; nearest resamples it."""
    ignore_label: int | None = None
    """Mask value that the loss leaves out."""
    positive: str | None = None
    """For two classes: the class whose probability is reported. Default: the last in sorted order."""

    @field_validator("inputs")
    @classmethod
    def _can_be_inputs(cls, value: dict[str, InputConfig]) -> dict[str, InputConfig]:
        odd = [name for name in value if not _INPUT_NAME.fullmatch(name)]
        if odd:
            raise ValueError(f"{odd[0]!r} is not a name: use letters, digits, _, + and -")
        if value and next(iter(value.values())).missing == "fill":
            raise ValueError("the first input gives the grid and cannot be filled: use missing: error or drop")
        return value

    @field_validator("image", "channels")
    @classmethod
    def _are_different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("a name occurs twice")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        several = "inputs" if self.inputs else "image" if len(self.image) > 1 else ""
        if self.inputs and self.select != SelectConfig():
            raise ValueError("select and inputs are both set: put the rules into each input")
        if self.inputs and self.image != ["image"]:
            raise ValueError("image and inputs are both set: name each input's column in it")
        if self.channels and several:
            raise ValueError(f"channels and {several} are both set: channels are those of one four-dimensional image")
        return self


class SplitConfig(_Section):
    """How cases are divided. Groups (patients) are never divided."""

    val: float = Field(0.2, ge=0, lt=1)
    """Share of the groups used to choose the best epoch."""
    test: float | None = Field(None, ge=0, lt=1)
    """Share of the groups never seen in training. Default: 0.2. With folds, a part that no fold sees; default: 0."""
    folds: int | None = Field(None, ge=2)
    """Cross-validation: as many runs, each tested on another part of the groups, so that every case is tested once.
    Cases given as test (data.split) and splits.test are held out from all of them."""
    fold: int | None = Field(None, ge=1)
    """Only this fold, from 1: its run is made as it would be among the others."""
    seed: int = 0
    """Seed of the division."""
    stratify: bool = True
    """Keep class shares (or number quantiles) alike in all parts."""
    file: Path | None = None
    """A stored splits.csv: honoured, and extended for new cases. With folds, its test cases are held out."""

    @property
    def test_share(self) -> float:
        """Share of the groups that no training sees, with its default filled in."""
        if self.test is not None:
            return self.test
        return 0.2 if self.folds is None else 0.0

    @model_validator(mode="after")
    def _is_one_of_the_folds(self) -> Self:
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError(f"fold {self.fold} is not one of {self.folds or 'no'} folds")
        return self


class ChannelConfig(_Section):
    """Values of one channel, by the name of an input, where it differs from the others. Left out: as for all."""

    unit: str | None = None
    """Unit it must be in, such as HU; SUVbw converts PET."""
    clip: list[float] | None = None
    """Low and high value kept."""
    clip_percentiles: list[float] | None = None
    """Low and high percentile kept, per image."""
    normalise: Literal["zscore", "zscore-nonzero", "minmax", "none"] | None = None
    """How values are normalised."""


class PreprocessingConfig(_Section):
    """Changes to what the backbone's input spec asks for. Everything left out comes from the spec or the data."""

    spacing_mm: list[float] | None = None
    """Voxel spacing to resample to."""
    size: list[int] | None = None
    """Size every image is cropped or padded to about its centre."""
    patch_size: list[int] | Literal["auto", "none"] = "auto"
    """Segmentation: size of training patches; "none" trains on whole images."""
    orientation: str | None = None
    """Axis codes such as RAS."""
    unit: str | None = None
    """Unit the images must be in, such as HU."""
    clip: list[float] | None = None
    """Low and high value kept."""
    clip_percentiles: list[float] | None = None
    """Low and high percentile kept, per image."""
    normalise: Literal["zscore", "zscore-nonzero", "minmax", "none"] | None = None
    """How values are normalised."""
    channels: dict[str, ChannelConfig] = {}
    """Other values for single channels, by the name of the input (or of data.channels)."""
    on_gap: Literal["error", "interpolate", "split"] = "error"
    """What to do with a series that misses slices; split needs data.select.run where several runs are left."""


class AugmentationConfig(_Section):
    """Random changes in training. Ranges are symmetric; zero switches one off."""

    enabled: bool = True
    """One switch for all of it."""
    rotate_deg: float = Field(10.0, ge=0)
    """Rotation about each axis, in degrees."""
    scale: float = Field(0.1, ge=0, lt=1)
    """Relative zoom."""
    translate: float = Field(0.05, ge=0, lt=1)
    """Shift as a share of the image size."""
    flip_axes: list[int] = []
    """Axes to flip along. None by default: in most organs, left and right differ."""
    intensity: float = Field(0.1, ge=0)
    """Relative change of contrast and brightness."""
    noise: float = Field(0.05, ge=0)
    """Standard deviation of added Gaussian noise, in normalised units."""


class ModelConfig(_Section):
    """Which plugins' parts make the model."""

    backbone: str = "resnet18-3d"
    """A backbone's name (options as ``name:key=value``), or the folder of a finished run."""
    weights: str | None = None
    """An id that the backbone offers, a file, an https address, or hf://OWNER/REPOSITORY@REVISION/PATH.

    A run folder brings its own."""
    head: str | None = None
    """A head's name. Default: chosen from the target."""
    policy: str | None = None
    """A freeze policy's name, or several combined: ``gradual * llrd``, ``linear-probe.then(full, at=0.3)``.
    Default: lp-ft with pretrained weights, full without."""
    allow_random_frozen: bool = False
    """Control experiments only: let a policy freeze stages that received no weights."""
    min_coverage: float | None = Field(None, gt=0, le=1)
    """Share of the backbone's tensors that must be loaded. Default: what the weights declare."""
    key_map: list[tuple[str, str]] = []
    """For your own file: pairs of prefixes, what its keys start with and what is put there; ``re:…`` is a pattern."""
    inflation: Literal["repeat", "centre"] | None = None
    """For your own 2D file in a 3D network: its kernels repeated along the new axis, or in its centre."""


class TrainingConfig(_Section):
    """The optimisation."""

    epochs: int = Field(30, ge=1)
    """Number of epochs."""
    min_steps: int = Field(50, ge=1)
    """An epoch is at least this many optimizer steps: small data sets are gone through several times."""
    batch_size: int = Field(4, ge=1)
    """Images (or patches) a step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD has momentum 0.9 and Nesterov's update."""
    lr: float = Field(1e-3, gt=0)
    """Base learning rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """Not applied to biases, normalisation parameters and anchored stages."""
    schedule: Literal["cosine", "constant", "poly"] = "cosine"
    """Learning rate over the run."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of all steps with a linearly rising rate, and of each phase after an unfreeze."""
    clip_grad_norm: float | None = Field(12.0, gt=0)
    """Largest gradient norm over the trainable parameters."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many epochs without improvement. Default: never."""
    plateau_patience: int = Field(5, ge=1)
    """Epochs without improvement that make a plateau, for policies that wait for one (``gradual-on-plateau``)."""
    sampling: Literal["natural", "balanced"] = "natural"
    """balanced: every class (or label) gets as many draws as any other; its cases take turns, and the default head
    does not weigh classes as well."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    seeds: Seeds = []
    """Several seeds, each a run on the same splits: a number (5 is 0 to 4) or a list. Replaces seed."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Data-loading processes. auto: as many as the probe finds to pay, mostly none."""
    tune: bool = True
    """Probe threads, memory format, precision and workers before training; off: contiguous float32, no workers."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory format of convolution inputs."""
    threads: int | None = Field(None, ge=1)
    """CPU threads. Default: what torch chooses."""
    deterministic: bool = True
    """Ask torch for repeatable algorithms."""
    prefix_cache: Annotated[Literal["auto", "off", "memory", "disk"], BeforeValidator(_as_switch)] = "auto"
    """Compute what frozen first layers make of an image once, not in every step: where it pays (auto), never (off), or
    wherever it can be done, keeping the features in memory or on disk."""
    prefix_dtype: Literal["exact", "bf16"] = "exact"
    """How these features are stored; bf16 halves their size, and results differ from those without the cache."""
    views: int | None = Field(None, ge=1)
    """While first layers are frozen, each case is seen in this many random versions (augmentation, patches) in turn.
    Default: a new one each time, which leaves nothing to compute once unless there is no randomness."""

    @field_validator("seeds")
    @classmethod
    def _differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("a seed occurs twice")
        return value


class CacheConfig(_Section):
    """Preprocessed images on this machine's disk: each is decoded once, for all runs that prepare it alike."""

    enabled: bool = True
    """false: keep preprocessed images in memory only."""
    folder: Path | None = None
    """Where they are. Default: MEDTL_CACHE, else ``~/.cache/medtl/volumes``. Not stored in the run folder."""
    max_gib: float = Field(50.0, gt=0)
    """Largest size; what was used longest ago goes first. Never more than half of the free disk."""


class RunConfig(_Section):
    """Everything that defines a run."""

    data: DataConfig = DataConfig()
    splits: SplitConfig = SplitConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    cache: CacheConfig = CacheConfig()
    plugins: list[Path] = []
    """One-file plugins to load."""
    out: Path | None = None
    """The run folder."""


FLAGS = {
    "dataset": "data.dataset",
    "studies": "data.studies",
    "labels": "data.labels",
    "target": "data.target",
    "key": "data.key",
    "image": "data.image",
    "group_by": "data.group_by",
    "split": "data.split",
    "backbone": "model.backbone",
    "weights": "model.weights",
    "head": "model.head",
    "policy": "model.policy",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "training.lr",
    "patience": "training.patience",
    "seed": "training.seed",
    "seeds": "training.seeds",
    "folds": "splits.folds",
    "device": "training.device",
    "workers": "training.workers",
    "augment": "augmentation.enabled",
    "tune": "training.tune",
    "cache": "cache.enabled",
    "prefix_cache": "training.prefix_cache",
    "out": "out",
}
"""Short names, on the command line and in Python, for the keys used most."""


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML config and lay dotted overrides over it.

    Args:
        path: The YAML file, or None to start from the defaults.
        overrides: ``{"training.epochs": 5}``; a value that is a string is read as YAML where the field is not a string.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or a value does not fit its type.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(path)
    for dotted, value in (overrides or {}).items():
        _lay(tree, dotted, value)
    return validate(tree, where=path.name if path else "")


def validate(tree: Mapping[str, Any], *, where: str = "") -> RunConfig:
    """Turn a nested mapping into a :class:`RunConfig`.

    Raises:
        ConfigError: With the first problem found: the key, what is wrong, and the nearest known key.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(p) for p in first["loc"]]
        key = ".".join(parts)
        if first["type"] == "extra_forbidden":
            mend = did_you_mean(parts[-1], _known_keys(parts[:-1]))
            raise ConfigError(f"unknown key {key!r}", where=where, mend=mend) from None
        raise ConfigError(
            f"{key} = {first['input']!r} does not fit: {first['msg'].lower()}",
            where=where,
            mend="Run 'medtl config --schema' for every key and its type",
        ) from None


def with_cache(config: RunConfig, cache: bool | None) -> RunConfig:
    """Return the configuration of a run with the cache switched on or off; None leaves it as the run was started."""
    if cache is None:
        return config
    return config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": cache})})


def parse_set(items: list[str]) -> dict[str, Any]:
    """Read ``["training.epochs=5"]``; values are YAML.

    Raises:
        ConfigError: If an item has no ``=`` or its value is not YAML.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, sep, text = item.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"--set {item!r} is not KEY=VALUE", mend="For example --set training.epochs=5")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {item!r}: the value is not YAML", mend="Quote it") from None
    return values


def dump(config: RunConfig) -> str:
    """Return the config as YAML that :func:`load_config` reads back to an equal value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such config file", where=path.name, mend="Check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"not a readable YAML file ({problem})", where=path.name, mend="Check its syntax") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("the file is not a mapping", where=path.name, mend="Start with sections such as 'data:'")
    return tree


def _lay(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{section!r} is not a section", where=dotted, mend="Run 'medtl config --show'")
        tree = below
    tree[leaf] = value


def _known_keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if typing.get_origin(annotation) is dict:
            # The next part is a name that the user chose.
            next(parts, None)
            annotation = typing.get_args(annotation)[1]
        if not isinstance(annotation, type) or isinstance(annotation, types.GenericAlias):
            return []
        if typing.get_origin(annotation) is not None or not issubclass(annotation, BaseModel):
            return []
        model = annotation
    return list(model.model_fields)

"""Loading what a backbone starts from: a finished run, weights that its plugin offers, or the user's own file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from medtl_monai.config import ModelConfig
from medtl_monai.data.preprocessing import Preprocessing
from medtl_monai.errors import ConfigError, WeightsError, did_you_mean
from medtl_monai.specs import BackboneSpec, Intensity, WeightsSpec
from medtl_monai.training.reporter import Reporter
from medtl_monai.training.source import RunSource
from medtl_monai.transfer.adapt import GreyFromColour
from medtl_monai.transfer.coverage import CoverageReport
from medtl_monai.transfer.download import hash_file
from medtl_monai.transfer.downloaded import MAX_BYTES
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.reading import read_state
from medtl_monai.transfer.sources import Source, is_hub, is_web, public_name, resolve_source, split_hash
from medtl_monai.transfer.weights import load_into


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What the weights have seen, and what they will see.

    Attributes:
        learnt: How the weights' images were normalised.
        images: How the target's images will be.
        channels: How many channels these have; input kernels made for another number are adapted.
    """

    learnt: Intensity
    images: Preprocessing
    channels: int

    @property
    def grey(self) -> GreyFromColour | None:
        """The two normalisations, where they are fixed and the images have one channel in place of several."""
        now = self.images.channel_plans[0].intensity if self.images.channel_plans else self.images.intensity
        fixed = self.learnt.normalise == now.normalise == "fixed"
        if not fixed or self.channels != 1 or len(self.learnt.mean) < 2:
            return None
        return GreyFromColour(means=self.learnt.mean, stds=self.learnt.std, mean=now.mean[0], std=now.std[0])


def load_pretrained(
    model: TransferModel,
    spec: BackboneSpec,
    source: RunSource | None,
    config: ModelConfig,
    *,
    seen: Seen,
    reporter: Reporter,
) -> CoverageReport | None:
    """Load the weights that the configuration names into backbone and necks.

    Args:
        model: The freshly built model.
        spec: Its backbone's spec.
        source: The run that stands for the backbone, if any.
        config: The model section.
        seen: The images, then and now.
        reporter: Told how far a download is.

    Returns:
        What was loaded where; None when nothing was named.

    Raises:
        ConfigError: If a run and other weights are both named, or options for weights that are not the user's own.
        WeightsError: If the weights cannot be had, are not the expected bytes, or cover too little.
    """
    options: dict[str, Any] = {"in_channels": seen.channels, "grey": seen.grey}
    if source is not None:
        if config.weights is not None:
            raise ConfigError(
                "the run brings its own weights",
                where="model.weights",
                mend="Leave --weights out, or name the backbone itself instead of the run",
            )
        _own_only(config, "a run")
        state, sha256 = read_state(source.model_file, where=source.folder.name)
        name = f"run {source.folder.name}"
        return load_into(
            model, state, source=name, sha256=sha256, origin=name, min_coverage=config.min_coverage or 1.0, **options
        )
    if config.weights is None:
        _own_only(config, "no weights")
        return None
    offered = {weights.id: weights for weights in spec.weights}
    if config.weights in offered:
        _own_only(config, "weights of a plugin")
        return _load_offered(model, offered[config.weights], config, options, reporter)
    return _load_own(model, spec, config, options, reporter)


def fetch_offered(weights: WeightsSpec, reporter: Reporter) -> Source:
    """Return the file of weights that a plugin offers, downloaded where it is not on this machine.

    Raises:
        WeightsError: If it cannot be had.
    """
    return resolve_source(
        weights.uris,
        where=weights.id,
        sha256=weights.sha256,
        size=weights.bytes,
        progress=_progress(reporter, weights.id),
    )


def fetch_own(text: str, reporter: Reporter, *, unknown: str = "Give a file that exists") -> tuple[Source, str | None]:
    """Return the user's own file, and the hash that its address asks for.

    Args:
        text: A file, ``https://…`` or ``hf://…``, the latter two with ``#sha256=…`` or without.
        reporter: Told how far a download is.
        unknown: What to do where it is none of these.

    Raises:
        WeightsError: If it cannot be had.
    """
    if not (is_web(text) or is_hub(text)):
        path = Path(text.removeprefix("file:")).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"{path.name!r} is neither a file nor weights on offer", mend=f"Check the name. {unknown}"
            )
        return Source(path=path, origin=path.name), None
    address, sha256 = split_hash(text)
    where = public_name(address)
    name = where.rpartition("/")[2]
    found = resolve_source([address], where=where, sha256=sha256, progress=_progress(reporter, name))
    return found, sha256


def _load_offered(
    model: TransferModel, weights: WeightsSpec, config: ModelConfig, options: dict[str, Any], reporter: Reporter
) -> CoverageReport:
    found = fetch_offered(weights, reporter)
    state, sha256 = _read(found, weights.sha256, weights.id, min(weights.bytes, MAX_BYTES))
    return load_into(
        model,
        state,
        source=weights.id,
        sha256=sha256,
        origin=found.origin,
        min_coverage=config.min_coverage or weights.min_coverage,
        key_map=weights.key_map,
        inflation=weights.inflation,
        **options,
    )


def _load_own(
    model: TransferModel, spec: BackboneSpec, config: ModelConfig, options: dict[str, Any], reporter: Reporter
) -> CoverageReport:
    text, offered = config.weights or "", [weights.id for weights in spec.weights]
    file = "Give a file, an https address, or hf://OWNER/REPOSITORY@REVISION/PATH."
    unknown = f"{did_you_mean(text, offered)} Or: {file}" if offered else file
    found, expected = fetch_own(text, reporter, unknown=unknown)
    name = found.origin.rpartition("/")[2]
    state, sha256 = _read(found, expected, name, MAX_BYTES)
    if (is_web(text) or is_hub(text)) and expected is None:
        reporter.note(f"{name}: to be sure of these very bytes next time, add #sha256={sha256} to the address")
    return load_into(
        model,
        state,
        source=name,
        sha256=sha256,
        origin=found.origin,
        min_coverage=config.min_coverage or 1.0,
        key_map=config.key_map,
        inflation=config.inflation,
        **options,
    )


def _read(found: Source, sha256: str | None, where: str, max_bytes: int) -> tuple[dict[str, Tensor], str]:
    """Read the tensors; a download that was altered on the disk is removed, so that it comes anew."""
    if found.downloaded:
        # A file of the cache is named by what is in it.
        sha256 = found.path.stem
    try:
        return read_state(found.path, sha256=sha256, where=where, max_bytes=max_bytes)
    except WeightsError as error:
        if not found.downloaded or hash_file(found.path) == sha256:
            raise
        found.path.unlink(missing_ok=True)
        what = f"{error.what}; the altered download was removed"
        raise WeightsError(what, where=where, mend="Run it again: the file is downloaded anew") from error


def _own_only(config: ModelConfig, instead: str) -> None:
    for name in ("key_map", "inflation"):
        if getattr(config, name):
            what = f"it is for your own weights file, and the model starts from {instead}"
            raise ConfigError(what, where=f"model.{name}", mend="Leave it out, or name a file with --weights")


def _progress(reporter: Reporter, name: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        whole = max(1, round(total / 1e6))
        reporter.count(f"downloading {name} (MB)", whole if done >= total else min(whole - 1, int(done / 1e6)), whole)

    return report

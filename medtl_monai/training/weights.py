"""Loading what a backbone starts from: a finished run, weights that its plugin offers, or the user's own file."""

from __future__ import annotations

from pathlib import Path

from medtl_monai.config import ModelConfig
from medtl_monai.errors import ConfigError, WeightsError, did_you_mean
from medtl_monai.specs import BackboneSpec, WeightsSpec
from medtl_monai.training.source import RunSource
from medtl_monai.transfer.coverage import CoverageReport
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.sources import read_state, resolve_source
from medtl_monai.transfer.weights import load_into


def load_pretrained(
    model: TransferModel, spec: BackboneSpec, source: RunSource | None, config: ModelConfig, *, image_channels: int
) -> CoverageReport | None:
    """Load the weights that the configuration names into backbone and necks.

    Args:
        model: The freshly built model.
        spec: Its backbone's spec.
        source: The run that stands for the backbone, if any.
        config: The model section.
        image_channels: Channels of the target images; input kernels made for another number are adapted.

    Returns:
        What was loaded where; None when nothing was named.

    Raises:
        ConfigError: If a run and other weights are both named.
        WeightsError: If the weights are not there, not the expected bytes, or cover too little.
    """
    if source is not None:
        if config.weights is not None:
            raise ConfigError(
                "the run brings its own weights",
                where="model.weights",
                mend="Leave --weights out, or name the backbone itself instead of the run",
            )
        state, sha256 = read_state(source.model_file, where=source.folder.name)
        minimum = config.min_coverage or 1.0
        return load_into(
            model,
            state,
            source=f"run {source.folder.name}",
            sha256=sha256,
            min_coverage=minimum,
            in_channels=image_channels,
        )
    if config.weights is None:
        return None
    offered = {weights.id: weights for weights in spec.weights}
    if config.weights in offered:
        return _load_offered(model, offered[config.weights], config, image_channels)
    path = Path(config.weights)
    if not path.is_file():
        mend = f"{did_you_mean(config.weights, offered)} Or give a file." if offered else "Give a file that exists."
        raise WeightsError(f"{path.name!r} is neither a file nor weights of {spec.name!r}", mend=mend)
    state, sha256 = read_state(path)
    minimum = config.min_coverage or 1.0
    return load_into(model, state, source=path.name, sha256=sha256, min_coverage=minimum, in_channels=image_channels)


def _load_offered(
    model: TransferModel, weights: WeightsSpec, config: ModelConfig, image_channels: int
) -> CoverageReport:
    path = resolve_source(weights.uris, where=weights.id)
    state, sha256 = read_state(path, sha256=weights.sha256, where=weights.id)
    return load_into(
        model,
        state,
        source=weights.id,
        sha256=sha256,
        min_coverage=config.min_coverage or weights.min_coverage,
        key_map=weights.key_map,
        in_channels=image_channels,
    )

"""What is done to the values of each named channel: one clip for a CT and a PET would be wrong for one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from medtl_monai.config import ChannelConfig, PreprocessingConfig
from medtl_monai.data.image_info import ImageInfo
from medtl_monai.data.intensity import resolve_intensity, statistics_for
from medtl_monai.data.pipeline import ChannelPlan
from medtl_monai.errors import ConfigError, DataError, did_you_mean
from medtl_monai.specs import InputSpec, Intensity


def plan_channels(
    spec: InputSpec,
    config: PreprocessingConfig,
    images: Sequence[ImageInfo],
    learnt: Mapping[str, Intensity],
    channels: int,
) -> tuple[tuple[ChannelPlan, ...], tuple[str, ...]]:
    """Resolve the intensity of every named channel.

    The user's word for the channel counts most, then that for all, then what the weights have learnt of a channel of
    that name, then what the backbone asks for. Channels of different kinds (modality or unit) must not share clip
    bounds or fixed statistics.

    Args:
        spec: What the backbone wants to see.
        config: The user's changes.
        images: The training images.
        learnt: How the weights have learnt to see channels, by name.
        channels: How many channels the network sees.

    Returns:
        One plan a channel, none where channels have no names; and notes.

    Raises:
        ConfigError: If a channel is named that is not there, or different channels share what they must not.
        DataError: If no training image has a channel.
    """
    names = [info.name for info in images[0].channel_info]
    unknown = [name for name in config.channels if name not in names]
    if unknown:
        what = f"there is no channel {unknown[0]!r}"
        mend = did_you_mean(unknown[0], names) if names else "Name them with data.inputs or data.channels"
        raise ConfigError(what, where="preprocessing.channels", mend=mend)
    seen = [_seen(images, n, name) for n, name in enumerate(names)]
    mixed = len(set(seen)) > 1
    plans = []
    for n, (name, (modalities, units)) in enumerate(zip(names, seen, strict=True)):
        intensity = _intensity(spec, config, name, learnt)
        if mixed:
            _refuse_shared(intensity, config, name, name in learnt)
        intensity = _for_one(statistics_for(intensity, channels), n)
        if intensity.unit == "any" and _unit_asked(config, name) is None and len(units) == 1:
            intensity = dataclasses.replace(intensity, unit=units[0])
        plans.append(ChannelPlan(name=name, modality=modalities, intensity=intensity))
    return tuple(plans), _notes(plans, config, learnt)


def _seen(images: Sequence[ImageInfo], n: int, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modalities and units of a channel."""
    there = [image.channel_info[n] for image in images if not image.channel_info[n].filled]
    if not there:
        mend = "Add cases that have it, or take it out of data.inputs"
        raise DataError(f"no training case has {name}", where="training images", mend=mend)
    modalities = {info.modality for info in there} - {""}
    return tuple(sorted(modalities)), tuple(sorted({info.unit for info in there}))


def _intensity(spec: InputSpec, config: PreprocessingConfig, name: str, learnt: Mapping[str, Intensity]) -> Intensity:
    shared = resolve_intensity(learnt.get(name, spec.intensity), config)
    return resolve_intensity(shared, config.channels.get(name, ChannelConfig()), f"preprocessing.channels.{name}")


def _unit_asked(config: PreprocessingConfig, name: str) -> str | None:
    return config.channels[name].unit or config.unit if name in config.channels else config.unit


def _refuse_shared(intensity: Intensity, config: PreprocessingConfig, name: str, known: bool) -> None:
    own = config.channels.get(name, ChannelConfig())
    where = f"preprocessing.channels.{name}"
    shared = own.clip is None and own.clip_percentiles is None and (config.clip is not None or not known)
    if intensity.clip is not None and shared:
        what = f"the inputs are of different kinds, and {list(intensity.clip)} would clip them all"
        mend = f"Set {where}.clip for each input; clip_percentiles: [0, 100] keeps all values"
        raise ConfigError(what, where=where, mend=mend)
    if intensity.normalise == "fixed" and own.normalise is None and not known:
        what = "the inputs are of different kinds, and the backbone normalises them with the same statistics"
        raise ConfigError(what, where=where, mend=f"Set {where}.normalise=zscore, for example")


def _for_one(intensity: Intensity, n: int) -> Intensity:
    if len(intensity.mean) <= 1:
        return intensity
    return dataclasses.replace(intensity, mean=(intensity.mean[n],), std=(intensity.std[n],))


def _notes(
    plans: Sequence[ChannelPlan], config: PreprocessingConfig, learnt: Mapping[str, Intensity]
) -> tuple[str, ...]:
    names = [plan.name for plan in plans]
    notes = []
    if config.clip is not None and len(names) > 1:
        alike = [plan.name for plan in plans if plan.intensity.clip == tuple(config.clip)]
        notes.append(f"the same bounds clip {', '.join(alike)}")
    if learnt and list(learnt) != names:
        here = f"the channels here are {', '.join(names)}" if names else "the image here has no named channels"
        notes.append(f"the source run has learnt on {', '.join(learnt)}; {here}")
    return tuple(notes)

"""Voxel values: the right unit, clipped, normalised; never NaN."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medtl_monai.config import ChannelConfig, PreprocessingConfig
from medtl_monai.dicom.geometry import FloatArray, Volume
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.specs import Intensity

_SAMPLED = 2_000_000
"""Voxels that percentiles are taken from: a regular subset of larger images."""

_HU_OF_AIR = (-3100.0, -500.0)
"""Where the lowest value of a CT in Hounsfield units lies: air is -1000, padding goes down to -3024."""


def resolve_intensity(
    intensity: Intensity, config: PreprocessingConfig | ChannelConfig, key: str = "preprocessing"
) -> Intensity:
    """Lay the user's changes over what a backbone asks for.

    Args:
        intensity: What is asked for.
        config: The changes, for all channels or for one.
        key: Where they are in the configuration.

    Raises:
        ConfigError: If both clips are set, or one is not ``[low, high]``.
    """
    changes: dict[str, object] = {}
    if config.clip is not None and config.clip_percentiles is not None:
        raise ConfigError("clip and clip_percentiles are both set", where=key, mend="Keep one of them")
    if config.clip is not None:
        changes |= {"clip": _pair(config.clip, f"{key}.clip"), "clip_percentiles": None}
    if config.clip_percentiles is not None:
        bounds = _pair(config.clip_percentiles, f"{key}.clip_percentiles")
        changes |= {"clip": None, "clip_percentiles": bounds}
    if config.normalise is not None:
        changes |= {"normalise": config.normalise, "mean": (), "std": ()}
    if config.unit is not None:
        changes["unit"] = config.unit
    return dataclasses.replace(intensity, **changes)  # type: ignore[arg-type]


def statistics_for(intensity: Intensity, channels: int) -> Intensity:
    """Return the intensity with fixed statistics for that many channels.

    Raises:
        ConfigError: If it has statistics for another number of several channels.
    """
    if intensity.normalise != "fixed" or len(intensity.mean) == channels:
        return intensity
    if len(intensity.mean) > 1 and channels > 1:
        what = f"the backbone normalises {len(intensity.mean)} channels, and the images have {channels}"
        raise ConfigError(what, where="preprocessing.normalise", mend="Set it to zscore")
    # Grey from colour statistics, or one statistic for all channels.
    mean = (float(np.mean(intensity.mean)),) * channels
    std = (float(np.sqrt(np.mean(np.square(intensity.std)))),) * channels
    return dataclasses.replace(intensity, mean=mean, std=std)


def _pair(values: list[float], key: str) -> tuple[float, float]:
    if len(values) != 2 or values[0] >= values[1]:
        raise ConfigError(f"{values} is not [low, high]", where=key, mend="For example [-1000, 400]")
    return values[0], values[1]


def check_unit(volume: Volume, unit: str, where: str, key: str = "preprocessing.unit") -> None:
    """Refuse an image whose values are in another unit.

    A NIfTI image does not tell its unit: one that should be in Hounsfield units must at least reach down to air.

    Args:
        volume: The image.
        unit: The unit that is needed; ``"any"`` takes all.
        where: How errors name the image.
        key: Where the configuration says which unit is needed.

    Raises:
        DataError: If the unit does not fit.
    """
    if unit == "any" or volume.unit.casefold() == unit.casefold():
        return
    if volume.unit != "any":
        mend = f"Use studies of the same kind, or set {key}"
        raise DataError(f"the values are in {volume.unit}, and {unit} is needed", where=where, mend=mend)
    lowest = float(volume.array.min())
    if unit != "HU" or not _HU_OF_AIR[0] <= lowest <= _HU_OF_AIR[1]:
        what = f"the image does not tell its unit, {unit} is needed, and its lowest value is {lowest:g}"
        raise DataError(what, where=where, mend=f"If the values are {unit} all the same, set {key}=any")


def normalise_channels(
    volume: Volume, intensities: Sequence[Intensity], where: str
) -> tuple[FloatArray, tuple[float, ...]]:
    """Clip and normalise each named channel in its own way.

    Args:
        volume: An image with ``channel_info``.
        intensities: One a channel; ``mean`` and ``std`` have one entry.
        where: How errors name the image.

    Returns:
        As :func:`normalise` does. A filled channel is 0 everywhere, padding included, whatever the normalisation.

    Raises:
        DataError: As :func:`normalise` does, naming the channel.
    """
    array = volume.array if volume.array.ndim == 4 else volume.array[None]
    out = np.zeros(array.shape, np.float32)
    background = [0.0] * len(out)
    for n, (info, intensity) in enumerate(zip(volume.channel_info, intensities, strict=True)):
        if not info.filled:
            values, (background[n],) = normalise(array[n : n + 1], intensity, f"{where}, {info.name}".lstrip(", "))
            out[n] = values[0]
    return out, tuple(background)


def normalise(array: FloatArray, intensity: Intensity, where: str) -> tuple[FloatArray, tuple[float, ...]]:
    """Clip and normalise an image.

    Args:
        array: float32 ``[C, i, j, k]``; left as it is.
        intensity: What to do; ``mean`` and ``std`` have one entry per channel.
        where: How errors name the image.

    Returns:
        The normalised float32 image, and the value of its background per channel: that of the lower clip bound where
        one is given, 0 for ``zscore-nonzero``, otherwise the image's lowest value. Padding is filled with it.

    Raises:
        DataError: If a channel is constant, or clipping leaves it so, or a value is not finite.
    """
    out = np.array(array, np.float32, order="C")
    background = []
    for n, channel in enumerate(out):
        name = where if len(out) == 1 else f"{where} channel {n + 1}".strip()
        _refuse_flat(channel, "the image is constant", name)
        zeros = channel == 0 if intensity.normalise == "zscore-nonzero" else None
        floor = _clip(channel, intensity)
        _refuse_flat(channel, "the image is constant after clipping", name)
        lowest = float(channel.min()) if floor is None else floor
        shift, scale = _shift_and_scale(channel, intensity, n, zeros, name)
        np.subtract(channel, np.float32(shift), out=channel)
        np.divide(channel, np.float32(scale), out=channel)
        if zeros is not None:
            channel[zeros] = 0
        background.append((lowest - shift) / scale if zeros is None else 0.0)
    return out, tuple(background)


def _refuse_flat(channel: FloatArray, what: str, where: str) -> None:
    low, high = float(channel.min()), float(channel.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise DataError("the image has values that are not finite", where=where, mend="Repair or leave out the case")
    if low == high:
        mend = "Check the image, the unit and the clip bounds, or leave out the case"
        raise DataError(f"{what}: every voxel is {low:g}", where=where, mend=mend)


def _clip(channel: FloatArray, intensity: Intensity) -> float | None:
    bounds = intensity.clip
    if intensity.clip_percentiles is not None:
        step = max(1, channel.size // _SAMPLED)
        low, high = np.percentile(channel.reshape(-1)[::step], intensity.clip_percentiles)
        # Mostly-background images: percentiles that coincide would leave nothing.
        bounds = (float(low), float(high)) if high > low else None
    if bounds is None:
        return None
    np.clip(channel, *bounds, out=channel)
    return bounds[0]


def _shift_and_scale(
    channel: FloatArray, intensity: Intensity, n: int, zeros: NDArray[np.bool_] | None, where: str
) -> tuple[float, float]:
    if intensity.normalise == "fixed":
        return intensity.mean[n], intensity.std[n]
    if intensity.normalise == "minmax":
        return float(channel.min()), float(channel.max() - channel.min())
    if intensity.normalise == "none":
        return 0.0, 1.0
    values = channel if zeros is None else channel[~zeros]
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if std == 0:
        mend = "Use preprocessing.normalise=zscore or minmax"
        raise DataError("all non-zero voxels are equal", where=where, mend=mend)
    return mean, std

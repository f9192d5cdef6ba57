"""A U-Net decoder for any pyramid of taps: planned from the declared strides, run at the sizes that really come."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional

from medtl_monai.builtin.task_heads.checks import pick, within
from medtl_monai.errors import DataError
from medtl_monai.specs import Stage

NORMS = ("instance", "batch", "group")
"""Normalisation layers of the decoder."""
UPS = ("interpolate", "transposed")
"""Ways to upsample."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of the decoder towards the image.

    Attributes:
        tap: Index of the backbone's tap that joins, or None where the backbone has none so fine.
        in_channels: Channels that come from the coarser step.
        skip_channels: Channels of the tap that joins; 0 without one.
        out_channels: Channels it puts out.
        stride: Down-sampling of its output against the image, per axis.
        ratio: Up-sampling against its input, per axis.
    """

    tap: int | None
    in_channels: int
    skip_channels: int
    out_channels: int
    stride: tuple[int, ...]
    ratio: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecoderPlan:
    """A decoder from the coarsest tap to its finest output.

    Attributes:
        start: Index of the coarsest tap.
        steps: Its steps, coarsest first.
        out_channels: Channels of the last output.
    """

    start: int
    steps: tuple[Step, ...]
    out_channels: int


def plan_decoder(stages: Sequence[Stage], *, channels: int = 32, output_stride: int = 2) -> DecoderPlan:
    """Plan a decoder for a backbone's taps.

    Of taps with equal strides, the deepest is used: it is computed from the others. The steps run from the coarsest
    tap to the finest. If that is still coarser than ``output_stride`` (a vision transformer, a patch stem), further
    steps without a tap halve the stride until every axis is at most ``output_stride``.

    Args:
        stages: The backbone's stages.
        channels: Channels of the finest step; doubled at each coarser one up to four times as many. A step has no more
            than the tap that joins it, unless that is fewer than ``channels / 2``.
        output_stride: Largest stride of the decoder's output; what is left is linear interpolation.

    Raises:
        ConfigError: If an option is out of range.
    """
    within("channels", channels, 1)
    within("output_stride", output_stride, 1)
    pyramid = _pyramid(stages)
    levels = [*((None, stride) for stride in _refine(pyramid[0][1], output_stride)), *pyramid]
    start = pyramid[-1][0]
    width = stages[start].channels
    steps: list[Step] = []
    for depth in reversed(range(len(levels) - 1)):
        (tap, stride), (_, coarser) = levels[depth], levels[depth + 1]
        skip = 0 if tap is None else stages[tap].channels
        out = min(channels * 2**depth, channels * 4, max(skip, channels // 2) if skip else channels * 4)
        ratio = tuple(max(1, math.ceil(c / s)) for c, s in zip(coarser, stride, strict=True))
        steps.append(Step(tap=tap, in_channels=width, skip_channels=skip, out_channels=out, stride=stride, ratio=ratio))
        width = out
    return DecoderPlan(start=start, steps=tuple(steps), out_channels=width)


def _pyramid(stages: Sequence[Stage]) -> list[tuple[int, tuple[int, ...]]]:
    """Return the index of the deepest tap of each stride, and that stride: finest first."""
    deepest = {stage.stride: index for index, stage in enumerate(stages)}
    return sorted(((index, stride) for stride, index in deepest.items()), key=lambda level: _coarseness(level[1]))


def _coarseness(stride: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    volume = 1
    for factor in stride:
        volume *= factor
    return volume, stride


def _refine(stride: tuple[int, ...], output_stride: int) -> list[tuple[int, ...]]:
    """Return the strides of further steps, finest first, until every axis is at most ``output_stride``."""
    strides: list[tuple[int, ...]] = []
    while max(stride) > output_stride:
        stride = tuple(max(output_stride, math.ceil(s / 2)) if s > output_stride else s for s in stride)
        strides.insert(0, stride)
    return strides


class UpStage(nn.Module):
    """Upsample the coarser state to the next tap's size, join the tap, and apply two convolutions.

    Each convolution is followed by normalisation and LeakyReLU.

    Args:
        step: What goes in and out.
        spatial_dims: 2 or 3.
        up: One of :data:`UPS`. ``"interpolate"``: 1×1 convolution, then linear interpolation (they commute, and in this
            order it is cheaper); ``"transposed"``: transposed convolution with kernel = stride.
        norm: One of :data:`NORMS`.

    Raises:
        ConfigError: If ``up`` or ``norm`` is unknown.
    """

    def __init__(self, step: Step, *, spatial_dims: int, up: str = "interpolate", norm: str = "instance") -> None:
        super().__init__()
        self.norm = pick("norm", norm, NORMS)
        if pick("up", up, UPS) == "transposed":
            layer = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
            self.up: nn.Module = layer(step.in_channels, step.out_channels, step.ratio, stride=step.ratio, bias=False)  # type: ignore[arg-type]
        else:
            point = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
            self.up = point(step.in_channels, step.out_channels, 1, bias=False)
        joined = step.out_channels + step.skip_channels
        self.convs = nn.Sequential(
            _conv_block(spatial_dims, joined, step.out_channels, norm),
            _conv_block(spatial_dims, step.out_channels, step.out_channels, norm),
        )

    def forward(self, coarse: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        """Return ``[B, out_channels, *size]`` from ``coarse`` and the tap ``skip [B, skip_channels, *size]``.

        Raises:
            DataError: If instance normalisation would be left with a single voxel, which it turns into a constant.
        """
        if self.norm == "instance" and all(s == 1 for s in size):
            raise DataError(
                "a step of the decoder is one voxel large, and instance normalisation would erase it",
                where="image size",
                mend="Use larger images or patches, or the head option norm=group",
            )
        x = resize(self.up(coarse), size)
        return self.convs(x if skip is None else torch.cat([x, skip], dim=1))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bring ``x [B, C, *spatial]`` to ``size`` by linear interpolation over the whole extent."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def strided_size(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return the size of a map of an image of ``size`` at ``stride``, rounded up."""
    return tuple(-(-s // d) for s, d in zip(size, stride, strict=True))


def _conv_block(spatial_dims: int, in_channels: int, out_channels: int, norm: str) -> nn.Module:
    options = {
        "instance": ("instance", {"affine": True}),
        "batch": ("batch", {}),
        "group": ("group", {"num_groups": math.gcd(8, out_channels)}),
    }
    block: nn.Module = Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=3,
        bias=False,
        norm=options[norm],
        act=("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
    )
    return block

"""Layers with a low-rank addition: ``y = base(x) + alpha / rank · up(down(dropout(x)))`` (Hu et al. 2021).

For a convolution, ``down`` has the kernel, stride, padding, dilation and padding mode of the base and ``up`` a kernel
of one: their composition is a convolution of the base's own shape and merges into its weight exactly.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medtl_monai.plugin import Adapter, PluginError

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoraLayer(Adapter):
    """A linear or convolution layer with a low-rank addition that starts as zero.

    Args:
        base: The layer; a convolution with one group.
        rank: Rank of the addition.
        alpha: The addition is scaled by ``alpha / rank``.
        dropout: Share of the addition's input that is dropped in training.
    """

    base: Layer

    def __init__(self, base: Layer, *, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.down, self.up = _factors(base, rank)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))  # as torch does for layers of this type
        nn.init.zeros_(self.up.weight)
        self.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output and the addition."""
        added: Tensor = self.up(self.down(self.dropout(x)))
        output: Tensor = self.base(x)
        return output + self.scale * added

    def merged(self) -> Mapping[str, Tensor]:
        """Return the layer's tensors with the addition in its weight."""
        # In float64, which not every accelerator has: rounding then happens once, in the result.
        base, down, up = (
            w.detach().to("cpu", torch.float64) for w in (self.base.weight, self.down.weight, self.up.weight)
        )
        weight = base + self.scale * torch.einsum("or,ri...->oi...", up.flatten(1), down)
        return {**self.base.state_dict(), "weight": weight.to(self.base.weight)}


def adapt(
    name: str, layer: nn.Module, *, rank: int, alpha: float, dropout: float, targets: tuple[str, ...]
) -> LoraLayer | None:
    """Return the layer with a low-rank addition, or None if it is none of the targets.

    Only plain layers are taken: a subclass may read its weight in ways that an addition would not reach, and weights
    that are computed (parametrised, normalised) cannot be merged into. Grouped and depthwise convolutions are left
    alone: there a low rank saves nothing.

    Args:
        name: The layer's path in its stage.
        layer: Any module.
        rank: Rank of the addition.
        alpha: The addition is scaled by ``alpha / rank``.
        dropout: Share of the addition's input that is dropped in training.
        targets: Ends of names (``qkv`` is ``blocks.0.attn.qkv``) or patterns with wildcards; empty means every layer
            that can have one.

    Raises:
        PluginError: If a layer is named in full and cannot have one.
    """
    if targets and not any(fnmatch.fnmatchcase(f".{name}", f"*.{target}") for target in targets):
        return None
    why = _unfit(layer)
    if isinstance(layer, Layer) and not why:
        return LoraLayer(layer, rank=rank, alpha=alpha, dropout=dropout)
    if name in targets:
        mend = "Leave it out of targets"
        raise PluginError(f"{name!r} cannot have a low-rank addition: {why}", where="lora", mend=mend)
    return None


def _unfit(layer: nn.Module) -> str:
    """Return why a layer cannot have an addition; empty if it can."""
    if type(layer) not in _LAYERS:
        return f"it is a {type(layer).__name__}, not a plain Linear or Conv layer"
    if set(dict(layer.named_parameters())) - {"weight", "bias"} or "weight" not in layer._parameters:
        return "its weight is computed from others"
    if getattr(layer, "groups", 1) > 1:
        return f"it has {layer.groups} groups"
    return ""


def _factors(base: Layer, rank: int) -> tuple[Layer, Layer]:
    if isinstance(base, nn.Linear):
        return nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
    conv = type(base)
    down = conv(
        base.in_channels,
        rank,
        base.kernel_size,  # type: ignore[arg-type]
        stride=base.stride,  # type: ignore[arg-type]
        padding=base.padding,  # type: ignore[arg-type]
        dilation=base.dilation,  # type: ignore[arg-type]
        padding_mode=base.padding_mode,
        bias=False,
    )
    return down, conv(rank, base.out_channels, 1, bias=False)

"""From feature maps to one vector a case, and from there to the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medtl_monai.builtin.task_heads.checks import pick, within
from medtl_monai.errors import ConfigError
from medtl_monai.specs import Stage

POOLS = ("avg", "max", "avgmax")
"""The kinds of pooling: mean, maximum, or both side by side."""


class GlobalPool(nn.Module):
    """Pool the last taps of a backbone over space and put them side by side.

    Args:
        stages: The backbone's stages.
        last: How many taps to use, counted from the last.
        kind: One of :data:`POOLS`.

    Attributes:
        features: Length of the vector.

    Raises:
        ConfigError: If ``kind`` is unknown or the backbone has fewer than ``last`` stages.
    """

    def __init__(self, stages: Sequence[Stage], *, last: int = 1, kind: str = "avg") -> None:
        super().__init__()
        within("stages", last, 1)
        if last > len(stages):
            raise ConfigError(
                f"{last} taps are asked for, the backbone has {len(stages)}",
                where="head option stages",
                mend=f"Use 1 to {len(stages)}",
            )
        self.last = last
        self.kind = pick("pool", kind, POOLS)
        channels = sum(stage.channels for stage in stages[-last:])
        self.features = channels * (2 if kind == "avgmax" else 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map taps ``[B, C, *spatial]`` to ``[B, features]``, in float32 whatever the precision of the taps."""
        return torch.cat([self._pool(tap.float().flatten(2)) for tap in features[-self.last :]], dim=1)

    def _pool(self, voxels: Tensor) -> Tensor:
        if self.kind == "avg":
            return voxels.mean(dim=2)
        if self.kind == "max":
            return voxels.amax(dim=2)
        return torch.cat([voxels.mean(dim=2), voxels.amax(dim=2)], dim=1)


class FullPrecisionLinear(nn.Linear):
    """A linear layer that computes in float32 under autocast, too.

    In bfloat16 an output keeps about three digits: cases would tie that do not, and a ROC curve would be coarser than
    the network.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, in_features]`` to ``[B, out_features]``."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())

"""Running a model over whole images, in one piece or in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor

from medtl_monai.modules import Batch


class BatchInferer(Inferer):
    """Call a network on a :class:`Batch`: directly, or by MONAI's sliding window where the model learnt on patches.

    Args:
        window: Size of the windows; None runs the whole image at once.
        overlap: Overlap of neighbouring windows, as a share.
        windows_per_batch: Windows a forward pass.
    """

    def __init__(
        self, window: tuple[int, ...] | None = None, *, overlap: float = 0.5, windows_per_batch: int = 2
    ) -> None:
        super().__init__()
        self.window = window
        self.overlap = overlap
        self.windows_per_batch = windows_per_batch

    def __call__(self, inputs: Batch, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's output for the whole image."""
        if self.window is None or all(s <= w for s, w in zip(inputs.spatial_size, self.window, strict=True)):
            return network(inputs)

        def on_window(window: Tensor) -> Tensor:
            return network(Batch(image=window, spatial_size=tuple(window.shape[2:])))

        result = sliding_window_inference(
            inputs.image,
            roi_size=self.window,
            sw_batch_size=self.windows_per_batch,
            predictor=on_window,
            overlap=self.overlap,
            mode="gaussian",
        )
        if not isinstance(result, torch.Tensor):
            raise TypeError("the head returned something other than one tensor")
        return result

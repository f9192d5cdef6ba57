"""Changing pretrained kernels to fit: other input channels, 2D kernels for 3D networks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Inflation = Literal["repeat", "centre"]


def adapt_input_channels(kernel: Tensor, channels: int) -> Tensor:
    """Return a first-layer kernel for another number of input channels.

    One channel: the kernels are summed, so that a grey image gives what it gave as a colour image with equal channels.
    Otherwise: kernels cycle, scaled by old/new, so that the response keeps its size.

    Args:
        kernel: ``[out, old, *spatial]``.
        channels: Wanted number of input channels.

    Returns:
        ``[out, channels, *spatial]``, in the kernel's dtype.

    Example:
        >>> adapt_input_channels(torch.ones(4, 3, 5, 5), 1).unique()
        tensor([3.])
    """
    old = kernel.shape[1]
    if channels == old:
        return kernel
    wide = kernel.double()
    if channels == 1:
        return wide.sum(1, keepdim=True).to(kernel.dtype)
    index = torch.arange(channels) % old
    return (wide[:, index] * (old / channels)).to(kernel.dtype)


def inflate(kernel: Tensor, depth: int, how: Inflation) -> Tensor:
    """Return a 2D kernel as a 3D one; the new axis comes last, where volumes have their slices.

    Args:
        kernel: ``[out, in, k, k]``.
        depth: Kernel size along the new axis.
        how: ``"repeat"`` spreads the kernel over the axis, divided by ``depth`` (Carreira and Zisserman 2017): a volume
            that is constant along it gives the 2D response. ``"centre"`` puts it into the middle, zeros elsewhere.

    Returns:
        ``[out, in, k, k, depth]``.
    """
    if how == "repeat":
        return (kernel.double() / depth).to(kernel.dtype).unsqueeze(-1).repeat(1, 1, 1, 1, depth)
    result = kernel.new_zeros(*kernel.shape, depth)
    result[..., depth // 2] = kernel
    return result

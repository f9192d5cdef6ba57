"""Changing pretrained kernels to fit: other input channels, 2D kernels for 3D networks."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from medtl_monai.specs import Inflation


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class GreyFromColour:
    """How colour images were normalised that the weights have seen, and how grey ones are that they will see.

    Attributes:
        means: Of each colour channel.
        stds: Of each colour channel.
        mean: Of the grey channel.
        std: Of the grey channel.
    """

    means: tuple[float, ...]
    stds: tuple[float, ...]
    mean: float
    std: float

    def fold(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Sum a first-layer kernel over colours with the normalisations folded in.

        A grey value g was ``(g - means[c]) / stds[c]`` to colour c and is ``(g - mean) / std`` now. Where the kernel
        lies inside the image the new kernel gives what the old one gave, but for a constant.

        Args:
            kernel: ``[out, colours, *spatial]``.

        Returns:
            The kernel ``[out, 1, *spatial]`` in its dtype, and the constant ``[out]`` in float64 that was in the old
            answer and is missing in the new one.
        """
        wide = kernel.double()
        shape = (1, -1, *[1] * (kernel.ndim - 2))
        stds = torch.tensor(self.stds, dtype=torch.float64)
        offsets = (self.mean - torch.tensor(self.means, dtype=torch.float64)) / stds
        folded = (wide * (self.std / stds).reshape(shape)).sum(1, keepdim=True)
        return folded.to(kernel.dtype), wide.flatten(2).sum(2) @ offsets


def absorber(root: nn.Module, weight: str) -> tuple[str, float] | None:
    """Find what takes up a constant in front of or behind a convolution.

    That is the convolution's bias, or the statistics of the normalisation that follows it directly: only in a
    ``Sequential`` is the order of modules certain to be the order of computation.

    Args:
        root: The model.
        weight: Name of the convolution's kernel.

    Returns:
        ``(name of the tensor, sign with which the constant goes in)``; an empty name where the normalisation removes
        every constant itself; None if there is nothing.
    """
    owner = weight.rpartition(".")[0]
    if getattr(root.get_submodule(owner), "bias", None) is not None:
        return f"{owner}.bias", 1.0
    around, _, own = owner.rpartition(".")
    parent = root.get_submodule(around)
    names = [name for name, _ in parent.named_children()] if isinstance(parent, nn.Sequential) else []
    following = names[names.index(own) + 1 :][:1] if own in names else []
    if not following:
        return None
    norm = parent.get_submodule(following[0])
    if not isinstance(norm, _NormBase):
        return None
    # Without running statistics, those of the batch or the image take the constant out.
    return ("", 0.0) if norm.running_mean is None else (f"{around}.{following[0]}.running_mean", -1.0)


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

"""Means of predictions: over the members of an ensemble, and over flips of one image."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from medtl_monai.errors import ConfigError, RunError
from medtl_monai.modules import Prediction
from medtl_monai.specs import TargetKind


class PredictionMean:
    """Adds up predictions of one case and gives their mean: probabilities, or numbers.

    The class is that of the highest mean probability, a label is set where its mean reaches 0.5, and a mask has the
    label of the highest mean probability at each voxel. Masks are added up in float32, as volumes are large, all else
    in float64.

    Args:
        kind: What the targets are.
        head: The head's name, for messages.
    """

    def __init__(self, kind: TargetKind, *, head: str = "") -> None:
        self.kind = kind
        self.head = head
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, prediction: Prediction) -> None:
        """Take one in.

        Raises:
            RunError: If the head did not give what is to be averaged, or another size.
        """
        what = "values" if self.kind == "number" else "probabilities"
        own = prediction.values if self.kind == "number" else prediction.probabilities
        if own is None:
            mend = "Predict with a single run and without flips, or let its predict return them"
            raise RunError(f"the head gives no {what}, which could be averaged", where=self.head, mend=mend)
        own = own.to(torch.float32 if self.kind == "mask" else torch.float64)
        if self._sum is None:
            self._sum = own.clone()
        elif self._sum.shape != own.shape:
            what = f"predictions of shapes {tuple(self._sum.shape)} and {tuple(own.shape)} have no mean"
            raise RunError(what, where=self.head, mend="Use runs that were trained on the same labels")
        else:
            self._sum += own
        self.count += 1

    def mean(self) -> Prediction:
        """Return the mean of what was added, in float32."""
        if self._sum is None:
            raise ValueError("nothing was added")
        mean = (self._sum / self.count).float()
        if self.kind == "number":
            return Prediction(values=mean)
        if self.kind == "mask":
            return Prediction(probabilities=mean, mask=mean.argmax(dim=1).short())
        classes = mean.argmax(dim=1) if self.kind == "class" else (mean >= 0.5).long()
        return Prediction(probabilities=mean, classes=classes)


def over_flips(
    predict: Callable[[Tensor], Prediction], image: Tensor, axes: Sequence[int], kind: TargetKind, *, head: str = ""
) -> Prediction:
    """Predict an image and its mirror images, and return the mean; masks are mirrored back before.

    Args:
        predict: Maps an image ``[C, *S]`` to a prediction (a batch of one).
        image: The image ``[C, *S]``, as the network sees it.
        axes: Spatial axes, from 0; every combination of them is used, none among them.
        kind: What the targets are.
        head: The head's name, for messages.
    """
    total = PredictionMean(kind, head=head)
    for chosen in flip_sets(axes):
        dims = [axis + 1 for axis in chosen]
        prediction = predict(image.flip(dims) if dims else image)
        if dims and kind == "mask" and prediction.probabilities is not None:
            # One dimension more: the batch.
            prediction = Prediction(probabilities=prediction.probabilities.flip([d + 1 for d in dims]))
        total.add(prediction)
    return total.mean()


def flip_sets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield every subset of the axes, the empty one first.

    Example:
        >>> list(flip_sets((0, 2)))
        [(), (0,), (2,), (0, 2)]
    """
    for n in range(len(axes) + 1):
        yield from itertools.combinations(axes, n)


def check_flips(axes: Sequence[int], spatial_dims: int) -> None:
    """Refuse axes that an image does not have.

    Raises:
        ConfigError: If an axis is not one of the image's, or is named twice.
    """
    if any(not 0 <= axis < spatial_dims for axis in axes) or len(set(axes)) < len(axes):
        what = f"{list(axes)} are not axes of a {spatial_dims}D image"
        raise ConfigError(what, where="--tta-axes", mend=f"Use different ones of 0 to {spatial_dims - 1}")

"""Means of predictions, and flips that are undone exactly."""

import itertools

import pytest
import torch

from medtl_monai.errors import ConfigError, RunError
from medtl_monai.modules import Prediction
from medtl_monai.training.averaging import PredictionMean, check_flips, flip_sets, over_flips


def mean_of(kind, *predictions):
    total = PredictionMean(kind, head="h")
    for prediction in predictions:
        total.add(prediction)
    return total.mean()


def test_probabilities_are_averaged_and_decide():
    rows = torch.tensor([[[0.9, 0.1, 0.0]], [[0.3, 0.7, 0.0]], [[0.4, 0.6, 0.0]]])
    mean = mean_of("class", *(Prediction(probabilities=r, classes=r.argmax(1)) for r in rows))
    assert torch.allclose(mean.probabilities, rows.double().mean(0).float(), atol=0, rtol=0)
    assert mean.classes.tolist() == [0]  # by vote it would be 1
    labels = mean_of("classes", *(Prediction(probabilities=r) for r in rows))
    assert labels.classes.tolist() == [[1, 0, 0]]
    values = mean_of(
        "number", Prediction(values=torch.tensor([[1.0, 4.0]])), Prediction(values=torch.tensor([[3.0, 5.0]]))
    )
    assert values.values.tolist() == [[2.0, 4.5]]


def test_masks_are_averaged_voxel_by_voxel():
    random = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, 3, 4, 5, 6, generator=random).softmax(1) for _ in range(3)]
    mean = mean_of("mask", *(Prediction(probabilities=m, mask=m.argmax(1).short()) for m in maps))
    assert torch.allclose(mean.probabilities, torch.stack(maps).mean(0), atol=1e-6)
    assert torch.equal(mean.mask, torch.stack(maps).mean(0).argmax(1).short())
    assert not torch.equal(mean.mask, maps[0].argmax(1).short())


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(RunError, match="h: the head gives no probabilities"):
        mean_of("class", Prediction(classes=torch.tensor([1])))
    with pytest.raises(RunError, match="have no mean"):
        mean_of("class", Prediction(probabilities=torch.ones(1, 2)), Prediction(probabilities=torch.ones(1, 3)))


def pointwise(image):
    """A network that looks at each voxel alone: mirror images give mirrored masks exactly."""
    bright = (64 * image[0].clamp(0, 1)).round() / 64  # few bits: sums are exact
    maps = torch.stack([1 - bright, bright / 2, bright / 2 + 1 / 64])[None]
    return Prediction(probabilities=maps, mask=maps.argmax(1).short())


@pytest.mark.parametrize("axes", [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)])
def test_flips_of_masks_are_undone_exactly(axes):
    image = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    plain = pointwise(image)
    seen = []

    def network(flipped):
        seen.append(flipped)
        return pointwise(flipped)

    mean = over_flips(network, image, axes, "mask")
    assert len(seen) == 2 ** len(axes)
    assert torch.equal(seen[0], image)
    assert not torch.equal(seen[-1], image)
    assert torch.equal(mean.probabilities, plain.probabilities)
    assert torch.equal(mean.mask, plain.mask)


def test_a_network_that_looks_to_one_side_is_averaged():
    image = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(2))

    def network(flipped):
        return Prediction(values=flipped[0, 0, 0, :1][None])

    mean = over_flips(network, image, (0, 2), "number")
    corners = [image[0, i, 0, k] for i in (0, -1) for k in (0, -1)]
    assert torch.allclose(mean.values, torch.stack(corners).mean()[None, None])
    assert not torch.allclose(mean.values, image[0, 0, 0, :1])


def test_axes_are_those_of_the_image():
    assert list(flip_sets((0, 1))) == [(), (0,), (1,), (0, 1)]
    check_flips((0, 1), 2)
    for axes in ((2,), (-1,), (0, 0)):
        with pytest.raises(ConfigError, match="not axes of a 2D image"):
            check_flips(axes, 2)

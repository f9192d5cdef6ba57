import pytest
import torch
from torch import nn

from medtl_monai.transfer.adapt import GreyFromColour, absorber, adapt_input_channels, inflate


def conv(kernel, image):
    function = nn.functional.conv3d if kernel.ndim == 5 else nn.functional.conv2d
    return function(image, kernel, padding=1)


def kernel(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("old", [2, 3, 4])
@pytest.mark.parametrize("spatial", [(3, 3), (3, 3, 3)])
def test_one_channel_answers_as_a_grey_colour_image(old, spatial):
    weight, image = kernel(5, old, *spatial), kernel(2, 1, *[9] * len(spatial), seed=1)
    expected = conv(weight, image.expand(-1, old, *[-1] * len(spatial)))
    assert torch.allclose(conv(adapt_input_channels(weight, 1), image), expected, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize(("old", "new"), [(3, 2), (3, 4), (3, 6), (1, 3), (4, 5), (2, 7)])
def test_other_numbers_cycle_and_keep_their_size(old, new):
    weight = kernel(5, old, 3, 3)
    adapted = adapt_input_channels(weight, new)
    assert adapted.shape == (5, new, 3, 3)
    for channel in range(new):
        assert torch.allclose(adapted[:, channel], weight[:, channel % old] * old / new)


def test_equal_channels_give_an_equal_answer_where_the_cycle_is_whole():
    weight, image = kernel(5, 3, 3, 3), kernel(2, 1, 9, 9, seed=1)
    adapted = adapt_input_channels(weight, 6)
    expected = conv(weight, image.expand(-1, 3, -1, -1))
    assert torch.allclose(conv(adapted, image.expand(-1, 6, -1, -1)), expected, atol=1e-5)


def test_the_same_number_changes_nothing():
    weight = kernel(5, 3, 3, 3)
    assert adapt_input_channels(weight, 3) is weight
    assert adapt_input_channels(weight.half(), 1).dtype == torch.float16


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_constant_volume_gives_the_2d_answer_inside(depth):
    weight, image = kernel(5, 2, 3, 3), kernel(1, 2, 9, 9, seed=1)
    inflated = inflate(weight, depth, "repeat")
    assert inflated.shape == (5, 2, 3, 3, depth)
    volume = image.unsqueeze(-1).expand(-1, -1, -1, -1, 11)
    answer = nn.functional.conv3d(volume, inflated, padding=(1, 1, 0))
    expected = conv(weight, image)
    for k in range(answer.shape[-1]):
        assert torch.allclose(answer[..., k], expected, atol=1e-5)
    assert expected.std() > 0.1


def test_centre_answers_slice_by_slice():
    weight, volume = kernel(5, 2, 3, 3), kernel(1, 2, 9, 9, 7, seed=1)
    answer = conv(inflate(weight, 3, "centre"), volume)
    for k in range(7):
        assert torch.allclose(answer[..., k], conv(weight, volume[..., k]), atol=1e-5)


IMAGENET = GreyFromColour(means=(0.485, 0.456, 0.406), stds=(0.229, 0.224, 0.225), mean=0.449, std=0.226)


@pytest.mark.parametrize("spatial", [(3, 3), (3, 3, 3)])
def test_folding_gives_the_colour_answer_inside(spatial):
    weight, grey = kernel(5, 3, *spatial), kernel(2, 1, *[9] * len(spatial), seed=1)
    axes = [1] * len(spatial)
    means, stds = (torch.tensor(v).reshape(1, 3, *axes) for v in (IMAGENET.means, IMAGENET.stds))
    colour = (grey.expand(-1, 3, *[-1] * len(spatial)) - means) / stds
    folded, constant = IMAGENET.fold(weight)
    seen = (grey - IMAGENET.mean) / IMAGENET.std
    expected, plain = conv(weight, colour), conv(folded, seen)
    answer = plain + constant.float().reshape(1, -1, *axes)
    inside = (..., *[slice(1, -1)] * len(spatial))
    assert torch.allclose(answer[inside], expected[inside], atol=1e-4)
    # Each part is needed: the sum alone is off, and so is the constant left out.
    assert (conv(adapt_input_channels(weight, 1), seen) - expected)[inside].abs().max() > 0.1
    assert (plain - expected)[inside].abs().max() > 0.05
    # Zero padding is another colour for each normalisation: only inside is it exact.
    assert not torch.allclose(answer, expected, atol=1e-2)


def test_what_takes_up_a_constant():
    def net(*layers):
        return nn.Sequential(*layers)

    plain = nn.Conv2d(1, 4, 3, bias=False)
    assert absorber(net(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), "0.weight") == ("0.bias", 1.0)
    assert absorber(nn.ModuleDict({"a": net(plain, nn.BatchNorm2d(4))}), "a.0.weight") == ("a.1.running_mean", -1.0)
    assert absorber(net(plain, nn.InstanceNorm2d(4)), "0.weight") == ("", 0.0)
    assert absorber(net(plain, nn.GroupNorm(2, 4)), "0.weight") is None
    assert absorber(net(plain, nn.ReLU(), nn.BatchNorm2d(4)), "0.weight") is None
    assert absorber(net(plain), "0.weight") is None
    # Where the order of computation is not known, nothing is assumed.
    assert absorber(nn.ModuleDict({"conv": plain, "norm": nn.BatchNorm2d(4)}), "conv.weight") is None

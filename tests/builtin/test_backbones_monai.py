"""Stage by stage, each backbone says what an independently built MONAI network says for the same weights."""

import pytest
import torch
from helpers_backbones import BY_NAME, build, image, judge, perturb, sizes, to_monai


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case:
    """A backbone with statistics of its own, and its taps of one image at each of two sizes."""

    def __init__(self, name):
        self.name, self.spec = name, BY_NAME[name]
        torch.manual_seed(7)
        self.backbone = build(name)
        small = sizes(name)[0]
        perturb(self.backbone, image(small, seed=3, batch=4))
        with torch.inference_mode():
            self.taps = {size: self.backbone(image(size)) for size in sizes(name)}
            self.others = self.backbone(image(small, seed=1))


@pytest.fixture(scope="module", params=sorted(BY_NAME))
def case(request):
    return Case(request.param)


def test_features_are_alive(case):
    """What the other tests compare varies within each map, and from one image to the next."""
    for tap, other in zip(case.taps[sizes(case.name)[0]], case.others, strict=True):
        assert tap.isfinite().all()
        assert tap.std() > 1e-2
        assert (tap - other).abs().max() > 1e-2


@torch.inference_mode()
def test_taps_equal_monais_own_features(case):
    net, features = judge(case.name)
    copied = to_monai(case.backbone, net)
    assert copied == set(case.backbone.state_dict()), "every tensor has exactly one counterpart in MONAI's network"
    for size, taps in case.taps.items():
        expected = features(image(size))
        assert len(taps) == len(expected) == len(case.spec.stages)
        assert all(torch.equal(tap, own) for tap, own in zip(taps, expected, strict=True))


@torch.inference_mode()
def test_every_start_gives_the_tail_of_the_full_pass(case):
    for size, full in case.taps.items():
        state = image(size)
        for start in range(len(full)):
            stored = state.clone()
            tail = case.backbone(state, start=start)
            assert torch.equal(state, stored), "a cached state must stay as it is"
            assert len(tail) == len(full) - start
            assert all(torch.equal(a, b) for a, b in zip(tail, full[start:], strict=True))
            state, (tap,) = case.backbone.run(state, start, start + 1)
            assert torch.equal(tap, full[start])


def test_declared_channels_and_strides_are_the_observed_ones(case):
    assert case.backbone.stage_specs == case.spec.stages
    assert list(case.backbone.stages) == [stage.name for stage in case.spec.stages]
    for size, taps in case.taps.items():
        for tap, stage in zip(taps, case.spec.stages, strict=True):
            expected = tuple(n // s for n, s in zip(size, stage.stride, strict=True))
            assert tuple(tap.shape) == (1, stage.channels, *expected)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_nothing_is_changed_in_place(case, mode):
    case.backbone.train(mode == "train")
    saved = {key: value.clone() for key, value in case.backbone.state_dict().items()}
    x = image(sizes(case.name)[0], batch=2)
    state, taps, copies = x, [], []
    with torch.no_grad():
        for index in range(len(case.backbone.stages)):
            state, tap = case.backbone.run(state, index, index + 1)
            taps += tap
            copies += [tap[0].clone()]
    assert torch.equal(x, image(sizes(case.name)[0], batch=2))
    assert all(torch.equal(tap, copy) for tap, copy in zip(taps, copies, strict=True))
    assert all(tap.std() > 1e-2 for tap in taps)
    case.backbone.load_state_dict(saved)
    case.backbone.eval()

"""What training, checkpoints and workers need of a backbone: clean parameters, gradients, copies."""

import copy
import pickle

import pytest
import torch
from helpers_backbones import BY_NAME, build, image, perturb, sizes

SMALL = {
    "resnet10-3d": {"features": 16},
    "resnet18-2d": {"shortcut_type": "A"},
    "resnet50-2d": {"features": 16, "norm": "group"},
    "densenet121-2d": {"dropout": 0.1},
    "efficientnet-b0-2d": {},
    "segresnet-3d": {"init_filters": 8},
    "unet-3d": {"features": 8},
    "dynunet-3d": {"features": 8},
    "swinunetr-2d": {"feature_size": 12, "use_v2": True},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=sorted(SMALL))
def built(request):
    torch.manual_seed(3)
    backbone = build(request.param, 1, **SMALL[request.param])
    perturb(backbone, image(sizes(request.param)[0], seed=3, batch=4, channels=1))
    return request.param, backbone


def test_each_parameter_is_registered_once_and_in_a_stage(built):
    _, backbone = built
    every = list(backbone.named_parameters(remove_duplicate=False))
    assert len({id(p) for _, p in every}) == len(every) > 20
    assert len({p.data_ptr() for _, p in every}) == len(every)
    assert all(key.startswith("stages.") for key in backbone.state_dict())
    counts = [sum(1 for _ in stage.parameters()) for stage in backbone.stages.values()]
    assert sum(counts) == len(every)
    assert all(counts)


def test_every_parameter_learns_from_the_taps(built):
    name, backbone = built
    net = copy.deepcopy(backbone).train()
    size = tuple(2 * n for n in BY_NAME[name].input.divisible_by)
    x = image(size, batch=2, channels=1)
    # A plain sum is constant behind a normalisation; random weights see every direction.
    loss = sum((tap * torch.randn_like(tap)).sum() for tap in net(x))
    loss.backward()
    silent = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A bias before a normalisation has, mathematically, no gradient; it must be connected all the same.
    assert not [key for key in silent if net.get_parameter(key).grad is None]
    assert len(silent) < 0.2 * len(list(net.parameters()))


def test_state_dict_round_trip(built):
    name, backbone = built
    torch.manual_seed(99)
    other = build(name, 1, **SMALL[name]).eval()
    x = image(sizes(name)[0], channels=1)
    with torch.inference_mode():
        taps = backbone(x)
        assert not all(torch.equal(a, b) for a, b in zip(taps, other(x), strict=True))
        other.load_state_dict(backbone.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(taps, other(x), strict=True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole_and_independent(built, duplicate):
    name, backbone = built
    twin = duplicate(backbone)
    assert twin.stage_specs == backbone.stage_specs
    assert twin.input_spec == backbone.input_spec
    assert twin.monai_key_map == backbone.monai_key_map
    x = image(sizes(name)[0], channels=1)
    with torch.inference_mode():
        taps = backbone(x)
        assert all(torch.equal(a, b) for a, b in zip(taps, twin(x), strict=True))
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(taps, backbone(x), strict=True))
        assert not torch.equal(taps[0], twin(x)[0])


def test_a_pickle_holds_the_stages_and_nothing_else(built):
    _, backbone = built
    tensors = sum(t.numel() * t.element_size() for t in backbone.state_dict().values())
    assert len(pickle.dumps(backbone)) < 1.3 * tensors + 400_000


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_image_channels_are_free(channels):
    for name in ("resnet10-2d", "efficientnet-b0-2d", "unet-2d", "swinunetr-2d"):
        taps = build(name, channels).eval()(image(sizes(name)[0], channels=channels))
        assert [tap.shape[1] for tap in taps] == [stage.channels for stage in BY_NAME[name].stages]


def test_untrained_efficientnet_is_alive_in_evaluation_after_a_few_steps():
    torch.manual_seed(0)
    net = build("efficientnet-b0-2d", 1)
    with torch.no_grad():
        for step in range(20):
            net.train()(image((32, 32), seed=step, batch=4, channels=1))
        taps = net.eval()(image((64, 64), channels=1))
    assert all(tap.std() > 0.05 for tap in taps)

"""Options that change the shape: the instance says so, and MONAI's network under the same options agrees."""

import pytest
import torch
from helpers_backbones import build, image, judge, perturb, resnet, to_monai
from monai.networks.nets.resnet import ResNetFeatures
from torch import nn

from medtl_monai.builtin.layouts.swinunetr import SwinUNETRLayout

GROUP = ("group", {"num_groups": 8})
INSTANCE = ("instance", {"affine": True})
FLAT = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))

# name, our options, MONAI's options, size, channels, deepest stride
VARIANTS = [
    ("resnet10-3d", {"conv1_t_stride": 1, "no_max_pool": True}, {"conv1_t_stride": 1, "no_max_pool": True}, 16, 512, 8),
    ("resnet18-2d", {"shortcut_type": "A"}, {"shortcut_type": "A"}, 64, 512, 32),
    ("resnet50-2d", {"bias_downsample": True}, {"bias_downsample": True}, 64, 2048, 32),
    ("resnet10-2d", {"conv1_t_size": 3}, {"conv1_t_size": 3}, 64, 512, 32),
    ("resnet10-2d", {"features": 16}, {"widen_factor": 0.25}, 64, 128, 32),
    ("densenet121-2d", {"features": 16, "growth_rate": 8}, {"init_features": 16, "growth_rate": 8}, 64, 256, 32),
    ("densenet121-2d", {"norm": "group"}, {"norm": GROUP}, 64, 1024, 32),
    (
        "segresnet-3d",
        {"init_filters": 8, "levels": 3},
        {"init_filters": 8, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)},
        16,
        32,
        4,
    ),
    ("segresnet-2d", {"norm": "batch"}, {"norm": "batch"}, 32, 128, 8),
    ("unet-3d", {"first_stride": 2, "norm": "batch"}, {"strides": (2, 2, 2, 2), "norm": "batch"}, 32, 256, 16),
    (
        "unet-2d",
        {"norm": "instance-plain", "levels": 3, "features": 8},
        {"channels": (8, 16, 32), "strides": (1, 2), "norm": "instance"},
        16,
        32,
        2,
    ),
    (
        "unet-2d",
        {"num_res_units": 0, "levels": "2"},
        {"channels": (16, 32), "strides": (1,), "num_res_units": 0},
        16,
        32,
        1,
    ),
    ("dynunet-2d", {"features": 8, "max_features": 32}, {"filters": (8, 16, 32, 32, 32)}, 32, 32, 16),
    (
        "dynunet-3d",
        {"levels": 3, "features": 8, "res_block": True, "norm": "batch"},
        {"strides": (1, 2, 2), "filters": (8, 16, 32), "res_block": True, "norm_name": "batch"},
        16,
        32,
        4,
    ),
    ("swinunetr-2d", {"feature_size": 48}, {"feature_size": 48}, 64, 768, 32),
    ("swinunetr-3d", {"feature_size": 12, "use_v2": True}, {"feature_size": 12, "use_v2": True}, 32, 192, 32),
    ("swinunetr-2d", {"window_size": 4}, {"window_size": 4}, 64, 384, 32),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_agrees(backbone, net, features, x):
    perturb(backbone, torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(3)))
    assert to_monai(backbone, net) == set(backbone.state_dict())
    with torch.inference_mode():
        taps, expected = backbone.eval()(x), features(x)
    assert len(taps) == len(backbone.stage_specs)
    for tap, own, stage in zip(taps, expected, backbone.stage_specs, strict=False):
        assert torch.equal(tap, own)
        assert tap.std() > 1e-2
        size = tuple(n // s for n, s in zip(x.shape[2:], stage.stride, strict=True))
        assert tuple(tap.shape) == (x.shape[0], stage.channels, *size)


@pytest.mark.parametrize(("name", "ours", "theirs", "size", "channels", "stride"), VARIANTS)
def test_variant_equals_monais(name, ours, theirs, size, channels, stride):
    torch.manual_seed(1)
    backbone = build(name, 2, **ours)
    net, features = judge(name, 2, **theirs)
    dims = int(name[-2])
    assert backbone.stage_specs[-1].channels == channels
    assert backbone.stage_specs[-1].stride == (stride,) * dims
    assert backbone.input_spec.divisible_by == (stride,) * dims
    assert_agrees(backbone, net, features, image((size,) * dims))


def test_resnet_features_of_monai_itself():
    # The layout that MONAI gives MedicalNet's weights at depth 18: shortcut A.
    torch.manual_seed(1)
    net = ResNetFeatures("resnet18", pretrained=False, spatial_dims=3, in_channels=1)
    backbone = build("resnet18-3d", 1, shortcut_type="A")
    assert_agrees(backbone, net, net, image((32, 32, 32), channels=1))


def test_levels_leave_the_deeper_layers_out():
    backbone = build("resnet18-2d", 1, levels=3)
    assert list(backbone.stages) == ["stem", "layer1", "layer2"]
    assert backbone.input_spec.divisible_by == (8, 8)
    net, features = resnet(18, 2, 1)
    assert_agrees(backbone, net, features, image((24, 32), channels=1))


@pytest.mark.parametrize("name", ["resnet18-2d", "resnet50-2d"])
@pytest.mark.parametrize("norm", ["group", "instance"])
def test_norm_option_reaches_every_layer_of_a_resnet(name, norm):
    backbone = build(name, 1, norm=norm)
    kinds = {"group": nn.GroupNorm, "instance": nn.InstanceNorm2d}
    assert not [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert sum(isinstance(m, kinds[norm]) for m in backbone.modules()) >= 20
    assert backbone.input_spec.min_size == ((64, 64) if norm == "instance" else ())
    x = image((64, 64), channels=1).double()
    with torch.inference_mode():
        taps = backbone.double().eval()(x)
        batch = backbone(torch.cat([x, image((64, 64), seed=5, channels=1).double()]))
    for tap, both in zip(taps, batch, strict=True):
        torch.testing.assert_close(tap, both[:1])
        assert tap.std() > 1e-2


@pytest.mark.parametrize("family", ["unet", "dynunet"])
def test_levels_per_axis_keep_coarse_slices(family):
    torch.manual_seed(2)
    name = f"{family}-3d"
    backbone = build(name, 1, levels=("3", "4", "4"), features=8)
    if family == "dynunet":
        strides = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
        options = {"strides": strides, "kernel_size": (FLAT[0], *FLAT[2:], FLAT[3]), "filters": (8, 16, 32, 64)}
        deepest = (4, 8, 8)
    else:
        options = {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "channels": (8, 16, 32, 64)}
        deepest = (2, 4, 4)
    assert backbone.stage_specs[-1].stride == deepest
    assert backbone.input_spec.divisible_by == deepest
    net, features = judge(name, 1, **options)
    assert_agrees(backbone, net, features, image((8, 16, 32), channels=1))


def test_an_axis_of_one_level_is_never_halved():
    backbone = build("dynunet-3d", 1, levels=[1, 4, 4], features=8)
    assert backbone.stage_specs[-1].stride == (1, 8, 8)
    assert backbone.input_spec.min_size == (1, 16, 16)
    taps = backbone.eval()(image((3, 16, 16), channels=1))
    assert [tap.shape[2] for tap in taps] == [3, 3, 3, 3]


def test_gradient_reaches_the_image_through_shortcut_a():
    # In MONAI's version the shortcut's gradient is cut: with the branch silenced, none is left.
    backbone = build("resnet10-2d", 1, shortcut_type="A").eval()
    with torch.no_grad():
        for block in (backbone.stages["layer2"][0], backbone.stages["layer3"][0], backbone.stages["layer4"][0]):
            block.bn2.weight.zero_()
            block.bn2.bias.zero_()
    x = image((64, 64), channels=1).requires_grad_()
    backbone(x)[-1].sum().backward()
    assert x.grad.abs().max() > 0


@torch.inference_mode()
def test_states_are_what_the_next_stage_reads_and_taps_what_heads_read():
    x = image((64, 64), channels=1)
    swin, (monai_swin, _) = build("swinunetr-2d", 1), judge("swinunetr-2d", 1)
    dense, (monai_dense, _) = build("densenet121-2d", 1), judge("densenet121-2d", 1)
    for backbone, net in ((swin, monai_swin), (dense, monai_dense)):
        perturb(backbone, image((64, 64), seed=3, batch=4, channels=1))
        to_monai(backbone, net)
    state, taps = swin.run(x)
    assert torch.equal(state, monai_swin.swinViT(x, normalize=False)[-1])
    assert not torch.allclose(state, taps[-1])
    state, taps = dense.run(x)
    assert torch.equal(state, monai_dense.features(x))
    assert torch.equal(taps[-1], state.relu())
    assert (state < 0).any()


def test_self_supervised_swin_keys_map_onto_every_tensor():
    backbone = build("swinunetr-3d", 1, feature_size=12)
    layout = SwinUNETRLayout(spatial_dims=3, feature_size=12)
    checkpoint = {
        "module." + key.removeprefix("swinViT.").replace("mlp.linear", "mlp.fc")
        for key in judge("swinunetr-3d", 1, feature_size=12)[0].state_dict()
        if key.startswith("swinViT.")
    }
    mapped = set()
    for key in checkpoint:
        for old, new in layout.ssl_key_map():
            if key.startswith(old):
                key = new + key.removeprefix(old)
        mapped.add(key)
    assert mapped == set(backbone.state_dict())
    assert any("mlp.fc1" in key for key in checkpoint)


def test_dropout_acts_in_training_only():
    for name in ("unet-2d", "dynunet-2d", "densenet121-2d"):
        torch.manual_seed(0)
        plain = build(name, 1).eval()
        dropped = build(name, 1, dropout=0.5)
        dropped.load_state_dict(plain.state_dict())
        x = image((32, 32), batch=2, channels=1)
        with torch.no_grad():
            assert torch.equal(dropped.eval()(x)[-1], plain(x)[-1])
            assert not torch.equal(dropped.train()(x)[-1], dropped(x)[-1])

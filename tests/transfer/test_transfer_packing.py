"""Features that are taken apart sample by sample and put together again are those of the batch, bit by bit."""

import importlib

import pytest
import torch
from helpers_backbones import BY_NAME, image, perturb, sizes
from helpers_transfer import TinyHead, batches, model
from torch import nn

from medtl_monai.modules import Batch, Prefix
from medtl_monai.specs import FROZEN, Rule
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.packing import Layout, Packing


def formats(dims):
    return [torch.contiguous_format, torch.channels_last if dims == 2 else torch.channels_last_3d]


def freeze(net, boundary):
    names = [stage.name for stage in net.stages]
    net.set_rules({name: FROZEN if n < boundary else Rule() for n, name in enumerate(names)})
    return net.train()


def small(name, channels_last):
    module, _, attribute = BY_NAME[name].build.partition(":")
    torch.manual_seed(0)
    backbone = getattr(importlib.import_module(module), attribute)(1)
    dims = BY_NAME[name].input.spatial_dims
    x = image(sizes(name)[0], batch=3, channels=1)
    perturb(backbone, x)
    if channels_last:
        for parameter in backbone.parameters():
            if parameter.dim() == dims + 2:
                parameter.data = parameter.data.contiguous(memory_format=formats(dims)[1])
        x = x.contiguous(memory_format=formats(dims)[1])
    return TransferModel(backbone, TinyHead(width=BY_NAME[name].stages[-1].channels)), x


def through(net, batch, packing, order=(2, 0, 1)):
    """Store a batch and put it together again, in another order than it was made in."""
    layouts = {}
    samples = packing.split(net.prefix(batch, packing.start, packing.taps), layouts)
    order = list(order)
    prefix = packing.join([samples[n] for n in order], layouts)
    return Batch(image=batch.image[order].to("meta"), spatial_size=batch.spatial_size, prefix=prefix), order


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", BY_NAME)
def test_every_backbone_goes_on_from_every_boundary_bitwise(name, channels_last):
    if name.split("-")[0] in ("resnet34", "resnet50"):
        pytest.skip("the same stages as resnet18, only more of them")
    net, x = small(name, channels_last)
    stages = len(net.backbone.stages)
    batch = Batch(image=x, spatial_size=tuple(x.shape[2:]))
    for boundary in range(1, stages + 1):
        freeze(net, boundary).eval()
        packing = Packing.plan(boundary, stages=stages, needed=frozenset(range(stages)), shared=False)
        # EfficientNet's last bits depend on a sample's place in the batch, with and without a cache.
        places = (0, 1, 2) if name.startswith("efficientnet") else (2, 0, 1)
        stored, order = through(net, batch, packing, places)
        with torch.no_grad():
            online = net.features(Batch(image=x[order], spatial_size=batch.spatial_size))
            cached = net.features(stored)
        assert all(torch.equal(a, b) for a, b in zip(online, cached, strict=True)), boundary
        assert all(a.std() > 0 and not torch.equal(a[0], a[1]) for a in online), "the features are constant"


def test_gradients_above_the_boundary_are_those_of_online_training():
    net, batch = model(drop=True, neck=True), batches(size=3)[0]
    freeze(net, 2)
    stored, order = through(net, batch, Packing.plan(2, stages=4, needed=frozenset({3}), shared=True))
    found = []
    for each in (Batch(image=batch.image[order], spatial_size=batch.spatial_size), stored):
        net.zero_grad()
        torch.manual_seed(0)
        net(each).square().sum().backward()
        found.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    online, cached = found
    assert set(online) == set(cached)
    assert all(torch.equal(online[n], cached[n]) for n in online)
    assert any("stages.mid" in n and g.abs().sum() > 0 for n, g in online.items())
    assert not any("stages.low" in n for n in online)


def test_more_frozen_stages_run_again_from_a_shallower_start():
    net, batch = model(), batches(size=3)[0]
    freeze(net, 4)
    stored, order = through(net, batch, Packing.plan(1, stages=4, needed=frozenset({3}), shared=True))
    features = net.features(stored)
    assert torch.equal(features[-1], net.features(batch)[-1][order])
    assert not features[-1].requires_grad


def test_a_stage_that_trains_is_never_skipped():
    net, batch = model(), batches(size=3)[0]
    freeze(net, 2)
    with pytest.raises(RuntimeError, match="2 are frozen"):
        net.prefix(batch, 3)
    stored, _ = through(net, batch, Packing.plan(2, stages=4, needed=frozenset({3}), shared=True))
    freeze(net, 1)
    with pytest.raises(RuntimeError, match="of which 1 are frozen"):
        net(stored)


def test_buffers_of_frozen_stages_stay_while_features_are_made():
    net, batch = model("batch"), batches(size=3)[0]
    freeze(net, 4)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    net.prefix(batch, 4)
    assert any("running_mean" in n for n in before)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    freeze(net, 0)
    net(batch)
    assert not all(torch.equal(before[n], t) for n, t in net.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 1), (1, 4, 3, 2, 2), (2, 6)])
def test_layouts_come_back(shape):
    x = torch.randn(shape)
    variants = [x, x.transpose(1, -1)]
    if x.ndim == 4:
        variants.append(x.contiguous(memory_format=torch.channels_last))
    for each in variants:
        layout = Layout.of(each)
        back = layout.join(layout.split(each))
        assert torch.equal(back, each)
        sizes_above_one = [n for n, s in enumerate(shape) if each.shape[n] > 1]
        assert [back.stride(n) for n in sizes_above_one] == [each.stride(n) for n in sizes_above_one]


def test_a_tensor_with_gaps_is_stored_all_the_same():
    x = torch.randn(2, 3, 8)[:, :, ::2]
    layout = Layout.of(x)
    assert torch.equal(layout.join(layout.split(x)), x)


def test_samples_do_not_keep_the_batch_alive():
    x = torch.randn(4, 1000)
    sample = Layout.of(x).split(x)[0]
    assert sample.untyped_storage().nbytes() == 4000


def test_bf16_halves_what_is_stored_and_comes_back_as_float32():
    packing = Packing.plan(1, stages=2, needed=frozenset({1}), shared=True, bf16=True)
    layouts = {}
    state = torch.randn(2, 5)
    samples = packing.split(Prefix(start=1, state=state, taps=(state,)), layouts)
    assert samples[0]["state"].dtype == torch.bfloat16
    back = packing.join(samples, layouts).state
    assert back.dtype == torch.float32
    assert 0 < (back - state).abs().max() < 0.05


def test_a_state_that_is_its_tap_is_kept_once():
    needed = frozenset({0, 1})
    assert Packing.plan(2, stages=3, needed=needed, shared=True).names == ("tap0", "tap1")
    assert Packing.plan(2, stages=3, needed=needed, shared=False).names == ("tap0", "tap1", "state")
    assert Packing.plan(3, stages=3, needed=frozenset({2}), shared=False).names == ("tap2",)
    shared = Packing.plan(2, stages=3, needed=needed, shared=True)
    taps = (torch.ones(1, 2), torch.zeros(1, 2))
    prefix = shared.join(shared.split(Prefix(start=2, state=taps[1], taps=taps), layouts := {}), layouts)
    assert torch.equal(prefix.state, taps[1])


def test_a_batch_moves_with_its_prefix_and_without_its_voxels():
    prefix = Prefix(start=1, state=nn.Parameter(torch.ones(2, 3)).detach(), taps=(None,))
    batch = Batch(image=torch.empty(2, 1, 4, device="meta"), spatial_size=(4,), prefix=prefix)
    moved = batch.to("cpu")
    assert moved.device == torch.device("cpu")
    assert moved.image.is_meta
    assert moved.image.shape == (2, 1, 4)
    assert torch.equal(moved.prefix.state, prefix.state)
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(moved.image.sum())

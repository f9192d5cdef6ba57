"""Low-rank additions: zero at first, exact when merged, and only where they can be both."""

import copy

import pytest
import torch
from torch import nn

from medtl_lora.layers import LoraLayer, adapt

LAYERS = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "linear-tokens": (nn.Linear(6, 5, bias=False), (2, 7, 6)),
    "conv1d": (nn.Conv1d(6, 5, 3, padding=1), (2, 6, 9)),
    "conv2d": (nn.Conv2d(6, 5, 3, stride=2, padding=1), (2, 6, 9, 9)),
    "conv2d-dilated": (nn.Conv2d(6, 5, 3, padding=2, dilation=2), (2, 6, 9, 9)),
    "conv2d-reflect": (nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect", bias=False), (2, 6, 9, 9)),
    "conv3d": (nn.Conv3d(6, 5, 3, padding=1), (2, 6, 7, 7, 7)),
    "conv3d-one": (nn.Conv3d(6, 5, 1, stride=2), (2, 6, 7, 7, 7)),
    "conv3d-flat": (nn.Conv3d(6, 5, (1, 1, 3)), (2, 6, 7, 7, 7)),
    "conv3d-same": (nn.Conv3d(6, 5, 3, padding="same", dilation=2), (2, 6, 7, 7, 7)),
}
layers = pytest.mark.parametrize("kind", LAYERS)


def lora(kind, *, rank=3, alpha=6.0, dropout=0.0, filled=True):
    """Return an adapted copy of a layer, its addition filled with numbers, and an input."""
    torch.manual_seed(0)
    base, shape = LAYERS[kind]
    layer = LoraLayer(copy.deepcopy(base), rank=rank, alpha=alpha, dropout=dropout)
    if filled:
        nn.init.normal_(layer.up.weight, std=0.3)
    return layer, torch.randn(shape)


@layers
def test_it_starts_as_the_layer(kind):
    layer, x = lora(kind, filled=False)
    assert torch.equal(layer(x), LAYERS[kind][0](x))
    assert layer.down.weight.std() > 0


@layers
def test_merged_it_is_the_layer_with_another_weight(kind):
    layer, x = lora(kind)
    plain = copy.deepcopy(LAYERS[kind][0])
    before = plain(x)
    assert set(layer.merged()) == set(plain.state_dict())
    plain.load_state_dict(layer.merged())
    assert torch.allclose(plain(x), layer(x), atol=1e-5, rtol=0)
    assert (plain(x) - before).abs().max() > 0.1, "the addition does something"
    assert plain.weight.dtype == torch.float32


@layers
def test_the_gradient_reaches_both_factors(kind):
    layer, x = lora(kind)
    layer.base.requires_grad_(False)
    layer(x).square().mean().backward()
    assert layer.up.weight.grad.abs().max() > 0
    assert layer.down.weight.grad.abs().max() > 0
    assert layer.base.weight.grad is None


@layers
def test_under_bf16_it_stays_near_and_merges_in_float32(kind):
    layer, x = lora(kind)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(x)
        merged = layer.merged()["weight"]
    assert rough.dtype == torch.bfloat16
    assert not torch.equal(rough.float(), exact)
    assert torch.allclose(rough.float(), exact, atol=0.1 * float(exact.detach().abs().max()))
    assert merged.dtype == torch.float32
    assert torch.equal(merged, layer.merged()["weight"])


def test_rank_is_the_rank():
    layer, _ = lora("linear", rank=2)
    difference = layer.merged()["weight"] - layer.base.weight
    assert torch.linalg.matrix_rank(difference, atol=1e-4) == 2


def test_alpha_over_rank_scales_the_addition():
    one, x = lora("conv3d", rank=3, alpha=3.0)
    four, _ = lora("conv3d", rank=3, alpha=12.0)
    base = one.base(x)
    assert torch.allclose(4 * (one(x) - base), four(x) - base, atol=1e-4)


def test_dropout_acts_on_the_addition_in_training_only():
    layer, x = lora("conv2d", dropout=0.5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    plain = copy.deepcopy(LAYERS["conv2d"][0])
    plain.load_state_dict(layer.merged())
    assert torch.allclose(plain(x), layer(x), atol=1e-5, rtol=0)


class Subclass(nn.Linear):
    pass


def parametrised():
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))


OPTIONS = {"rank": 2, "alpha": 2.0, "dropout": 0.0}
UNFIT = {
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2), "2 groups"),
    "depthwise": (lambda: nn.Conv3d(4, 4, 3, groups=4), "4 groups"),
    "transposed": (lambda: nn.ConvTranspose3d(4, 4, 2), "not a plain"),
    "norm": (lambda: nn.BatchNorm3d(4), "not a plain"),
    "subclass": (lambda: Subclass(4, 4), "not a plain"),
    "parametrised": (parametrised, "not a plain|computed"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_other_layers_are_left_alone_and_refused_by_name(kind):
    make, why = UNFIT[kind]
    assert adapt("a.b", make(), targets=(), **OPTIONS) is None
    assert adapt("a.b", make(), targets=("a.*",), **OPTIONS) is None
    with pytest.raises(Exception, match=why) as caught:
        adapt("a.b", make(), targets=("a.b",), **OPTIONS)
    assert caught.value.mend


def test_targets_choose_by_name():
    assert adapt("0.attn.qkv", nn.Linear(4, 4), targets=("qkv", "proj"), **OPTIONS)
    assert adapt("qkv", nn.Linear(4, 4), targets=("qkv",), **OPTIONS)
    assert adapt("0.attn.qkv", nn.Linear(4, 4), targets=("attn.q*",), **OPTIONS)
    assert adapt("0.attn.qkv", nn.Linear(4, 4), targets=("0.attn.qkv",), **OPTIONS)
    assert adapt("0.mlp.fc1", nn.Linear(4, 4), targets=("qkv", "proj"), **OPTIONS) is None
    assert adapt("0.attn.my_qkv", nn.Linear(4, 4), targets=("qkv",), **OPTIONS) is None


def test_attention_that_reads_weights_itself_is_left_alone():
    attention = nn.MultiheadAttention(8, 2)
    assert adapt("out_proj", attention.out_proj, targets=(), **OPTIONS) is None


@pytest.mark.parametrize("kind", ["linear", "linear-tokens", "conv1d", "conv2d", "conv3d"])
def test_it_agrees_with_peft_where_that_can_merge(kind):
    """peft 0.21 neither merges 1×1×1 kernels nor follows dilation and padding mode: see docs/decisions/0004."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'medtl-lora[peft]'")
    from peft.tuners.lora import layer as theirs

    ours, x = lora(kind)
    base = copy.deepcopy(LAYERS[kind][0])
    make = getattr(theirs, type(base).__name__)
    other = make(base, "default", peft.LoraConfig(r=3, lora_alpha=6), r=3, lora_alpha=6)
    other.lora_A["default"].weight.data.copy_(ours.down.weight)
    other.lora_B["default"].weight.data.copy_(ours.up.weight)
    assert torch.allclose(other(x), ours(x), atol=1e-5)
    other.merge()
    assert torch.allclose(other.base_layer.weight, ours.merged()["weight"], atol=1e-6)
    assert not torch.equal(other.base_layer.weight, ours.base.weight)

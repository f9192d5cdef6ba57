import copy
import pickle

import pytest
import torch
from helpers_transfer import batches, equal, model, snapshot, start
from monai.networks.utils import eval_mode
from torch import nn

from medtl_monai.errors import PolicyError
from medtl_monai.specs import FROZEN, Rule


def test_forward_is_head_of_backbone():
    net = model("group", neck=True).eval()
    batch = batches()[0]
    expected = net.head(net.backbone(batch.image), batch)
    assert torch.equal(net(batch), expected)
    assert expected.std() > 0


@pytest.mark.parametrize("frozen", range(5))
def test_features_do_not_depend_on_the_frozen_prefix(frozen):
    net = model("group").eval()
    batch = batches()[0]
    expected = net.backbone(batch.image)
    names = [s.name for s in net.stages]
    net.set_rules({name: FROZEN if i < frozen else Rule() for i, name in enumerate(names)})
    assert net.frozen_prefix == frozen
    taps = net.features(batch)
    assert len(taps) == 4
    assert all(torch.equal(a, b) for a, b in zip(taps, expected, strict=True))
    assert [tap.requires_grad for tap in taps] == [i >= frozen for i in range(4)]


def test_only_the_leading_stages_are_a_prefix():
    net = model()
    start(net, "surgical").apply(0)
    assert net.frozen_prefix == 1
    assert net.rules["top"].frozen


def test_rules_for_other_stages_are_refused():
    with pytest.raises(PolicyError, match="rules are for stages"):
        model().set_rules({"low": Rule()})


def test_rules_are_idempotent():
    net = model("batch", drop=True)
    freezer = start(net, "bitfit")
    freezer.apply(0)
    flags = [p.requires_grad for p in net.parameters()], [m.training for m in net.modules()]
    assert freezer.apply(0) is False
    assert flags == ([p.requires_grad for p in net.parameters()], [m.training for m in net.modules()])
    assert not all(flags[0])
    assert any(flags[0])


def test_rules_in_eval_mode_wake_nothing():
    net = model("batch", drop=True).eval()
    start(net, "full").apply(0)
    assert not any(m.training for m in net.modules())


def test_train_wakes_what_is_thawed():
    net = model("batch", drop=True).train()
    freezer = start(net, "lp-ft")
    freezer.apply(0)
    assert not any(m.training for m in net.backbone.stages.modules() if m is not net.backbone.stages)
    freezer.apply(2)
    assert all(m.training for m in net.modules())


def test_monais_eval_mode_and_back():
    net = model("batch").train()
    start(net, "linear-probe").apply(0)
    with eval_mode(net):
        assert not any(m.training for m in net.modules())
    assert net.head.training
    assert not net.backbone.stages["low"].training


def test_predict_is_in_eval_mode_whatever_the_mode():
    net = model("batch", drop=True)
    batch = batches()[0]
    net.eval()
    expected = net.predict(batch).probabilities
    net.train()
    before = snapshot(net)
    prediction = net.predict(batch)
    assert torch.equal(prediction.probabilities, expected)
    assert not prediction.probabilities.requires_grad
    assert equal(before, snapshot(net))
    assert net.training
    assert net.backbone.stages["low"].training
    assert expected.std() > 0


def test_bf16_computes_low_and_answers_in_float32():
    net = model("group").eval()
    batch = batches()[0]
    expected = net(batch)
    net.precision = "bf16"
    output = net(batch)
    assert net.features(batch)[0].dtype == torch.bfloat16
    assert output.dtype == torch.float32
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert torch.allclose(output, expected, atol=0.05)
    assert not torch.equal(output, expected)
    net.head.loss(output, batch).backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_bf16_trains_above_the_frozen_prefix(frozen):
    # autocast caches casts of weights: one made without autograd must not be found by the part that trains
    net = model("group")
    net.precision = "bf16"
    names = [s.name for s in net.stages]
    net.set_rules({name: FROZEN if i < frozen else Rule() for i, name in enumerate(names)})
    batch = batches()[0]
    net.head.loss(net(batch), batch).backward()
    grads = [stage.conv.weight.grad is not None for stage in net.backbone.stages.values()]
    assert grads == [i >= frozen for i in range(4)]


def test_an_outer_autocast_does_not_change_fp32():
    net = model("group").eval()
    batch = batches()[0]
    expected = net(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(batch), expected)


def test_copies_obey_their_own_rules():
    net = model("batch").train()
    start(net, "linear-probe").apply(0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.train()
        assert not other.backbone.stages["low"].training
        other.set_rules(dict.fromkeys(other.rules, Rule()))
        assert other.backbone.stages["low"].training
        assert all(p.requires_grad for p in other.parameters())
    assert not any(p.requires_grad for p in net.backbone.parameters())
    assert not net.backbone.stages["low"].training


def test_wrapped_and_recursed_train_calls_are_obeyed():
    net = model("batch")
    start(net, "linear-probe").apply(0)
    nn.Sequential(net).train()
    assert net.training
    assert not net.backbone.stages["low"].norm.training

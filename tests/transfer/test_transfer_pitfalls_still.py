"""Frozen means still: the pitfalls 1–5, 18 and 23, a check each, and the proof that it goes red without its guard.

Parameters and buffers bitwise unchanged, an output that depends neither on batch mates nor on train or eval mode,
through every ``.train()``. Beside every equality stands an assertion that something did train.
"""

import copy

import pytest
import torch
from helpers_transfer import (
    BUILTINS,
    DROPPING,
    NETS,
    POLICIES,
    assert_still,
    batches,
    build,
    fit_monai,
    model,
    snapshot,
    start,
    still,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from medtl_monai.builtin import freezing
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import Rule
from medtl_monai.transfer import stages
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.stages import ModelStage

FREEZING = ("linear-probe", "last-n", "gradual", "lp-ft", "surgical", "norm-only", "bitfit", "refreeze", "narrow")

nets = pytest.mark.parametrize("net", NETS)
policies = pytest.mark.parametrize("policy", FREEZING)
builtins = pytest.mark.parametrize("net", BUILTINS)


# 1: running statistics


def check_01(net_name, policy, epochs=4):
    net, data = build(net_name)
    freezer = start(net, policy, epochs)
    before = {}

    def remember(epoch):
        before.clear()
        before.update(snapshot(net))

    def compare(epoch):
        assert_still(before, snapshot(net), *still(net, freezer.table.row(epoch)))

    fit_monai(net, freezer, data[: epochs - 1], on_epoch=remember, on_epoch_end=compare)


@nets
@policies
def test_pitfall_01_frozen_tensors_are_bitwise_still(net, policy):
    check_01(net, policy)


@builtins
@pytest.mark.parametrize("policy", POLICIES)
def test_pitfall_01_on_every_builtin_backbone(net, policy):
    check_01(net, policy, epochs=2)


def test_pitfall_01_goes_red(monkeypatch):
    monkeypatch.setattr(TransferModel, "_hold_still", lambda self: None)
    with pytest.raises(AssertionError, match="running_mean"):
        check_01("batch-2d", "linear-probe")


# 2: batch mates and modes


def frozen_outputs(net, image):
    """Return what each frozen backbone stage makes of the image, one from the state of the one below in eval mode."""
    inputs = states(net, image)
    frozen = [(k, name) for k, name in enumerate(net.backbone.stages) if net.rules[name].frozen]
    with torch.no_grad():
        return {name: net.backbone.run(inputs[k], k, k + 1)[0] for k, name in frozen}


def states(net, image):
    """Return the input of every stage, computed by copies in eval mode."""
    still_copy = copy.deepcopy(net.backbone).eval()
    found = [image]
    with torch.no_grad():
        for k in range(len(still_copy.stages) - 1):
            found.append(still_copy.run(found[-1], k, k + 1)[0])
    return found


def check_02(net_name, trains=0, policy="last-n"):
    net, data = build(net_name)
    freezer = start(net, policy)
    x, a, b = (batch.image[:1] for batch in data)
    freezer.apply(0)
    net.eval()
    expected = frozen_outputs(net, torch.cat([x, a]))
    net.train()
    for _ in range(trains):
        net.train()
    assert net.training
    assert expected, "nothing is frozen"
    for image, what in ((torch.cat([x, a]), "train or eval"), (torch.cat([x, b]), "batch mates")):
        for name, output in frozen_outputs(net, image).items():
            assert torch.equal(output[0], expected[name][0]), f"{name} depends on {what}"
    assert all(output.std() > 1e-3 for output in expected.values()), "the features are constant"


@nets
def test_pitfall_02_output_depends_on_nothing_but_the_image(net):
    check_02(net)


@builtins
@pytest.mark.parametrize("policy", ["linear-probe", "last-n", "surgical", "bitfit-top"])
def test_pitfall_02_and_03_on_every_builtin_backbone(net, policy):
    check_02(net, trains=3, policy=BiasesOfTheTop() if policy == "bitfit-top" else policy)


def test_pitfall_02_goes_red(monkeypatch):
    def without_tracking(self, training, *, norm="live"):
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = training

    monkeypatch.setattr(ModelStage, "set_mode", without_tracking)
    with pytest.raises(AssertionError, match="depends on"):
        check_02("batch-2d")


# 3: the next .train()


@nets
def test_pitfall_03_survives_train_calls(net):
    check_02(net, trains=3)


def test_pitfall_03_goes_red(monkeypatch):
    original = TransferModel.set_rules

    def once(self, rules):
        original(self, rules)
        self._hold_still()

    monkeypatch.setattr(TransferModel, "set_rules", once)
    monkeypatch.setattr(TransferModel, "train", nn.Module.train)
    with pytest.raises(AssertionError, match="depends on"):
        check_02("batch-2d", trains=3)


class BiasesOfTheTop(FreezePolicy):
    """Biases of the last stage train below the head; everything under it is frozen."""

    def __call__(self, at, stages):
        body = [s for s in stages if s.role == "backbone"]
        return {s.name: Rule() for s in stages if s.role == "head"} | {body[-1].name: Rule(params="bias", norm="eval")}


# 4: parameters of norms in frozen stages


def check_04(net_name, policy):
    net, _ = build(net_name)
    freezer = start(net, policy)
    for epoch in range(4):
        freezer.apply(epoch)
        for stage in net.stages:
            chosen = {p.name for p in stage.select(freezer.row[stage.name].params)}
            for entry in stage.parameters:
                assert entry.parameter.requires_grad == (entry.name in chosen), entry.name
    assert any(p.requires_grad for p in net.parameters())


@nets
@policies
def test_pitfall_04_only_what_the_row_says_requires_grad(net, policy):
    check_04(net, policy)


@builtins
@pytest.mark.parametrize("policy", POLICIES)
def test_pitfall_04_on_every_builtin_backbone(net, policy):
    check_04(net, policy)


def test_pitfall_04_goes_red(monkeypatch):
    def norms_too(self, stage, rule):
        for entry in stage.parameters:
            entry.parameter.requires_grad_(entry.norm or entry.chosen_by(rule.params))

    monkeypatch.setattr(TransferModel, "_set_trainable", norms_too)
    with pytest.raises(AssertionError, match="norm"):
        check_04("batch-2d", "linear-probe")


# 5: dropout and stochastic depth


def check_05(net_name):
    net, data = build(net_name)
    freezer = start(net, freezing.last_n(n=1), epochs=1)
    outputs = []

    def probe(module, args, output):
        outputs.append((args[0].detach(), output.detach()))

    *_, below, top = net.backbone.stages.values()
    hook = below.register_forward_hook(probe)
    fit_monai(net, freezer, [data[0]] * 3, set_to_none=True)
    hook.remove()
    assert net.training
    assert len(outputs) == 3
    for x, y in outputs[1:]:
        assert torch.equal(x, outputs[0][0]), "the stages below are not still"
        assert torch.equal(y, outputs[0][1]), "the last frozen stage is not still"
    x = outputs[0][1]
    assert not torch.equal(top(x), top(x)), "no randomness left to be switched off"


@pytest.mark.parametrize("net", ["instance-drop", "group-drop", "batch-drop-neck", *DROPPING])
def test_pitfall_05_frozen_stages_drop_nothing(net):
    check_05(net)


def test_pitfall_05_goes_red(monkeypatch):
    def norms_only(self, training, *, norm="live"):
        for module in self.modules():
            if isinstance(module, _NormBase):
                module.train(training)

    monkeypatch.setattr(ModelStage, "set_mode", norms_only)
    with pytest.raises(AssertionError, match="not still"):
        check_05("group-drop")


# 18: no_grad for the prefix only


def check_18(net_name):
    net, data = build(net_name)
    start(net, "surgical").apply(0)
    net.train()
    net.head.loss(net(data[0]), data[0]).backward()
    _, second, *_ = net.backbone.stages
    reached = {
        stage.name: sum(float(p.parameter.grad.abs().sum()) for p in stage.parameters if p.parameter.grad is not None)
        for stage in net.stages
    }
    assert reached[second] > 0, "the stage below frozen ones has no gradient"
    assert [name for name, total in reached.items() if total] == [second, "head"]


@pytest.mark.parametrize("net", ["batch-2d", *BUILTINS])
def test_pitfall_18_gradients_reach_below_frozen_stages(net):
    check_18(net)


def test_pitfall_18_goes_red(monkeypatch):
    monkeypatch.setattr(TransferModel, "frozen_prefix", property(lambda self: len(self.backbone.stages)))
    with pytest.raises(AssertionError, match="no gradient"):
        check_18("batch-2d")


# 23: norms of every type


class NormsInEval(FreezePolicy):
    def __call__(self, at, stages):
        return {s.name: Rule(norm="eval") for s in stages}


def check_23(norm):
    net = model(norm)
    freezer = start(net, NormsInEval(), epochs=1)
    data, before = batches(), snapshot(net)
    fit_monai(net, freezer, data)
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    after = snapshot(net)
    assert all(torch.equal(before[name], after[name]) for name in statistics), "statistics moved under norm='eval'"
    assert not torch.equal(before["backbone.stages.low.conv.weight"], after["backbone.stages.low.conv.weight"])
    return statistics


TRACKED = ("batch", "batch-plain", "instance", "instance-plain")


@pytest.mark.parametrize("norm", [*TRACKED, "group", "group-plain", "layer", "own"])
def test_pitfall_23_every_norm_obeys(norm):
    assert bool(check_23(norm)) == (norm in TRACKED)
    net = model(norm)
    freezer = start(net, "linear-probe", epochs=1)
    before = snapshot(net)
    fit_monai(net, freezer, batches())
    assert_still(before, snapshot(net), *still(net, freezer.row))


def test_pitfall_23_synchronised_norms_are_still():
    net = model("sync")  # in training it needs a GPU; frozen it does not
    freezer = start(net, "linear-probe", epochs=1)
    before = snapshot(net)
    fit_monai(net, freezer, batches())
    assert_still(before, snapshot(net), *still(net, freezer.row))


@builtins
def test_pitfall_23_on_every_builtin_backbone(net):
    network, data = build(net)
    freezer = start(network, NormsInEval(), epochs=1)
    before = snapshot(network)
    fit_monai(network, freezer, data[:2])
    fixed, moving = still(network, freezer.row)
    assert any("running_mean" in name for name in fixed) == any(stage.keeps_statistics for stage in network.stages)
    assert_still(before, snapshot(network), fixed, moving)


def test_pitfall_23_goes_red(monkeypatch):
    monkeypatch.setattr(stages, "is_norm", lambda module: isinstance(module, _BatchNorm))
    with pytest.raises(AssertionError, match="statistics moved"):
        check_23("instance")

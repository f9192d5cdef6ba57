"""Freezing and the optimizer: pitfalls 6–13 and 28, a check each, and the proof that it goes red without its guard."""

import copy

import pytest
import torch
from helpers_transfer import (
    BUILTINS,
    POLICIES,
    assert_still,
    batches,
    build,
    checkpoint,
    equal,
    fit,
    make_optimizer,
    model,
    snapshot,
    start,
    still,
)
from torch import nn

from medtl_monai.builtin import freezing
from medtl_monai.transfer import freeze
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.lr import schedule_factor
from medtl_monai.transfer.model import TransferModel

builtins = pytest.mark.parametrize("net", BUILTINS)
UNFREEZING = ("gradual", "lp-ft", "lp-ft-llrd", "refreeze", "narrow")
"""Policies under which what trains changes along the way."""

policies = pytest.mark.parametrize("policy", POLICIES)

# 6 and 7: resume, and the number of groups


def taken_up(saved, net_name, policy, kind, *, epochs, first):
    """Go on from a checkpoint as another process does: other first weights, and a table planned anew."""
    other, data = build(net_name, seed=5)
    other.load_state_dict(saved[0])
    freezer = start(other, policy, epochs, warmup=0.3)
    freezer.load_state_dict(saved[2])
    freezer.load_anchor_state(saved[3])
    optimizer = make_optimizer(freezer, kind)
    optimizer.load_state_dict(saved[1])
    fit(other, freezer, data[: epochs // 2], optimizer, first=first)
    return snapshot(other)


def check_06(net_name, policy, kind="adamw", epochs=4):
    net, data = build(net_name)
    begin = snapshot(net)
    freezer = start(net, policy, epochs, warmup=0.3)
    optimizer = make_optimizer(freezer, kind)
    saved = []
    for epoch in range(epochs):
        saved.append(checkpoint(net, freezer, optimizer))
        fit(net, freezer, data[: epochs // 2], optimizer, first=epoch, last=epoch + 1)
    whole = snapshot(net)
    assert not equal(begin, whole), "nothing trained"
    for k in range(1 if epochs == 2 else 0, epochs):
        again = taken_up(saved[k], net_name, policy, kind, epochs=epochs, first=k)
        assert equal(again, whole), f"resumed at epoch {k}, it ends elsewhere"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("net", "kind"), [("batch-drop-neck", "adamw"), ("group-drop", "sgd")])
def test_pitfall_06_resume_at_every_epoch_is_bitwise_equal(net, policy, kind):
    check_06(net, policy, kind)


@builtins
@policies
def test_pitfall_06_on_every_builtin_backbone(net, policy):
    check_06(net, policy, epochs=2)


def test_pitfall_06_goes_red(monkeypatch):
    original = Freezer.apply

    def at_switches(self, epoch, plateaus=0):
        phase = next(p for p in self.table.phases() if p.first <= epoch <= p.last)
        if epoch in (0, phase.first):
            return original(self, epoch, plateaus)
        self._remember(epoch, plateaus)
        self.epoch = epoch
        self._windows = self._windows or dict.fromkeys(self._stages, (0, 0))
        return False

    monkeypatch.setattr(Freezer, "apply", at_switches)
    with pytest.raises(AssertionError, match="ends elsewhere"):
        check_06("batch-2d", "lp-ft")


def check_07(policy, net_name="batch-drop-neck", epochs=4):
    net, data = build(net_name)
    freezer = start(net, policy, epochs)
    freezer.apply(0)
    first = make_optimizer(freezer)
    layout = [(g["name"], len(g["params"])) for g in first.param_groups]
    for epoch in range(epochs):
        fit(net, freezer, data[: epochs - 1], first, first=epoch, last=epoch + 1)
        again = make_optimizer(freezer)
        assert [(g["name"], len(g["params"])) for g in again.param_groups] == layout, "the groups changed"
        again.load_state_dict(copy.deepcopy(first.state_dict()))
    owned = [id(p) for g in first.param_groups for p in g["params"]]
    assert len(owned) == len(set(owned))
    assert layout


@policies
def test_pitfall_07_groups_are_constant(policy):
    check_07(policy)


@builtins
@pytest.mark.parametrize("policy", UNFREEZING)
def test_pitfall_07_on_every_builtin_backbone(net, policy):
    check_07(policy, net, epochs=2)


def test_pitfall_07_goes_red(monkeypatch):
    original = Freezer.parameter_groups

    def current(self, weight_decay):
        groups = original(self, weight_decay)
        now = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
        return [g for g in now if g["params"]]

    monkeypatch.setattr(Freezer, "parameter_groups", current)
    with pytest.raises(AssertionError, match="groups changed"):
        check_07("gradual")


# 8: equal values


def check_08():
    net = model("none")
    with torch.no_grad():
        for stage in net.backbone.stages.values():
            stage.conv.bias.zero_()
    data = batches()
    freezer = start(net, "full")
    fit(net, freezer, data, make_optimizer(freezer), last=1)
    biases = [stage.conv.bias for stage in net.backbone.stages.values()]
    assert len({tuple(bias.shape) for bias in biases}) == 1
    assert all(bias.abs().sum() > 0 for bias in biases), "a bias was left out"


def test_pitfall_08_equal_biases_all_train():
    check_08()


@builtins
def test_pitfall_08_on_every_builtin_backbone(net):
    network, _ = build(net)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    optimizer = make_optimizer(start(network, "full"))
    owned = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())
    assert len({tuple(p.shape) for p in network.parameters()}) < len(owned), "no two shapes are alike"


def test_pitfall_08_goes_red(monkeypatch):
    def by_value(self, weight_decay):
        seen = []
        for parameter in self.model.parameters():
            if not any(parameter.shape == p.shape and torch.equal(parameter, p) for p in seen):
                seen.append(parameter)
        return [{"params": seen, "name": "all", "stage": "head", "weight_decay": 0.0, "decay": 0.0}]

    monkeypatch.setattr(Freezer, "parameter_groups", by_value)
    with pytest.raises(AssertionError, match="left out"):
        check_08()


# 9: learning rates


def check_09(policy, kind, net_name="batch-2d", epochs=4):
    net, _ = build(net_name)
    freezer = start(net, policy, epochs, warmup=0.4)
    compare_rates(freezer, make_optimizer(freezer), kind)


def compare_rates(freezer, optimizer, kind, n=3, lr=0.01, warmup=0.4):
    epochs, seen = freezer.table.epochs, set()

    def compare(epoch, i):
        step = epoch * n + i
        for group in optimizer.param_groups:
            rule = freezer.table.row(epoch)[group["stage"]]
            schedule_now = schedule_factor(kind, step, epochs * n)
            ramp = expected_ramp(freezer.table, group["stage"], epoch, i, n, warmup)
            expected = 0.0 if rule.frozen else lr * schedule_now * rule.lr * ramp
            assert group["lr"] == pytest.approx(expected, rel=1e-12), (group["name"], step)
            seen.add(group["lr"])

    for epoch in range(epochs):
        freezer.apply(epoch)
        for i in range(n):
            factor = schedule_factor(kind, epoch * n + i, epochs * n)
            freezer.set_lr(optimizer, lr, factor, step=i, steps_per_epoch=n)
            compare(epoch, i)
    assert any(rate > 0 for rate in seen)


def expected_ramp(plan, stage, epoch, step, n, warmup):
    """The ramp from the phases of the table, independently of the freezer's own search."""
    order = {"none": 0, "norm": 1, "bias": 1, "all": 2}
    phases = plan.phases()
    began = 0
    for j, phase in enumerate(phases[1:], start=1):
        now, before = phase.trains.get(stage, "none"), phases[j - 1].trains.get(stage, "none")
        if phase.first <= epoch and order[now] > order[before]:
            began = j
    if began == 0:
        return 1.0
    phase = phases[began]
    length = round(warmup * (phase.last - phase.first + 1) * n)
    return min(1.0, ((epoch - phase.first) * n + step + 1) / length) if length else 1.0


@pytest.mark.parametrize("kind", ["cosine", "constant", "poly"])
@policies
def test_pitfall_09_rates_follow_the_closed_form(policy, kind):
    check_09(policy, kind)


@builtins
def test_pitfall_09_on_every_builtin_backbone(net):
    network, _ = build(net)
    for policy in POLICIES:
        freezer = start(network, policy, epochs=2, warmup=0.4)
        for kind in ("cosine", "constant", "poly"):
            compare_rates(freezer, make_optimizer(freezer), kind)


def test_pitfall_09_goes_red(monkeypatch):
    def rescale(self, optimizer, base_lr, schedule, *, step=0, steps_per_epoch=1):
        for group in optimizer.param_groups:
            group["lr"] *= schedule

    monkeypatch.setattr(Freezer, "set_lr", rescale)
    with pytest.raises(AssertionError):
        check_09("lp-ft", "cosine")


# 10: frozen when the optimizer was built


def check_10(policy, net_name="batch-2d", epochs=6):
    net, data = build(net_name)
    freezer = start(net, policy, epochs)
    freezer.apply(0)
    optimizer = make_optimizer(freezer)
    begin = snapshot(net)
    fit(net, freezer, data[: epochs // 2], optimizer)
    for name in freezer.table.ever():
        stage = next(s for s in net.stages if s.name == name)
        tensors = [p.name for kind in freezer.table.ever()[name] for p in stage.select(kind)]
        assert any(not torch.equal(begin[t], net.state_dict()[t]) for t in tensors), f"{name} never trained"


@pytest.mark.parametrize("policy", UNFREEZING)
def test_pitfall_10_everything_ever_trainable_trains(policy):
    check_10(policy)


@builtins
@pytest.mark.parametrize("policy", UNFREEZING)
def test_pitfall_10_on_every_builtin_backbone(net, policy):
    check_10(policy, net, epochs=2)


def test_pitfall_10_goes_red(monkeypatch):
    original = Freezer.parameter_groups

    def first_row(self, weight_decay):
        groups = original(self, weight_decay)
        now = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
        return [g for g in now if g["params"]]

    monkeypatch.setattr(Freezer, "parameter_groups", first_row)
    with pytest.raises(AssertionError, match="never trained"):
        check_10("lp-ft")


# 11 and 12: momentum, decay and stale gradients


def check_11(policy, kind, net_name="batch-2d"):
    net, data = build(net_name)
    freezer = start(net, policy, epochs=2)
    optimizer = make_optimizer(freezer, kind)
    fit(net, freezer, data, optimizer, last=1, set_to_none=False)
    before = snapshot(net)
    fit(net, freezer, data, optimizer, first=1, set_to_none=False)
    assert_still(before, snapshot(net), *still(net, freezer.table.row(1)))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("policy", ["refreeze", "narrow"])
def test_pitfall_11_no_drift_after_freezing(policy, kind):
    check_11(policy, kind)


@builtins
@pytest.mark.parametrize(("policy", "kind"), [("refreeze", "sgd"), ("narrow", "adamw")])
def test_pitfall_11_on_every_builtin_backbone(net, policy, kind):
    check_11(policy, kind, net)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_pitfall_11_goes_red(monkeypatch, kind):
    monkeypatch.setattr(TransferModel, "_drop_gradients", lambda self: None)
    with pytest.raises(AssertionError, match="frozen, but moved"):
        check_11("narrow", kind)


def check_12(policy, net_name="batch-2d"):
    net, data = build(net_name)
    freezer = start(net, policy, epochs=2)
    optimizer = make_optimizer(freezer)
    fit(net, freezer, data[:1], optimizer, last=1)
    freezer.apply(0)
    net.train()
    net.head.loss(net(data[0]), data[0]).backward()
    freezer.apply(1)  # between backward and step
    freezer.set_lr(optimizer, 1e-2, 1.0)
    before = snapshot(net)
    counted = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
    trainable = nn.utils.get_total_norm([p.grad for p in freezer.trainable_parameters() if p.grad is not None])
    assert trainable > 0
    assert counted == trainable, "stale gradients count in clipping"
    optimizer.step()
    assert_still(before, snapshot(net), still(net, freezer.row)[0], {"head.out.weight"})


@pytest.mark.parametrize("policy", ["refreeze", "narrow"])
@pytest.mark.parametrize("net", ["batch-2d", *BUILTINS])
def test_pitfall_12_no_stale_gradient(net, policy):
    check_12(policy, net)


def test_pitfall_12_goes_red(monkeypatch):
    monkeypatch.setattr(TransferModel, "_drop_gradients", lambda self: None)
    with pytest.raises(AssertionError, match="stale"):
        check_12("refreeze")


# 13: the first steps of new parameters


def check_13(net_name="batch-2d", lr=1e-2, n=6):
    """AdamW's first updates are as large as the rate, whatever the gradient: the rate must rise from almost nothing."""
    net, data = build(net_name)
    data = (data * 2)[:n]
    freezer = start(net, "lp-ft", epochs=2, warmup=1.0)
    optimizer = make_optimizer(freezer, weight_decay=0.0)
    weights = [p.parameter for stage in net.stages[:-1] for p in stage.parameters]
    previous, steps = [], []

    def measure(epoch, i):
        now = torch.cat([w.detach().flatten() for w in weights])
        if epoch == 1:
            steps.append(float((now - previous[-1]).abs().max()))
        previous[:] = [now]

    fit(net, freezer, data, optimizer, lr=lr, schedule="constant", on_step=measure)
    rate = lr * freezer.row[net.stages[0].name].lr
    assert len(steps) == n
    for i, size in enumerate(steps):
        # A new step against a first, small gradient may exceed the rate by 1 / sqrt(steps) of Adam's long memory.
        bound = rate * (i + 1) / n * (1.01 if i == 0 else 2.0)
        assert 0 < size <= bound, f"step {i} after the unfreeze is {size:.2e}"


@pytest.mark.parametrize("net", ["batch-2d", *BUILTINS])
def test_pitfall_13_rates_rise_after_an_unfreeze(net):
    check_13(net)


def test_pitfall_13_goes_red(monkeypatch):
    monkeypatch.setattr(freeze, "ramp", lambda step, steps: 1.0)
    with pytest.raises(AssertionError, match="after the unfreeze"):
        check_13()


# 28: decay and anchor


def check_28(net_name="batch-2d"):
    net, _ = build(net_name)
    freezer = start(net, freezing.l2_sp(anchor=1.0), epochs=15)
    optimizer = torch.optim.SGD(freezer.parameter_groups(0.5), lr=0.6)
    first = snapshot(net)
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.add_(torch.randn_like(parameter))
    away = snapshot(net)
    for epoch in range(15):
        freezer.apply(epoch)
        freezer.set_lr(optimizer, 0.6, 1.0)
        optimizer.zero_grad()
        freezer.penalty().backward()
        optimizer.step()
    now = snapshot(net)
    for name, _ in net.named_parameters():
        if name.startswith("backbone"):
            assert (away[name] - first[name]).abs().max() > 0.1 or first[name].numel() == 1
            assert torch.allclose(now[name], first[name], atol=1e-4), "pulled to zero as well"


@pytest.mark.parametrize("net", ["batch-2d", *BUILTINS])
def test_pitfall_28_an_anchor_replaces_weight_decay(net):
    check_28(net)


def test_pitfall_28_goes_red(monkeypatch):
    original = Freezer.set_lr

    def decay_too(self, optimizer, *args, **kwargs):
        original(self, optimizer, *args, **kwargs)
        for group in optimizer.param_groups:
            group["weight_decay"] = group["decay"]

    monkeypatch.setattr(Freezer, "set_lr", decay_too)
    with pytest.raises(AssertionError, match="pulled to zero"):
        check_28()

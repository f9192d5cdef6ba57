"""What is refused or never happens: pitfalls 19–22, a check each, and the proof that it goes red without its guard."""

import pytest
from helpers_transfer import (
    BUILTINS,
    NETS,
    POLICIES,
    build,
    equal,
    model,
    named,
    snapshot,
    start,
    table,
    weights,
)

from medtl_monai.errors import PolicyError, WeightsError
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import Rule
from medtl_monai.transfer import schedule
from medtl_monai.transfer import weights as loading
from medtl_monai.transfer.model import TransferModel

nets = pytest.mark.parametrize("net", NETS)
builtins = pytest.mark.parametrize("net", BUILTINS)


def refusal(call, kind):
    """Return the error of this kind that the call raises, or None."""
    try:
        call()
    except kind as error:
        return error
    return None


# 19: composition


def check_19(left, right, net_name="batch-2d"):
    net, _ = build(net_name)
    product = named(left, net) * named(right, net)
    singles = [table(net, policy).row(0) for policy in (left, right)]
    freezer = start(net, POLICIES["full"].then(product, at=0.5), epochs=2)
    freezer.apply(0)
    freezer.apply(1)
    names = {id(p): n for n, p in net.named_parameters()}
    trains = {names[id(p)] for p in freezer.trainable_parameters()}
    declared = [{p.name for stage in net.stages for p in stage.select(row[stage.name].params)} for row in singles]
    assert trains == declared[0] & declared[1], "more trains than was declared"
    assert trains


LEFT = ("full", "last-n", "llrd", "l2-sp", "surgical", "linear-probe")
RIGHT = ("full", "last-n", "norm-only", "bitfit", "surgical")


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("right", RIGHT)
def test_pitfall_19_composition_never_trains_more(left, right):
    check_19(left, right)


@builtins
def test_pitfall_19_on_every_builtin_backbone(net):
    for left, right in zip(LEFT, (*RIGHT[1:], "full", "full"), strict=False):
        check_19(left, right, net)


def test_pitfall_19_goes_red(monkeypatch):
    def toggle(self, stage, rule):
        for entry in stage.select(rule.params):
            entry.parameter.requires_grad_(True)

    monkeypatch.setattr(TransferModel, "_set_trainable", toggle)
    with pytest.raises(AssertionError, match="more trains"):
        check_19("last-n", "surgical")


# 20: nothing matches


def check_20(prefix, net_name="batch-2d"):
    net, _ = build(net_name)
    state = {f"{prefix}{k}": v for k, v in build(net_name, seed=3)[0].backbone.state_dict().items()}
    before = snapshot(net)
    error = refusal(lambda: loading.load_into(net, state, source="weights.pt"), WeightsError)
    assert error is not None, "nothing was loaded, and nobody was told"
    # BatchNorm's step counters need not be in a file.
    needed = sum("num_batches" not in key for key in state)
    assert f"0 of {needed}" in str(error)
    assert f"key_map=(({prefix!r}, ''),) would match {needed} tensors" in error.mend
    assert equal(before, snapshot(net))


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "net.encoder."])
def test_pitfall_20_wrong_prefix_raises_with_the_nearest_keys(prefix):
    check_20(prefix)


@builtins
def test_pitfall_20_on_every_builtin_backbone(net):
    check_20("module.", net)


def test_pitfall_20_goes_red(monkeypatch):
    monkeypatch.setattr(loading, "_require", lambda *args: None)
    with pytest.raises(AssertionError, match="nobody was told"):
        check_20("module.")


# 21: a random stage gets frozen


class Everything(FreezePolicy):
    """Freezes the whole backbone, whatever it holds."""

    def __call__(self, at, stages):
        return {s.name: Rule() for s in stages if s.role == "head"}


def check_21(net_name="batch-2d"):
    net, _ = build(net_name)
    for name in net.backbone.stages:
        pretrained = weights(net, but=(name,))
        error = refusal(lambda known=pretrained: table(net, Everything(), pretrained=known), PolicyError)
        assert error is not None, "random features were frozen"
        assert f"{name!r} received no weights" in str(error)
    assert table(net, Everything()).frozen_prefix(0) == len(net.backbone.stages)


@pytest.mark.parametrize("net", ["batch-2d", *BUILTINS])
def test_pitfall_21_random_stages_are_not_frozen(net):
    check_21(net)


def test_pitfall_21_goes_red(monkeypatch):
    monkeypatch.setattr(schedule, "_holds_random", lambda rule, stage: False)
    with pytest.raises(AssertionError, match="random features"):
        check_21()


# 22: a rule that selects nothing


class Biases(FreezePolicy):
    def __call__(self, at, stages):
        return {s.name: Rule(params="bias") if s.role == "backbone" else Rule() for s in stages}


def without_biases():
    net = model("none")
    for block in net.backbone.stages.values():
        block.conv.bias = None
    return TransferModel(net.backbone, net.head)


def check_22():
    error = refusal(lambda: table(without_biases(), Biases()), PolicyError)
    assert error is not None, "a linear probe passed for BitFit"
    assert "matches no parameter of stage 'stem'" in str(error)
    assert "bias" in table(model("none"), Biases()).trains(0).values()


def test_pitfall_22_rules_that_match_nothing_raise():
    check_22()
    with pytest.raises(PolicyError, match="has biases"):
        table(without_biases(), "bitfit")
    with pytest.raises(PolicyError, match="has normalisation"):
        table(model("none"), "norm-only")


@nets
@pytest.mark.parametrize("policy", POLICIES)
def test_pitfall_22_every_declared_stage_has_parameters(net, policy):
    network, _ = build(net)
    for entry in table(network, policy).summary():
        assert (entry["parameters"] > 0) == (entry["trains"] != "none")


def test_pitfall_22_goes_red(monkeypatch):
    monkeypatch.setattr(schedule, "_check_matches", lambda *args: None)
    with pytest.raises(AssertionError, match="passed for BitFit"):
        check_22()

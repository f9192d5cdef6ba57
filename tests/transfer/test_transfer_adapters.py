"""Adapters: put in once, trained alone, stored beside merged weights, folded back."""

import copy

import pytest
import torch
from helpers_adapters import Adapting, Gain, spec
from helpers_transfer import (
    TinyBackbone,
    TinyHead,
    assert_still,
    batches,
    checkpoint,
    equal,
    fit,
    fit_monai,
    make_optimizer,
    model,
    randomise,
    snapshot,
    still,
    table,
    weights,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint as recompute

from medtl_monai.adapters import AdapterSpec
from medtl_monai.builtin import freezing
from medtl_monai.errors import PluginError, PolicyError, RunError, SpecError
from medtl_monai.transfer import stages as stages_module
from medtl_monai.transfer.adapters import adapt, adapter_state, adapters, load_states, merge, merged_state
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.table import PolicyTable


def adapted(policy=None, epochs=3, net=None, **options):
    """Return a model with adapters and its freezer."""
    net = net or model(**options)
    planned = adapt(net, table(net, policy or Adapting(), epochs))
    return net, Freezer(net, planned)


def trained(policy=None, **options):
    net, freezer = adapted(policy, **options)
    fit_monai(net, freezer, batches())
    return net, freezer


def outputs(net):
    net.eval()
    with torch.no_grad():
        return torch.cat([net(batch) for batch in batches(seed=99)])


def test_an_adapted_model_starts_as_the_plain_one():
    plain = model()
    net, _ = adapted()
    assert len(adapters(net)) == 4
    assert torch.equal(outputs(net), outputs(plain))
    assert outputs(plain).std() > 0.01
    assert {"backbone.stages.low.conv.gain", "backbone.stages.low.conv.base.weight"} <= set(net.state_dict())


def test_the_table_and_the_stages_know_them():
    net, freezer = adapted()
    info = {s.name: s for s in freezer.table.stages}
    assert info["low"].kinds == {"all", "norm", "bias", "adapter"}
    assert info["low"].pretrained
    assert info["head"].kinds == {"all", "bias"}
    row = {e["stage"]: e for e in freezer.table.summary()}
    assert row["low"]["parameters"] == 8
    assert row["low"]["trains"] == "adapter"
    assert AdapterSpec.from_text(row["low"]["adapter"]) == spec()
    stage = {s.name: s for s in net.stages}["low"]
    assert [p.name for p in stage.select("adapter")] == ["backbone.stages.low.conv.gain"]
    assert not {p.name for p in stage.select("bias")} & {p.name for p in stage.select("adapter")}
    assert "backbone.stages.low.conv.gain" in {p.name for p in stage.select("all")}


def check_still():
    net, freezer = adapted()
    freezer.apply(0)
    fixed, moving = still(net, freezer.row)
    assert "backbone.stages.low.norm.running_mean" in fixed
    assert "backbone.stages.low.conv.base.weight" in fixed
    assert "backbone.stages.low.conv.gain" in moving
    before = snapshot(net)
    fit_monai(net, freezer, batches())
    assert_still(before, snapshot(net), fixed, moving)


def test_only_adapters_and_the_head_move():
    check_still()


def test_it_goes_red_where_statistics_stay_live(monkeypatch):
    monkeypatch.setattr("medtl_monai.transfer.model.frozen_statistics", lambda rule: False)
    with pytest.raises(AssertionError, match="frozen, but moved"):
        check_still()


def test_it_goes_red_where_the_base_counts_as_adapter(monkeypatch):
    monkeypatch.setattr(stages_module, "_added", lambda adapter: list(adapter.modules()))
    with pytest.raises(AssertionError):
        check_still()


def test_the_optimizer_has_adapters_and_head_only_and_keeps_its_groups():
    net, freezer = adapted()
    optimizer = make_optimizer(freezer)
    chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, p in net.named_parameters() if id(p) in chosen}
    assert names == {n for n in dict(net.named_parameters()) if n.endswith(".gain") or n.startswith("head.")}
    groups = [group["name"] for group in optimizer.param_groups]
    fit(net, freezer, batches(), optimizer)
    assert [group["name"] for group in optimizer.param_groups] == groups
    assert all(not n.endswith("/decay") for n in groups if not n.startswith("head")), "gains are vectors"


def test_merged_state_is_that_of_a_plain_model():
    net, _ = trained()
    before = snapshot(net)
    state = merged_state(net)
    assert equal(before, snapshot(net)), "merging for export leaves the model alone"
    plain = model(seed=5)
    assert set(state) == set(plain.state_dict())
    plain.load_state_dict(state)
    assert torch.allclose(outputs(plain), outputs(net), atol=1e-5, rtol=0)
    plain.load_state_dict({k.replace(".base.", "."): v for k, v in before.items() if not k.endswith(".gain")})
    assert not torch.allclose(outputs(plain), outputs(net), atol=1e-3, rtol=0), "adapters do something"


def test_without_adapters_the_state_is_the_state():
    net = model()
    assert equal(merged_state(net), net.state_dict())
    assert adapter_state(net) == {}
    planned = table(net, freezing.full())
    assert adapt(net, planned) is planned


def test_states_come_back_bitwise():
    net, _ = trained()
    other, _ = adapted()
    load_states(other, copy.deepcopy(merged_state(net)), copy.deepcopy(adapter_state(net)))
    assert equal(snapshot(other), snapshot(net))
    assert not equal(snapshot(other), snapshot(adapted()[0]))


def test_states_of_another_model_are_refused():
    net, _ = adapted()
    with pytest.raises(RunError, match="does not fit"):
        load_states(net, merged_state(net), {})


def test_merge_puts_plain_layers_back():
    net, _ = trained()
    expected = outputs(net)
    merge(net)
    assert not adapters(net)
    assert set(net.state_dict()) == set(model().state_dict())
    assert all("adapter" not in stage.kinds for stage in net.stages)
    assert torch.allclose(outputs(net), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_resumed_at_any_epoch_it_ends_equal(epoch):
    policy = Adapting().then(freezing.full(), at=0.5)
    whole, freezer = adapted(policy, epochs=4)
    optimizer = make_optimizer(freezer)
    fit(whole, freezer, batches(), optimizer)

    first, freezer = adapted(policy, epochs=4)
    optimizer = make_optimizer(freezer)
    fit(first, freezer, batches(), optimizer, last=epoch)
    merged, unmerged = copy.deepcopy((merged_state(first), adapter_state(first)))
    _, optimizer_state, freezer_state, _ = checkpoint(first, freezer, optimizer)

    second, freezer = adapted(policy, epochs=4, seed=9)
    optimizer = make_optimizer(freezer)
    load_states(second, merged, unmerged)
    freezer.load_state_dict(freezer_state)
    optimizer.load_state_dict(optimizer_state)
    fit(second, freezer, batches(), optimizer, first=epoch)
    assert equal(snapshot(second), snapshot(whole))
    assert not torch.equal(
        whole.state_dict()["backbone.stages.low.conv.base.weight"],
        adapted()[0].state_dict()["backbone.stages.low.conv.base.weight"],
    ), "in the second part everything trains"


def test_below_frozen_stages_gradients_arrive():
    net, freezer = adapted(Adapting("stem"))
    freezer.apply(0)
    net.train()
    batch = batches()[0]
    net.head.loss(net(batch), batch).backward()
    gradient = net.get_parameter("backbone.stages.stem.conv.gain").grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert net.frozen_prefix == 0
    assert net.get_parameter("backbone.stages.stem.conv.base.weight").grad is None
    assert net.get_parameter("backbone.stages.top.conv.weight").grad is None


def test_pitfall_16_gradients_survive_recomputation():
    net, freezer = adapted(Adapting("stem", "low"))
    freezer.apply(0)
    net.train()
    gradients = []
    for recomputing in (False, True):
        net.zero_grad()
        x = batches()[0].image  # which needs no gradient: with reentrant checkpoints, nothing would get one
        for stage in net.backbone.stages.values():
            x = recompute(stage, x, use_reentrant=False) if recomputing else stage(x)
        x.square().mean().backward()
        gradients.append(net.get_parameter("backbone.stages.stem.conv.gain").grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_pitfall_25_averages_made_afterwards_track_the_adapters():
    net, freezer = adapted()
    average = AveragedModel(net, use_buffers=True)
    optimizer = make_optimizer(freezer)
    fit(net, freezer, batches(), optimizer, on_step=lambda *_: average.update_parameters(net))
    state = {k.removeprefix("module."): v for k, v in average.state_dict().items() if k != "n_averaged"}
    assert set(state) == set(net.state_dict())
    moved = {k for k, v in net.state_dict().items() if not torch.allclose(state[k], v, atol=1e-7)}
    assert moved
    assert all(k.endswith(".gain") or k.startswith("head.") for k in moved), "what is frozen stays equal"


class TwiceBackbone(TinyBackbone):
    """Its last stage holds one layer under two names, and is one itself in the second."""

    def __init__(self):
        super().__init__(stages=("stem", "low"))
        layer = nn.Conv2d(8, 8, 1)
        self.stages["twice"] = nn.Sequential(layer, nn.Tanh(), layer)
        self.stages["bare"] = nn.Conv2d(8, 8, 1)


def test_a_layer_under_two_names_and_a_stage_that_is_a_layer():
    net = randomise(TransferModel(TwiceBackbone(), TinyHead()))
    net, freezer = adapted(net=net)
    twice = net.backbone.stages["twice"]
    assert isinstance(twice[0], Gain)
    assert twice[0] is twice[2]
    assert isinstance(net.backbone.stages["bare"], Gain)
    fit_monai(net, freezer, batches())
    expected = outputs(net)
    plain = TransferModel(TwiceBackbone(), TinyHead())
    assert set(merged_state(net)) == set(plain.state_dict())
    plain.load_state_dict(merged_state(net))
    assert torch.allclose(outputs(plain), expected, atol=1e-5, rtol=0)
    merge(net)
    assert torch.allclose(outputs(net), expected, atol=1e-5, rtol=0)
    assert net.backbone.stages["twice"][0] is net.backbone.stages["twice"][2]


def test_necks_can_have_them():
    net = model(neck=True)
    planned = adapt(net, table(net, Adapting("decoder"), 2, weights(net, neck=True)))
    assert list(adapters(net)) == ["head.necks.decoder.0"]
    assert {s.name: s for s in planned.stages}["decoder"].kinds >= {"adapter"}


def test_a_stage_where_nothing_fits_is_named():
    net = model()
    planned = table(net, Adapting(adapter=spec(only="no.such.layer")))
    with pytest.raises(PolicyError, match="adapter 'gain' fits no layer of stage 'stem'") as caught:
        adapt(net, planned)
    assert "targets" in caught.value.mend


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("not_an_adapter", "made a Identity, not an Adapter"),
        ("another_base", "does not keep the layer"),
        ("failing", "RuntimeError: boom"),
        ("absent", "AttributeError"),
    ],
)
def test_adapters_that_are_wrong_are_refused(function, what):
    net = model()
    with pytest.raises(PluginError, match=what) as caught:
        adapt(net, table(net, Adapting(adapter=spec(function))))
    assert "gain" in str(caught.value)
    assert caught.value.mend


def test_a_missing_package_is_named():
    net = model()
    adapter = AdapterSpec(name="gain", build="no_such_package.layers:adapt")
    with pytest.raises(PluginError, match="no_such_package") as caught:
        adapt(net, table(net, Adapting(adapter=adapter)))
    assert "Install" in caught.value.mend


def test_an_option_that_it_does_not_take_is_an_error():
    net = model()
    with pytest.raises(PluginError, match="TypeError"):
        adapt(net, table(net, Adapting(adapter=spec(rank=3))))


def test_merging_into_something_else_is_an_error():
    net, _ = adapted(Adapting(adapter=spec("short")))
    with pytest.raises(PluginError, match="unlike its layer's"):
        merged_state(net)


def test_a_shared_weight_is_refused():
    net = model()
    net.backbone.stages["low"].tied = nn.Conv2d(8, 8, 3)
    net.backbone.stages["low"].tied.weight = net.backbone.stages["low"].conv.weight
    net = TransferModel(net.backbone, net.head)
    with pytest.raises(PolicyError, match="shares its weight"):
        adapt(net, table(net, Adapting("low")))


def test_the_table_comes_back_from_csv(tmp_path):
    _, freezer = adapted(Adapting(adapter=spec(start=0.5, only="conv")).then(freezing.full(), at=0.5), epochs=4)
    freezer.table.write(tmp_path / "policy.csv")
    back = PolicyTable.read(tmp_path / "policy.csv")
    assert back == freezer.table
    assert dict(back.adapters()["low"].options) == {"start": 0.5, "only": "conv"}


def test_a_damaged_description_is_a_damaged_run(tmp_path):
    _, freezer = adapted()
    path = tmp_path / "policy.csv"
    freezer.table.write(path)
    path.write_text(path.read_text().replace("helpers_adapters:", "helpers adapters "))
    with pytest.raises(RunError, match="damaged"):
        PolicyTable.read(path)


def test_the_first_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    a = adapted()[0].state_dict()
    torch.manual_seed(2)
    assert equal(a, adapted()[0].state_dict())


@pytest.mark.parametrize("build", [":adapt", "no reference", "a:b:c"])
def test_a_spec_needs_a_reference_with_a_module(build):
    with pytest.raises(SpecError):
        AdapterSpec(name="gain", build=build)


def test_a_spec_takes_plain_options_only():
    with pytest.raises(SpecError, match="option 'x' is a object"):
        AdapterSpec(name="gain", build="a:b", options=(("x", object()),))
    value = AdapterSpec(name="gain", build="a:b", options=(("x", ("p", "q")), ("y", None), ("z", True)))
    assert AdapterSpec.from_text(value.to_text()) == value
    assert hash(value)

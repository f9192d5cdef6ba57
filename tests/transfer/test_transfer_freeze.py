import pytest
import torch
from helpers_transfer import POLICIES, batches, fit, make_optimizer, model, start, table, weights

from medtl_monai.builtin import freezing
from medtl_monai.errors import PolicyError, RunError
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import Rule
from medtl_monai.transfer.freeze import Freezer


class OnPlateau(FreezePolicy):
    """The head, and after the first plateau everything."""

    def __call__(self, at, stages):
        return {s.name: Rule() for s in stages if s.role == "head" or at.plateaus}


class NormEval(FreezePolicy):
    def __call__(self, at, stages):
        return {s.name: Rule(norm="eval") for s in stages}


def test_apply_says_when_what_trains_changes():
    freezer = start(model(), "lp-ft")
    assert [freezer.apply(epoch) for epoch in range(4)] == [True, False, True, False]
    assert freezer.epoch == 3
    assert freezer.row == freezer.table.row(3)


def test_groups_divide_everything_ever_trainable():
    net = model("batch", neck=True)
    freezer = start(net, "gradual", epochs=10)
    groups = freezer.parameter_groups(0.05)
    assert [g["name"] for g in groups][:2] == ["stem/decay", "stem/no-decay"]
    owned = [id(p) for g in groups for p in g["params"]]
    assert len(owned) == len(set(owned)) == len(list(net.parameters()))
    assert {g["weight_decay"] for g in groups if g["name"].endswith("/decay")} == {0.05}
    assert {g["weight_decay"] for g in groups if g["name"].endswith("/no-decay")} == {0.0}


def test_groups_leave_out_what_never_trains():
    groups = start(model("batch"), "bitfit").parameter_groups(0.05)
    assert [g["name"] for g in groups] == [
        *(f"{name}/no-decay" for name in ("stem", "low", "mid", "top")),
        "head/decay",
        "head/no-decay",
    ]
    assert [len(g["params"]) for g in groups] == [2, 2, 2, 2, 1, 1]
    assert {g["stage"] for g in start(model(), "linear-probe").parameter_groups(0)} == {"head"}


@pytest.mark.parametrize("policy", POLICIES)
def test_trainable_parameters_are_in_the_groups(policy):
    freezer = start(model("batch", neck=True), policy)
    owned = {id(p) for g in freezer.parameter_groups(0) for p in g["params"]}
    for epoch in range(4):
        freezer.apply(epoch)
        assert freezer.trainable_parameters()
        assert {id(p) for p in freezer.trainable_parameters()} <= owned


def test_anchored_groups_have_no_decay_while_they_are_anchored():
    freezer = start(model(), freezing.full().then(freezing.l2_sp(), at=0.5), epochs=2)
    optimizer = make_optimizer(freezer, weight_decay=0.1)
    decay = []
    for epoch in range(2):
        freezer.apply(epoch)
        freezer.set_lr(optimizer, 0.1, 1.0)
        decay.append({g["name"]: g["weight_decay"] for g in optimizer.param_groups})
    assert [d["low/decay"] for d in decay] == [0.1, 0]
    assert [d["head/decay"] for d in decay] == [0.1, 0.1]


def test_penalty_is_the_weighted_distance():
    net = model("batch", neck=True)
    freezer = start(net, freezing.l2_sp(anchor=0.5))
    freezer.apply(0)
    assert freezer.penalty() == 0
    with torch.no_grad():
        net.backbone.stages["low"].conv.weight.add_(0.1)
        net.head.out.weight.add_(10)
    expected = 0.5 * 0.5 * 0.01 * net.backbone.stages["low"].conv.weight.numel()
    assert freezer.penalty().item() == pytest.approx(expected, rel=1e-4)
    plain = start(net, "full")
    plain.apply(0)
    assert plain.penalty() is None


def test_penalty_only_counts_what_trains():
    net = model("batch")
    freezer = start(net, freezing.l2_sp(anchor=1.0) * freezing.bitfit())
    freezer.apply(0)
    with torch.no_grad():
        net.backbone.stages["low"].conv.weight.add_(1)
    assert freezer.penalty() == 0
    with torch.no_grad():
        net.backbone.stages["low"].conv.bias.add_(1)
    assert freezer.penalty().item() == pytest.approx(0.5 * 8)


def test_anchors_are_those_of_the_run_that_is_resumed():
    net = model("batch")
    freezer = start(net, "l2-sp")
    state = {name: tensor.clone() for name, tensor in freezer.anchor_state().items()}
    assert set(state) == {f"backbone.{name}" for name, _ in net.backbone.named_parameters()}
    fit(net, freezer, batches(), make_optimizer(freezer), last=1)
    resumed = start(net, "l2-sp")
    resumed.apply(1)
    assert resumed.penalty() == 0, "taken from the weights as they are now"
    resumed.load_anchor_state(state)
    freezer.apply(1)
    assert torch.equal(resumed.penalty(), freezer.penalty())
    assert resumed.penalty() > 0
    with pytest.raises(RunError, match="do not fit"):
        resumed.load_anchor_state({})
    assert start(net, "full").anchor_state() == {}


def test_anchors_do_not_follow_the_weights():
    net = model("batch")
    freezer = start(net, "l2-sp")
    before = freezer.anchor_state()["backbone.stages.low.conv.weight"].clone()
    fit(net, freezer, batches(), make_optimizer(freezer), last=1)
    assert torch.equal(freezer.anchor_state()["backbone.stages.low.conv.weight"], before)
    assert not torch.equal(net.backbone.stages["low"].conv.weight, before)


def test_a_table_for_another_model_is_refused():
    with pytest.raises(PolicyError, match="the table is for stages"):
        Freezer(model(neck=True), table(model(), "full"))


def test_statistics_that_were_never_measured_are_not_frozen():
    net = model("batch")
    with pytest.raises(PolicyError, match="'mid' received no weights and would keep normalisation statistics"):
        start(net, NormEval(), pretrained=weights(net, but=("mid",)))
    start(net, NormEval())
    group = model("group")
    start(group, NormEval(), pretrained=weights(group, but=("mid",)))


def test_ramp_covers_a_share_of_the_phase():
    freezer = start(model(), "lp-ft", epochs=8, warmup=0.25)
    ramps = []
    for epoch in range(8):
        freezer.apply(epoch)
        ramps += [freezer.ramp("low", step, 4) for step in range(4)]
        assert all(freezer.ramp("head", step, 4) == 1 for step in range(4))
    assert ramps[:16] == [1] * 16
    assert ramps[16:22] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_ramp_after_a_plateau_survives_a_resume():
    counts = [0, 0, 1, 1, 1, 1]
    freezer = start(model(), OnPlateau(), epochs=6, warmup=0.5)
    whole = []
    for epoch, count in enumerate(counts):
        freezer.apply(epoch, count)
        whole.append([freezer.ramp("low", step, 3) for step in range(3)])
    assert whole[2] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert whole[3] == pytest.approx([4 / 6, 5 / 6, 1])
    resumed = start(model(), OnPlateau(), epochs=6, warmup=0.5)
    with pytest.raises(RunError, match="plateau counts of earlier epochs"):
        resumed.apply(3, 1)
    resumed.load_state_dict({"plateaus": counts[:3]})
    resumed.apply(3, 1)
    assert [resumed.ramp("low", step, 3) for step in range(3)] == whole[3]
    assert resumed.state_dict() == {"plateaus": [0, 0, 1, 1]}


def test_an_epoch_that_starts_again_forgets_what_came_after():
    freezer = start(model(), OnPlateau(), epochs=6)
    for epoch in range(4):
        freezer.apply(epoch, epoch // 2)
    freezer.apply(2, 0)
    assert freezer.state_dict() == {"plateaus": [0, 0, 0]}
    assert freezer.row["low"].frozen


def test_plateaus_beyond_the_table_count_as_its_last():
    freezer = start(model(), OnPlateau(), epochs=20)
    for epoch in range(20):
        freezer.apply(epoch, epoch)
    assert freezer.state_dict()["plateaus"][-1] == freezer.table.max_plateaus == 5


def test_steps_come_after_apply():
    freezer = start(model(), "full")
    with pytest.raises(RuntimeError, match="apply"):
        freezer.set_lr(make_optimizer(freezer), 0.1, 1.0)

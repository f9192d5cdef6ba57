import dataclasses
import math
import random

import pytest
from helpers_transfer import POLICIES, model, table, weights

from medtl_monai.adapters import AdapterSpec
from medtl_monai.builtin import freezing
from medtl_monai.errors import PolicyError, RunError, StorageError
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import FROZEN, Rule, StageInfo
from medtl_monai.transfer.schedule import plan
from medtl_monai.transfer.table import PolicyTable

KINDS = frozenset({"all", "norm", "bias"})
STAGES = (
    StageInfo(name="low", role="backbone", pretrained=True, kinds=KINDS),
    StageInfo(name="top", role="backbone", pretrained=True, kinds=KINDS),
    StageInfo(name="decoder", role="neck", pretrained=False, kinds=KINDS),
    StageInfo(name="head", role="head", pretrained=False, kinds=frozenset({"all", "bias"})),
)
FRESH = {"decoder": Rule(), "head": Rule()}


class Policy(FreezePolicy):
    """A policy from a function of (at, stages)."""

    def __init__(self, function):
        self.function = function

    def __call__(self, at, stages):
        return self.function(at, stages)


def constant(rules):
    return Policy(lambda at, stages: rules)


def refused(function, stages=STAGES, epochs=3, **options):
    with pytest.raises(PolicyError) as caught:
        plan(Policy(function), stages, epochs, name="mine", **options)
    assert caught.value.mend
    return str(caught.value)


def test_a_stage_left_out_is_frozen():
    result = plan(constant(FRESH), STAGES, 3, name="mine")
    assert result.row(2) == {"low": FROZEN, "top": FROZEN, **FRESH}
    assert result.trains(0) == {"decoder": "all", "head": "all"}
    assert result.frozen_prefix(0) == 2
    assert result.policy == "mine"


def test_every_way_of_freezing_is_one_rule():
    result = plan(constant({**FRESH, "low": Rule(params="none", lr=3, norm="live")}), STAGES, 1)
    assert result.row(0)["low"] == FROZEN


def test_unknown_stage():
    text = refused(lambda at, stages: {**FRESH, "tops": Rule()})
    assert "no stage 'tops'" in text
    assert "Did you mean 'top'" in text


def test_not_a_rule():
    assert "got a float, not a Rule" in refused(lambda at, stages: {"head": 0.1})


def test_not_a_mapping():
    assert "TypeError" in refused(lambda at, stages: 7)


def test_a_failing_policy_is_named_with_its_epoch():
    text = refused(lambda at, stages: FRESH if at.epoch < 2 else 1 / 0)
    assert text.startswith("mine: failed at epoch 2 with ZeroDivisionError")


@pytest.mark.parametrize("rule", [Rule(lr=math.inf), Rule(anchor=math.inf)])
def test_not_finite(rule):
    assert "inf" in refused(lambda at, stages: {**FRESH, "head": rule})


def test_random_stage_frozen():
    assert "'decoder' received no weights and would be frozen" in refused(lambda at, stages: {"head": Rule()})


@pytest.mark.parametrize("rule", [Rule(params="norm"), Rule(params="bias")])
def test_random_stage_of_which_only_a_part_trains(rule):
    assert "would be frozen" in refused(lambda at, stages: {**FRESH, "decoder": rule})


def test_random_stage_anchored():
    assert "would be anchored" in refused(lambda at, stages: {**FRESH, "decoder": Rule(anchor=0.1)})


def test_head_never_trained():
    assert "the head (stage 'head') never trains" in refused(lambda at, stages: {"low": Rule(), "decoder": Rule()})


def test_head_frozen_for_a_while_is_fine():
    rules = {"low": Rule(), "decoder": Rule()}
    result = plan(Policy(lambda at, stages: rules if at.epoch < 1 else {**rules, "head": Rule()}), STAGES, 2)
    assert "head" not in result.trains(0)


def test_nothing_trains():
    stages = (STAGES[0], STAGES[3])
    text = refused(lambda at, stages: {"head": Rule()} if at.epoch else {}, stages)
    assert "nothing trains in epoch 0" in text


def test_rule_matching_nothing():
    text = refused(lambda at, stages: {**FRESH, "head": Rule(params="norm")})
    assert "params='norm' matches no parameter of stage 'head'" in text


ADAPTER = AdapterSpec(name="x", build="a:b")


def test_adapters_need_a_description():
    assert "no AdapterSpec says which" in refused(lambda at, stages: {**FRESH, "low": Rule(params="adapter")})
    rule = Rule(params="adapter", adapter="lora")
    assert "no AdapterSpec says which" in refused(lambda at, stages: {**FRESH, "low": rule})


def test_adapters_go_with_their_parameter_set():
    text = refused(lambda at, stages: {**FRESH, "low": Rule(adapter=ADAPTER)})
    assert "'low' got an adapter with params='all'" in text


def test_a_stage_keeps_one_adapter():
    def changing(at, stages):
        return {**FRESH, "low": Rule(params="adapter", adapter=dataclasses.replace(ADAPTER, name="xy"[at.epoch % 2]))}

    assert "one adapter at first and another one later" in refused(changing)


def test_adapters_on_random_weights_are_refused():
    rule = Rule(params="adapter", adapter=ADAPTER)
    assert "'decoder' received no weights" in refused(lambda at, stages: {**FRESH, "decoder": rule})


def test_adapters_combine_with_rates_and_not_with_each_other():
    left = constant({**FRESH, "low": Rule(params="adapter", adapter=ADAPTER), "top": Rule()})
    product = plan(left * freezing.llrd(decay=0.5), STAGES, 2)
    assert product.row(0)["low"] == Rule(params="adapter", adapter=ADAPTER, lr=0.25)
    assert product.adapters() == {"low": ADAPTER}
    assert plan(left * freezing.last_n(n=1), STAGES, 2).adapters() == {}
    other = constant({**FRESH, "low": Rule(params="adapter", adapter=AdapterSpec(name="y", build="a:b"))})
    with pytest.raises(PolicyError, match=r"two adapters for one stage \(x and y\)"):
        plan(left * other, STAGES, 2)


def test_what_can_be_cached_is_the_frozen_prefix():
    rows = plan(freezing.last_n(n=1), STAGES, 2).summary()
    assert [row["cacheable"] for row in rows] == [True, False, False, False]
    rows = plan(constant({**FRESH, "low": Rule(params="adapter", adapter=ADAPTER)}), STAGES, 2).summary()
    assert not any(row["cacheable"] for row in rows), "nothing below a stage that trains is left"


def test_whether_another_plateau_matters():
    result = plan(freezing.gradual_on_plateau(), STAGES, 5)
    assert [result.waits(4, p) for p in range(4)] == [True, True, False, False]
    assert not result.waits(5, 0), "there is no epoch left"
    assert not plan(freezing.gradual(), STAGES, 5).waits(0, 0)


def test_stage_without_parameters_may_have_any_rule():
    pool = StageInfo(name="pool", role="backbone", pretrained=True, kinds=frozenset())
    result = plan(freezing.full(), (STAGES[0], pool, STAGES[3]), 1)
    assert result.row(0)["pool"] == Rule()


def test_counting_its_own_calls_is_found_out():
    calls = []

    def counting(at, stages):
        calls.append(1)
        return {**FRESH, "low": Rule(lr=len(calls))}

    assert "answered differently" in refused(counting)


def test_random_numbers_are_found_out():
    assert "answered differently" in refused(lambda at, stages: {**FRESH, "low": Rule(lr=random.random() + 1)})


def test_no_epochs():
    assert "epochs is 0" in refused(lambda at, stages: FRESH, epochs=0)


def test_control_experiment_freezes_a_random_backbone_and_says_so():
    random_stages = tuple(StageInfo(name=s.name, role=s.role, pretrained=False, kinds=s.kinds) for s in STAGES)
    with pytest.raises(PolicyError, match="no backbone stage received weights"):
        plan(freezing.linear_probe(), random_stages, 2)
    result = plan(freezing.linear_probe(), random_stages, 2, allow_random_frozen=True)
    assert result.random_frozen == ("low", "top")
    assert result.trains(0) == {"decoder": "all", "head": "all"}
    assert [row["weights"] for row in result.summary()] == ["random-frozen"] * 2 + ["none"] * 2
    assert not any(s.pretrained for s in result.stages), "the table tells what was measured"


def test_allowing_it_changes_nothing_where_weights_were_loaded():
    loaded = plan(freezing.linear_probe(), STAGES, 2, allow_random_frozen=True)
    assert loaded.random_frozen == ()
    assert loaded == plan(freezing.linear_probe(), STAGES, 2)


def thaw_on_plateau(at, stages):
    return {**FRESH, **({"top": Rule()} if at.plateaus >= 1 else {}), **({"low": Rule()} if at.plateaus >= 2 else {})}


def test_plateaus_are_evaluated_ahead():
    result = plan(Policy(thaw_on_plateau), STAGES, 5)
    assert result.max_plateaus == 4
    assert [len(result.trains(4, p)) for p in range(5)] == [2, 3, 4, 4, 4]
    assert result.row(4, 99) == result.row(4, 4)
    assert result.row(0, 3) == result.row(0, 0), "no plateau comes before the first epoch"
    assert [(p.first, p.last) for p in result.phases(1)] == [(0, 0), (1, 4)]


def test_the_plateau_count_is_dropped_where_it_makes_no_difference():
    result = plan(freezing.gradual(every=1), STAGES, 5)
    assert result.max_plateaus == 0
    assert len(result.cells) == 5


def test_a_fault_behind_a_plateau_is_found_ahead():
    text = refused(lambda at, stages: FRESH if at.plateaus < 2 else {"head": Rule()})
    assert "in epoch 2 after 2 plateaus" in text


def test_phases_are_runs_of_equal_trainable_sets():
    result = plan(freezing.gradual(every=2), STAGES, 7)
    assert [(p.first, p.last, sorted(p.trains)) for p in result.phases()] == [
        (0, 1, ["decoder", "head"]),
        (2, 3, ["decoder", "head", "top"]),
        (4, 6, ["decoder", "head", "low", "top"]),
    ]
    assert [result.frozen_prefix(e) for e in range(7)] == [2, 2, 1, 1, 0, 0, 0]


def test_ever_and_anchored():
    result = plan(freezing.l2_sp().then(freezing.bitfit(), at=0.5), STAGES, 4)
    assert result.ever()["low"] == {"all", "bias"}
    assert result.anchored() == ("low", "top")
    assert set(plan(freezing.linear_probe(), STAGES, 4).ever()) == {"decoder", "head"}


@pytest.mark.parametrize("epoch", [-1, 3])
def test_no_such_epoch(epoch):
    with pytest.raises(ValueError, match="the table has 3 epochs"):
        plan(constant(FRESH), STAGES, 3).row(epoch)


def test_summary_counts_scalars():
    net = model("batch")
    rows = table(net, "norm-only", 1).summary()
    assert [row["parameters"] for row in rows] == [16, 16, 16, 16, 18]
    assert [row["lr"] for row in table(net, "linear-probe", 1).summary()] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("policy", POLICIES)
def test_csv_round_trip(policy, tmp_path):
    net = model("batch", neck=True)
    result = table(net, policy, 7, pretrained=weights(net, neck=True))
    result.write(tmp_path / "policy.csv")
    assert PolicyTable.read(tmp_path / "policy.csv") == result
    assert [p.name for p in tmp_path.iterdir()] == ["policy.csv"]


def test_csv_round_trip_with_plateaus_and_random_stages(tmp_path):
    stages = (*STAGES[:1], StageInfo(name="top", role="backbone", pretrained=False, kinds=frozenset()), *STAGES[2:])
    result = plan(Policy(thaw_on_plateau), stages, 5, name='odd, "name"', allow_random_frozen=True)
    assert result.random_frozen == ("top",)
    result.write(tmp_path / "policy.csv")
    assert PolicyTable.read(tmp_path / "policy.csv") == result


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("all,live", "al,live"),
        lambda text: "\n".join(text.splitlines()[:-1]),
        lambda text: text.replace("low,backbone,loaded", "low,backbone,none", 1),
    ],
)
def test_damaged_csv(damage, tmp_path):
    path = tmp_path / "policy.csv"
    plan(freezing.gradual(every=1), STAGES, 5).write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RunError, match="damaged"):
        PolicyTable.read(path)


def test_writing_where_one_may_not(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, OSError)):
        plan(freezing.full(), STAGES, 1).write(tmp_path / "file" / "policy.csv")

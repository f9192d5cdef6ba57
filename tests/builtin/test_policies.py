import importlib
import itertools
import subprocess
import sys

import pytest

from medtl_monai.builtin import freezing
from medtl_monai.builtin.policies import SPECS
from medtl_monai.errors import PolicyError
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import FROZEN, At, PolicySpec, Rule, StageInfo

KINDS = frozenset({"all", "norm", "bias"})
NAMES = ("stem", "low", "mid", "top")


def stage(name, role="backbone", pretrained=True, kinds=KINDS):
    return StageInfo(name=name, role=role, pretrained=pretrained, kinds=kinds)


HEAD = stage("head", "head", pretrained=False)
BODY = tuple(stage(name) for name in NAMES)
LISTS = {
    "plain": (*BODY, HEAD),
    "one": (stage("only"), HEAD),
    "fresh-neck": (*BODY, stage("decoder", "neck", pretrained=False), HEAD),
    "loaded-neck": (*BODY, stage("decoder", "neck"), HEAD),
    "fresh-top": (*BODY[:3], stage("top", pretrained=False), HEAD),
    "pooling": (BODY[0], stage("pool", kinds=frozenset()), *BODY[1:], HEAD),
    "norms-only": (*(stage(name, kinds=frozenset({"all", "norm"})) for name in NAMES), HEAD),
}
BUILT = {
    "full": freezing.full(),
    "linear-probe": freezing.linear_probe(),
    "last-n": freezing.last_n(),
    "gradual": freezing.gradual(every=2),
    "gradual-on-plateau": freezing.gradual_on_plateau(),
    "lp-ft": freezing.lp_ft(),
    "llrd": freezing.llrd(),
    "norm-only": freezing.norm_only(),
    "bitfit": freezing.bitfit(),
    "l2-sp": freezing.l2_sp(),
}


def ask(policy, stages, epoch=0, epochs=10):
    rules = policy(At(epoch=epoch, epochs=epochs), stages)
    return {s.name: rules.get(s.name, FROZEN) for s in stages}


def training(policy, stages, epoch=0, epochs=10):
    return [name for name, rule in ask(policy, stages, epoch, epochs).items() if not rule.frozen]


def test_specs_are_complete_and_build_with_their_defaults():
    names = [spec.name for spec in SPECS]
    assert names == [*BUILT, "surgical"]
    for spec in SPECS:
        assert isinstance(spec, PolicySpec)
        module, _, attribute = spec.build.partition(":")
        build = getattr(importlib.import_module(module), attribute)
        defaults = {p.name: p.default for p in spec.parameters}
        assert all(p.help for p in spec.parameters)
        if spec.name == "surgical":
            continue
        assert isinstance(build(**defaults), FreezePolicy)
        assert build(**defaults) == build(), "the spec's defaults are not those of the code"


def test_policies_need_no_torch():
    code = "import sys, medtl_monai.builtin.policies, medtl_monai.builtin.freezing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("policy", "stages"), list(itertools.product(BUILT, LISTS)))
def test_every_policy_on_every_stage_list(policy, stages):
    infos = LISTS[stages]
    if (policy, stages) == ("bitfit", "norms-only"):
        with pytest.raises(PolicyError, match="has biases"):
            ask(BUILT[policy], infos)
        return
    for epoch in range(10):
        rules = BUILT[policy](At(epoch=epoch, epochs=10), infos)
        assert set(rules) <= {s.name for s in infos}
        assert rules == BUILT[policy](At(epoch=epoch, epochs=10), infos)
        for info in infos:
            rule = rules.get(info.name, FROZEN)
            assert rule.params in ("all", "none") or rule.params in info.kinds
            if info.role == "head" or not info.pretrained:
                assert rule == Rule(), "what received no weights trains like the head"


@pytest.mark.parametrize("policy", [name for name in BUILT if name != "full"])
def test_without_weights_there_is_nothing_to_keep(policy):
    random = (*(stage(name, pretrained=False) for name in NAMES), stage("decoder", "neck"), HEAD)
    with pytest.raises(PolicyError, match="no backbone stage received weights") as caught:
        ask(BUILT[policy], random)
    assert caught.value.where == policy
    assert "--policy full" in caught.value.mend
    assert "allow_random_frozen" in caught.value.mend


def test_full_trains_everything_with_or_without_weights():
    assert training(freezing.full(), LISTS["plain"]) == [*NAMES, "head"]
    random = (*(stage(name, pretrained=False) for name in NAMES), HEAD)
    assert training(freezing.full(), random) == [*NAMES, "head"]
    assert ask(freezing.full(lr=0.1), LISTS["fresh-neck"])["stem"] == Rule(lr=0.1)
    assert ask(freezing.full(lr=0.1), LISTS["fresh-neck"])["decoder"] == Rule()


def test_linear_probe_trains_the_head_and_what_is_new():
    probe = freezing.linear_probe()
    assert training(probe, LISTS["plain"]) == ["head"]
    assert training(probe, LISTS["fresh-neck"]) == ["decoder", "head"]
    assert training(probe, LISTS["loaded-neck"]) == ["head"]
    assert training(probe, LISTS["fresh-top"]) == ["top", "head"]


def test_last_n_counts_what_received_weights():
    assert training(freezing.last_n(n=1), LISTS["plain"]) == ["top", "head"]
    assert training(freezing.last_n(n=2), LISTS["plain"]) == ["mid", "top", "head"]
    assert training(freezing.last_n(n=1), LISTS["fresh-neck"]) == ["top", "decoder", "head"]
    assert training(freezing.last_n(n=1), LISTS["loaded-neck"]) == ["decoder", "head"]
    assert training(freezing.last_n(n=1), LISTS["fresh-top"]) == ["mid", "top", "head"]
    with pytest.raises(PolicyError, match="n=5, but 4 stages received weights"):
        ask(freezing.last_n(n=5), LISTS["plain"])


def test_gradual_thaws_a_stage_at_a_time_from_the_top():
    policy = freezing.gradual(every=2, lr=0.5)
    sizes = [len(training(policy, LISTS["plain"], epoch)) - 1 for epoch in range(10)]
    assert sizes == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert training(policy, LISTS["plain"], 2) == ["top", "head"]
    assert ask(policy, LISTS["plain"], 9)["stem"] == Rule(lr=0.5)
    assert ask(policy, LISTS["plain"], 9)["head"] == Rule()


def test_gradual_on_plateau_thaws_when_the_metric_stalls():
    policy = freezing.gradual_on_plateau(lr=0.5)
    rules = [policy(At(epoch=9, epochs=10, plateaus=n), LISTS["plain"]) for n in range(6)]
    assert [len(r) - 1 for r in rules] == [0, 1, 2, 3, 4, 4]
    assert rules[1]["top"] == Rule(lr=0.5)
    assert rules[1]["head"] == Rule()
    assert policy(At(epoch=0, epochs=10, plateaus=1), LISTS["plain"]) == rules[1], "epochs do not matter"


def test_lp_ft_probes_then_tunes_slowly():
    policy = freezing.lp_ft(probe=0.3, lr=0.1)
    assert [len(training(policy, LISTS["plain"], epoch)) for epoch in range(10)] == [1] * 3 + [5] * 7
    assert ask(policy, LISTS["plain"], 3)["top"] == Rule(lr=0.1)
    assert ask(policy, LISTS["plain"], 3)["head"] == Rule()
    layered = ask(freezing.lp_ft(lr=0.1, decay=0.5), LISTS["plain"], 9)
    assert [layered[name].lr for name in (*NAMES, "head")] == pytest.approx([0.00625, 0.0125, 0.025, 0.05, 1])


def test_lp_ft_gives_each_part_an_epoch():
    policy = freezing.lp_ft(probe=0.01)
    assert [len(training(policy, LISTS["plain"], epoch, 2)) for epoch in range(2)] == [1, 5]


def test_llrd_falls_from_the_head_down():
    rules = ask(freezing.llrd(decay=0.5), LISTS["plain"])
    assert [rules[name].lr for name in (*NAMES, "head")] == [0.0625, 0.125, 0.25, 0.5, 1]


def test_norm_only_and_bitfit_choose_parameters_and_statistics():
    assert ask(freezing.norm_only(), LISTS["plain"])["low"] == Rule(params="norm", norm="live")
    assert ask(freezing.bitfit(), LISTS["plain"])["low"] == Rule(params="bias", norm="eval")
    bare = (stage("stem", kinds=frozenset({"all"})), *BODY[1:], HEAD)
    assert training(freezing.norm_only(), bare) == ["low", "mid", "top", "head"]
    with pytest.raises(PolicyError, match="no stage with weights has normalisation parameters"):
        ask(freezing.norm_only(), (stage("stem", kinds=frozenset({"all"})), HEAD))


def test_l2_sp_anchors_what_received_weights():
    rules = ask(freezing.l2_sp(anchor=0.3), LISTS["fresh-neck"])
    assert [rule.anchor for rule in rules.values()] == [0.3] * 4 + [0, 0]


def test_surgical_trains_the_named_stages():
    assert training(freezing.surgical(stages=("low",)), LISTS["plain"]) == ["low", "head"]
    assert freezing.surgical(stages="low+mid") == freezing.surgical(stages=("low", "mid"))
    with pytest.raises(PolicyError, match="no stage 'lo'") as caught:
        ask(freezing.surgical(stages=("lo",)), LISTS["plain"])
    assert "Did you mean 'low'" in caught.value.mend


@pytest.mark.parametrize(
    ("build", "options", "what"),
    [
        (freezing.last_n, {"n": 0}, "n=0"),
        (freezing.gradual, {"every": 0}, "every=0"),
        (freezing.gradual, {"lr": -1.0}, "lr=-1.0"),
        (freezing.gradual_on_plateau, {"lr": 0.0}, "lr=0.0"),
        (freezing.lp_ft, {"probe": 1.0}, "probe=1.0"),
        (freezing.lp_ft, {"lr": float("nan")}, "lr=nan"),
        (freezing.llrd, {"decay": 0.0}, "decay=0.0"),
        (freezing.llrd, {"decay": 1.5}, "decay=1.5"),
        (freezing.l2_sp, {"anchor": float("inf")}, "anchor=inf"),
        (freezing.full, {"lr": 0.0}, "lr=0.0"),
        (freezing.surgical, {}, "no stages are named"),
    ],
)
def test_senseless_options_are_refused(build, options, what):
    with pytest.raises(PolicyError, match=what) as caught:
        build(**options)
    assert caught.value.where
    assert caught.value.mend

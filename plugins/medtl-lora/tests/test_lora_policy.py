"""The policy: pure values, no torch, and a plugin like any other."""

import subprocess
import sys

import pytest

from medtl_lora.policy import lora
from medtl_monai.errors import ConfigError, PolicyError
from medtl_monai.specs import At, StageInfo
from medtl_monai.transfer.schedule import plan

KINDS = frozenset({"all", "norm", "bias"})
STAGES = (
    *(StageInfo(name=n, role="backbone", pretrained=True, kinds=KINDS) for n in ("stem", "low", "top")),
    StageInfo(name="pool", role="backbone", pretrained=True, kinds=frozenset()),
    StageInfo(name="decoder", role="neck", pretrained=False, kinds=KINDS),
    StageInfo(name="head", role="head", pretrained=False, kinds=frozenset({"all", "bias"})),
)


def rules(policy):
    return {n: r.params for n, r in policy(At(epoch=0, epochs=3), STAGES).items()}


def test_adapters_where_weights_are_and_the_rest_as_usual():
    assert rules(lora()) == {
        "stem": "adapter",
        "low": "adapter",
        "top": "adapter",
        "decoder": "all",
        "head": "all",
    }
    rule = lora(lr=0.5)(At(epoch=0, epochs=3), STAGES)["low"]
    assert (rule.lr, rule.norm) == (0.5, "eval")
    assert dict(rule.adapter.options) == {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ()}


def test_named_stages_only():
    assert rules(lora(stages=("low",))) == {"low": "adapter", "decoder": "all", "head": "all"}
    assert plan(lora(stages=("low",)), STAGES, 3).frozen_prefix(0) == 1


def test_an_unknown_stage_is_suggested():
    with pytest.raises(PolicyError, match="no stage 'lo'") as caught:
        plan(lora(stages=("lo",)), STAGES, 3)
    assert "Did you mean 'low'" in caught.value.mend


def test_a_stage_without_weights_is_refused():
    with pytest.raises(PolicyError, match="'decoder' received no weights"):
        plan(lora(stages=("decoder",)), STAGES, 3)


def test_without_weights_there_is_nothing_to_adapt():
    random = tuple(StageInfo(name=s.name, role=s.role, pretrained=False, kinds=s.kinds) for s in STAGES)
    with pytest.raises(PolicyError, match="no backbone stage received weights"):
        plan(lora(), random, 3)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"lr": -1.0}, "lr=-1.0"),
    ],
)
def test_senseless_options_are_refused(options, what):
    with pytest.raises(PolicyError, match=what) as caught:
        lora(**options)
    assert caught.value.mend


def test_the_host_finds_it_by_its_entry_point(host):
    entry = host.resolve("policy", "lora").entry
    assert entry.qualified == "medtl-lora:lora"
    assert host.plugin("medtl-lora").state == "active"
    assert not host.plugin("medtl-lora").warnings
    built = host.resolve("policy", "lora:rank=4,stages=low+top,targets=*.qkv").build()
    assert built == lora(rank=4, stages=("low", "top"), targets=("*.qkv",))
    defaults = {p.name: p.default for p in entry.spec.parameters}
    assert lora(**defaults) == lora(), "the spec's defaults are not those of the code"
    with pytest.raises(ConfigError, match="unknown option 'r'"):
        host.resolve("policy", "lora:r=4")


def test_naming_it_imports_nothing_heavy():
    code = (
        "import sys, medtl_lora.medtl_plugin, medtl_lora.policy as p; p.lora();"
        "sys.exit(bool({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0

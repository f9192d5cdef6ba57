"""Weights on the networks that ship: what does not fit is refused and explained, what fits arrives bit by bit."""

import pytest
import torch
from helpers_backbones import BY_NAME, build, judge
from helpers_transfer import TinyHead, equal, randomise, snapshot

from medtl_monai.errors import PolicyError, WeightsError
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import Rule
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.schedule import plan
from medtl_monai.transfer.stages import parameter_counts, stage_infos
from medtl_monai.transfer.weights import load_into


class HeadOnly(FreezePolicy):
    """Freezes the whole backbone, whatever it holds."""

    def __call__(self, at, stages):
        return {stage.name: Rule() for stage in stages if stage.role == "head"}


@pytest.fixture(scope="module", params=BY_NAME)
def pair(request):
    """A network, and the state of another one of the same make."""
    name = request.param
    width = BY_NAME[name].stages[-1].channels
    torch.manual_seed(0)
    net = TransferModel(build(name, 1), TinyHead(width=width))
    torch.manual_seed(1)
    return name, net, randomise(build(name, 1), seed=1).state_dict()


def load(net, state, **options):
    return load_into(net, state, source="weights.pt", **options)


def refusal(net, state, **options):
    before = snapshot(net)
    with pytest.raises(WeightsError) as caught:
        load(net, state, **options)
    assert equal(before, snapshot(net)), "a refused file has changed the model"
    return caught.value


@pytest.mark.parametrize("prefix", ["module."])
def test_a_wrong_prefix_is_refused_and_named(pair, prefix):
    _, net, state = pair
    error = refusal(net, {prefix + key: tensor for key, tensor in state.items()})
    assert "0 of " in error.what
    assert f"key_map=(({prefix!r}, ''),) would match" in error.mend
    report = load(net, {prefix + key: tensor for key, tensor in state.items()}, key_map=((prefix, ""),))
    assert report.coverage == 1
    assert equal(net.backbone.state_dict(), state)


def test_an_unpretrained_stage_may_not_be_frozen(pair):
    _, net, state = pair
    last = list(net.backbone.stages)[-1]
    partial = {key: tensor for key, tensor in state.items() if not key.startswith(f"stages.{last}.")}
    assert len(partial) < len(state)
    report = load(net, partial, min_coverage=0.01)
    assert [name for name, whole in report.pretrained.items() if not whole] == [last, "head"]
    infos = stage_infos(net.stages, report.pretrained)
    with pytest.raises(PolicyError, match=f"'{last}' received no weights"):
        plan(HeadOnly(), infos, 2, counts=parameter_counts(net.stages))


def test_shapes_that_differ_are_counted_by_stage(pair):
    _, net, state = pair
    first = next(iter(net.backbone.stages))
    wider = {
        key: torch.cat([tensor, tensor]) if key.startswith(f"stages.{first}.") and tensor.ndim else tensor
        for key, tensor in state.items()
    }
    changed = sum(wider[key] is not state[key] for key in state)
    assert changed > 0
    assert f"{changed} of another shape" in refusal(net, wider).what
    report = load(net, wider, min_coverage=0.01)
    by_name = {stage.name: stage for stage in report.stages}
    assert len(by_name[first].mismatched) == changed
    assert sum(len(stage.mismatched) for stage in report.stages) == changed
    assert not by_name[first].pretrained


@pytest.mark.parametrize("dialect", ["monai", "monai under module."])
def test_two_ways_of_naming_give_the_same_network(pair, dialect):
    name, net, _ = pair
    theirs = judge(name, 1)[0]
    randomise(theirs, seed=5)
    plain = theirs.state_dict()
    reference = build(name, 1)
    report = load(reference, plain)
    assert report.coverage == 1
    assert report.adaptations[0] == "names are read as those of 'monai'"
    state = reference.state_dict()
    if dialect == "monai under module.":
        wrapped = {f"module.{key}": tensor for key, tensor in plain.items()}
        error = refusal(net, wrapped)
        assert "The file's keys are those of 'monai' behind 'module.'" in error.mend
        load(net, wrapped, key_map=(("module.", ""),))
    else:
        load(net, {"own": state, "run": {f"backbone.{k}": v for k, v in state.items()}, "monai": plain}[dialect])
    assert equal(net.backbone.state_dict(), state)
    assert sum(float(tensor.double().std()) > 0 for tensor in state.values() if tensor.numel() > 1) > 4

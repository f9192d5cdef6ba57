import copy

import pytest
import torch
from helpers_transfer import NORMS, STAGES, TinyBackbone, TinyHead, model
from torch import nn

from medtl_monai.errors import SpecError
from medtl_monai.modules import Backbone
from medtl_monai.specs import Rule
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.stages import collect, frozen_statistics, is_norm, parameter_counts, stage_infos


class Own(Backbone):
    """A backbone of given stages."""

    def __init__(self, **stages):
        super().__init__()
        self.stages = nn.ModuleDict(stages)


def by_name(net):
    return {stage.name: stage for stage in net.stages}


def test_order_and_roles():
    stages = model(neck=True).stages
    assert [(s.name, s.role) for s in stages] == [
        *((name, "backbone") for name in STAGES),
        ("decoder", "neck"),
        ("head", "head"),
    ]


def test_every_tensor_is_in_exactly_one_stage():
    net = model(neck=True)
    names = [name for stage in net.stages for name in stage.tensors]
    assert sorted(names) == sorted(net.state_dict())
    parameters = [entry.name for stage in net.stages for entry in stage.parameters]
    assert sorted(parameters) == sorted(name for name, _ in net.named_parameters())


def test_kinds_and_counts():
    stages = by_name(model("batch", neck=True))
    assert stages["low"].counts == {"all": 8 * 8 * 9 + 8 + 16, "norm": 16, "bias": 16}
    assert stages["head"].counts == {"all": 18, "norm": 0, "bias": 2}
    assert stages["head"].kinds == {"all", "bias"}
    assert by_name(model("none"))["low"].kinds == {"all", "bias"}
    assert by_name(model("batch-plain"))["low"].kinds == {"all", "bias"}
    assert parameter_counts(model().stages)["head"] == {"all": 18, "norm": 0, "bias": 2}


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "none"])
def test_norms_of_every_type_are_seen(norm):
    stage = by_name(model(norm))["low"]
    assert [m for m in stage.modules() if is_norm(m)] == [stage.roots[0].norm]
    assert stage.counts["norm"] == sum(p.numel() for p in stage.roots[0].norm.parameters())
    assert stage.keeps_statistics == norm.startswith(("batch", "sync", "instance"))


@pytest.mark.parametrize("module", [nn.Conv2d(1, 1, 1), nn.Linear(2, 2), nn.ReLU(), nn.Dropout(), nn.Embedding(2, 2)])
def test_other_layers_are_no_norms(module):
    assert not is_norm(module)


def test_a_block_named_after_its_norm_is_no_norm():
    class ConvNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.weight = nn.Parameter(torch.ones(3))

    class NormedLinear(nn.Linear):
        pass

    assert not is_norm(ConvNorm())
    assert not is_norm(NormedLinear(2, 2))


def test_decay_leaves_out_biases_norms_and_vectors():
    stage = by_name(model("own"))["low"]
    assert {p.name.rpartition(".")[2]: p.decays for p in stage.parameters if "conv" in p.name} == {
        "weight": True,
        "bias": False,
    }
    assert not any(p.decays for p in stage.parameters if p.norm)


def test_a_weight_tied_within_a_stage_counts_once():
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    net = TransferModel(Own(low=nn.Sequential(first, second)), TinyHead())
    assert net.stages[0].counts["all"] == 64 + 8 + 8


def test_a_weight_tied_across_stages_is_refused():
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    with pytest.raises(SpecError, match=r"'low' and 'top' share a tensor of shape \(8, 8, 1, 1\)"):
        collect(Own(low=first, top=second), TinyHead())


@pytest.mark.parametrize("shared", [nn.Dropout(), nn.BatchNorm2d(8, affine=False, track_running_stats=False)])
def test_a_layer_with_two_modes_shared_by_stages_is_refused(shared):
    with pytest.raises(SpecError, match="share one"):
        collect(Own(low=nn.Sequential(nn.Conv2d(1, 8, 1), shared), top=nn.Sequential(shared)), TinyHead())


def test_an_activation_may_be_shared():
    act = nn.ReLU()
    assert len(collect(Own(low=nn.Sequential(act), top=nn.Sequential(act)), TinyHead())) == 3


def test_a_parameter_outside_the_stages_is_refused():
    backbone = TinyBackbone()
    backbone.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(SpecError, match="belongs to no stage") as caught:
        collect(backbone, TinyHead())
    assert caught.value.where == "backbone.scale"


def test_a_buffer_outside_the_stages_is_refused_unless_it_is_not_stored():
    backbone = TinyBackbone()
    backbone.register_buffer("grid", torch.ones(1), persistent=False)
    collect(backbone, TinyHead())
    backbone.register_buffer("mean", torch.ones(1))
    with pytest.raises(SpecError, match=r"backbone\.mean"):
        collect(backbone, TinyHead())


def test_a_backbone_stage_called_head_is_refused():
    with pytest.raises(SpecError, match="called 'head'"):
        collect(Own(head=nn.Conv2d(1, 8, 1)), TinyHead())


def test_necks_with_taken_names_are_renamed():
    head = TinyHead()
    head.necks["low"] = nn.Linear(8, 8)
    head.necks["head"] = nn.Linear(8, 8)
    stages = collect(TinyBackbone(), head)
    assert [s.name for s in stages] == [*STAGES, "necks.low", "necks.head", "head"]
    assert stages[4].tensors == ("head.necks.low.weight", "head.necks.low.bias")


def test_parameters_of_the_head_itself_belong_to_it():
    head = TinyHead(neck=True)
    head.temperature = nn.Parameter(torch.ones(()))
    stage = collect(TinyBackbone(), head)[-1]
    assert [p.name for p in stage.parameters] == ["head.temperature", "head.out.weight", "head.out.bias"]


def test_modes():
    net = model("batch", drop=True, neck=True)
    stages = by_name(net)
    net.train()
    stages["low"].set_mode(False)
    assert not any(m.training for m in stages["low"].modules())
    assert all(m.training for m in stages["mid"].modules())
    stages["low"].set_mode(True, norm="eval")
    assert [type(m).__name__ for m in stages["low"].modules() if not m.training] == ["BatchNorm2d"]
    stages["head"].set_mode(False)
    assert not net.head.training
    assert all(m.training for m in stages["decoder"].modules()), "the neck is a stage of its own"


def test_infos_tell_what_was_measured():
    net = model("batch", neck=True)
    infos = {i.name: i for i in stage_infos(net.stages, {"low": True, "decoder": True})}
    assert [name for name, info in infos.items() if info.pretrained] == ["low", "decoder"]
    assert not any(i.pretrained for i in stage_infos(net.stages))


def test_a_stage_without_tensors_lacks_no_weights():
    stages = collect(Own(low=nn.Conv2d(1, 8, 1), pool=nn.MaxPool2d(2)), TinyHead())
    infos = stage_infos(stages)
    assert [(i.name, i.pretrained, i.kinds) for i in infos][1] == ("pool", True, frozenset())


def test_stages_of_a_copy_are_the_copys_own():
    net = model("batch", neck=True)
    other = copy.deepcopy(net)
    owned = {id(p) for p in other.parameters()}
    assert all(id(p.parameter) in owned for s in other.stages for p in s.parameters)
    assert all(m in set(other.modules()) for s in other.stages for m in s.modules())


@pytest.mark.parametrize(
    ("rule", "frozen"),
    [
        (Rule(), False),
        (Rule(params="norm"), False),
        (Rule(params="bias"), True),
        (Rule(norm="eval"), True),
        (Rule(params="none"), True),
    ],
)
def test_frozen_statistics(rule, frozen):
    assert frozen_statistics(rule) is frozen

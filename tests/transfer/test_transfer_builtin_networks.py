"""Freezing on the networks that ship, not only on small ones made for the tests."""

import importlib

import pytest
import torch
from helpers_transfer import POLICIES, TinyHead, assert_still, batches, fit_monai, randomise, snapshot, still, table

from medtl_monai.builtin import freezing
from medtl_monai.builtin.backbones import SPECS
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.model import TransferModel

BY_NAME = {spec.name: spec for spec in SPECS}
SMALL = ("resnet10-2d", "efficientnet-b0-2d", "segresnet-2d", "unet-2d", "dynunet-2d", "swinunetr-2d", "resnet10-3d")


def network(name):
    spec = BY_NAME[name]
    module, _, attribute = spec.build.partition(":")
    backbone = getattr(importlib.import_module(module), attribute)(1)
    return TransferModel(backbone, TinyHead(width=spec.stages[-1].channels))


def policy_for(policy, net):
    if policy == "surgical":
        return freezing.surgical(stages=(net.stages[1].name,))
    return POLICIES[policy]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_policy_trains_what_it_declares_on_every_backbone(name):
    # Without memory where the network allows it: MONAI's Swin asks a tensor for its value.
    with torch.device("cpu" if name.startswith("swin") else "meta"):
        net = network(name)
    for policy in POLICIES:
        rows = table(net, policy_for(policy, net), epochs=12).summary()
        assert all((row["parameters"] > 0) == (row["trains"] != "none") for row in rows), policy
        assert sum(row["parameters"] for row in rows if row["role"] == "backbone") > 0 or policy == "linear-probe"


@pytest.mark.parametrize("policy", ["linear-probe", "last-n", "norm-only", "bitfit", "surgical"])
@pytest.mark.parametrize("name", SMALL)
def test_frozen_tensors_are_bitwise_still_under_monai(name, policy):
    torch.manual_seed(0)
    net = randomise(network(name))
    dims = BY_NAME[name].input.spatial_dims
    freezer = Freezer(net, table(net, policy_for(policy, net), epochs=1))
    before = snapshot(net)
    fit_monai(net, freezer, batches(n=2, size=2, shape=(32,) * dims), lr=1e-3)
    fixed, moving = still(net, freezer.row)
    assert len(fixed) >= 10
    assert_still(before, snapshot(net), fixed, moving)


@pytest.mark.parametrize("name", SMALL)
def test_frozen_features_are_those_of_eval_mode(name):
    torch.manual_seed(0)
    net = randomise(network(name))
    dims = BY_NAME[name].input.spatial_dims
    x, a, b = (batch.image for batch in batches(n=3, size=1, shape=(32,) * dims))
    Freezer(net, table(net, "linear-probe")).apply(0)
    net.eval()
    expected = net.backbone(torch.cat([x, a]))
    net.train()
    again, other = net.backbone(torch.cat([x, a])), net.backbone(torch.cat([x, b]))
    assert all(torch.equal(e, f) for e, f in zip(expected, again, strict=True))
    assert all(torch.equal(e[0], f[0]) for e, f in zip(expected, other, strict=True))
    assert all(e.std() > 0 for e in expected)
    assert not torch.equal(expected[-1][1], other[-1][1])

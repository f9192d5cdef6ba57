"""Every kind of built-in backbone: adapters in every stage, and merged weights that compute the same."""

import pytest
import torch
from helpers_transfer import randomise
from torch import nn

from medtl_lora.layers import LoraLayer
from medtl_lora.policy import lora
from medtl_monai.host import Host
from medtl_monai.modules import Batch
from medtl_monai.specs import HeadContext, TargetInfo
from medtl_monai.training.preview import preview
from medtl_monai.transfer.adapters import adapt, adapters, merge, merged_state
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.schedule import plan
from medtl_monai.transfer.stages import stage_infos

HOST = Host.load(environ={"MEDTL_PLUGINS": ""})
BACKBONES = ("resnet10-3d", "densenet121-2d", "efficientnet-b0-2d", "swinunetr-2d", "segresnet-2d", "unet-3d")


def build(name):
    torch.manual_seed(0)
    choice = HOST.resolve("backbone", name)
    spec = choice.spec
    dims = spec.input.spatial_dims
    context = HeadContext(
        stages=spec.stages,
        spatial_dims=dims,
        target=TargetInfo(kind="class", columns=("x",), classes=("a", "b"), counts=(2, 2), cases=4),
    )
    net = TransferModel(choice.build(in_channels=1), HOST.resolve("head", "classification").build(context))
    size = (64,) * 2 if dims == 2 else (32,) * 3
    images = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    randomise(net)  # fresh statistics let the features of a deep network die
    return net, Batch(image=images, spatial_size=size, target=torch.tensor([0, 1]))


def adapted(net, **options):
    infos = stage_infos(net.stages, {s.name: s.role == "backbone" for s in net.stages})
    table = adapt(net, plan(lora(**options), infos, 2))
    freezer = Freezer(net, table)
    freezer.apply(0)
    return freezer


def outputs(net, batch):
    net.eval()
    with torch.no_grad():
        return net(batch)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_stage_adapts_and_merges(name):
    net, batch = build(name)
    keys, before = set(net.state_dict()), outputs(net, batch)
    freezer = adapted(net, rank=2)
    assert torch.equal(outputs(net, batch), before), "it starts as the plain model"
    assert {s.name for s in net.stages if s.select("adapter")} == {
        s.name for s in net.stages if s.role == "backbone" and s.parameters
    }
    for layer in adapters(net).values():
        # As large as the layer's own weight allows without blowing the features up.
        nn.init.normal_(layer.up.weight, std=0.2 * float(layer.base.weight.std()))

    net.train()
    net.head.loss(net(batch), batch).backward()
    gradients = {n: p.grad for n, p in net.named_parameters()}
    assert {n for n, g in gradients.items() if g is not None} == {
        n for n in gradients if ".down." in n or ".up." in n or n.startswith("head.")
    }
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
    first = next(n for n in gradients if ".up." in n)
    assert gradients[first].abs().max() > 0, "the gradient reaches the first stage"
    assert freezer.table.frozen_prefix(0) == 0

    after = outputs(net, batch)
    assert (after - before).abs().max() > 1e-4
    assert set(merged_state(net)) == keys
    merge(net)
    assert set(net.state_dict()) == keys
    assert torch.allclose(outputs(net, batch), after, atol=1e-5 * max(1, float(after.abs().max())), rtol=0)


def test_depthwise_convolutions_are_left_alone():
    net, _ = build("efficientnet-b0-2d")
    adapted(net)
    grouped = [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped
    assert not {id(m) for m in grouped} & {id(a.base) for a in adapters(net).values()}
    assert all(isinstance(a, LoraLayer) for a in adapters(net).values())


def test_targets_reach_attention_only():
    net, _ = build("swinunetr-2d")
    adapted(net, stages=("layer3",), targets=("qkv",))
    assert adapters(net)
    assert all(name.startswith("backbone.stages.layer3.") and name.endswith(".qkv") for name in adapters(net))


def test_the_preview_counts_the_additions(host):
    table = preview(host, "lora:rank=4", backbone="resnet10-3d", head="classification", epochs=3)
    rows = {row["stage"]: row for row in table.summary()}
    # 7×7×7 from 1 channel to 4, and 1×1×1 from 4 to 64.
    assert rows["stem"]["parameters"] == 4 * 343 + 4 * 64
    assert not any(row["cacheable"] for row in rows.values())
    double = preview(host, "lora:rank=8 * llrd", backbone="resnet10-3d", head="classification", epochs=3).summary()
    assert double[0]["parameters"] == 2 * rows["stem"]["parameters"]
    assert [row["lr"] for row in double] == pytest.approx([0.75**5, 0.75**4, 0.75**3, 0.75**2, 0.75, 1])

"""What one batch tells: what stages cost, and whether the head can do without images."""

import pytest
import torch
from helpers_transfer import TinyBackbone, TinyHead, batches, randomise

from medtl_monai.modules import Prediction
from medtl_monai.specs import FROZEN, Rule
from medtl_monai.training.prefix_probe import made_from, probe_prefix
from medtl_monai.training.tuning import Tuning
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.packing import Packing


def network(head=None, frozen=4, **options):
    torch.manual_seed(0)
    net = randomise(TransferModel(TinyBackbone(**options), head or TinyHead()))
    net.set_rules({s.name: FROZEN if n < frozen else Rule() for n, s in enumerate(net.stages)})
    return net.train()


class Peeking(TinyHead):
    def __init__(self, where, how):
        super().__init__()
        self.where, self.how = where, how

    def forward(self, features, batch):
        extra = self.how(batch) if self.where == "forward" else 0
        return super().forward(features, batch) + extra

    def loss(self, output, batch):
        extra = self.how(batch) if self.where == "loss" else 0
        return super().loss(output, batch) + extra

    def predict(self, output, batch):
        extra = self.how(batch) if self.where == "predict" else 0
        return Prediction(probabilities=output.softmax(1) + extra)


@pytest.mark.parametrize("where", ["forward", "loss", "predict"])
@pytest.mark.parametrize(
    ("how", "objects"),
    [
        (lambda batch: batch.image.mean(), True),
        (lambda batch: float(batch.image.max()), True),
        (lambda batch: 0.0 if batch.image.is_meta else 1.0, True),
        (lambda batch: batch.image.shape[0] / 100, False),
        (lambda batch: batch.spatial_size[0] / 100, False),
    ],
)
def test_heads_that_look_at_images(where, how, objects):
    probe = probe_prefix(network(Peeking(where, how)), batches(size=2)[0])
    assert bool(probe.objection) == objects, probe.objection


def test_what_is_measured_and_that_nothing_is_touched():
    net, batch = network(frozen=3, norm="batch", drop=True), batches(size=2)[0]
    before = {n: t.clone() for n, t in net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    probe = probe_prefix(net, batch)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert net.training
    assert not net.backbone.stages["mid"].training
    measured = probe.measured
    assert measured.states == measured.taps == (8 * 8 * 8 * 4,) * 3
    assert measured.shared == (True, True, True)
    assert (measured.needed, measured.stages, measured.extra) == (frozenset({3}), 4, 0)
    assert all(second > 0 for second in measured.seconds)
    net(batch)
    assert not all(torch.equal(before[n], t) for n, t in net.state_dict().items()), "training would have moved them"


def fingerprint(net, **tuning):
    batch = batches(size=2)[0]
    packing = Packing.plan(2, stages=4, needed=frozenset({3}), shared=True)
    return made_from(net, packing, probe_prefix(net, batch).layouts_of(packing), Tuning(**tuning), batch)


def test_what_features_are_made_from():
    base = fingerprint(network())
    assert base == fingerprint(network())
    other = network()
    with torch.no_grad():
        other.backbone.stages["low"].conv.weight[0, 0, 0, 0] += 1e-6
    assert fingerprint(other) != base
    above = network()
    with torch.no_grad():
        above.backbone.stages["mid"].conv.weight += 1
    assert fingerprint(above) == base, "stages above are not what features are made from"
    assert fingerprint(network(), channels_last=True) != base


def test_changed_code_of_a_network_is_noticed(monkeypatch):
    base = fingerprint(network())
    net = network()
    net.backbone.stages["low"].act.negative_slope = 0.2  # in no tensor
    assert fingerprint(net) != base

"""Around the loop: pitfalls 24 (a batch of one) and 27 (patience across phases), and that each goes red."""

from types import SimpleNamespace

import pytest
import torch
from helpers_transfer import BUILTINS, Batch, build, fit, make_optimizer, start

from medtl_monai.data import loader
from medtl_monai.data.loader import EpochSampler
from medtl_monai.training.checkpoint import Progress
from medtl_monai.training.fit import Fit

# 24: a remainder of one


def check_24(net_name, policy="full", size=2):
    """Train on ``k * size + 1`` cases, batched as the training loader does."""
    net, data = build(net_name)
    images = torch.cat([batch.image for batch in data])[: 2 * size + 1]
    batches = [[draw.case for draw in draws] for draws in EpochSampler(len(images), size)]
    assert sorted(case for batch in batches for case in batch) == list(range(len(images)))
    made = [
        Batch(image=images[b], spatial_size=tuple(images.shape[2:]), target=torch.arange(len(b)) % 2) for b in batches
    ]
    freezer = start(net, policy, epochs=1)
    before = net.head.out.weight.detach().clone()
    fit(net, freezer, made, make_optimizer(freezer))
    assert not torch.equal(before, net.head.out.weight)
    assert torch.isfinite(net.head.out.weight).all()
    return [len(batch) for batch in batches]


@pytest.mark.parametrize("net", BUILTINS)
def test_pitfall_24_a_remainder_of_one_trains(net):
    assert check_24(net) == [2, 3]


def test_pitfall_24_a_frozen_norm_takes_a_batch_of_one():
    net, data = build("resnet10-2d")
    one = Batch(image=data[0].image[:1], spatial_size=data[0].spatial_size, target=torch.tensor([1]))
    freezer = start(net, "linear-probe", epochs=1)
    fit(net, freezer, [one], make_optimizer(freezer))
    freezer = start(net, "full", epochs=1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fit(net, freezer, [one], make_optimizer(freezer))


def test_pitfall_24_goes_red(monkeypatch):
    monkeypatch.setattr(
        loader, "_batches", lambda n, size: [range(start, min(start + size, n)) for start in range(0, n, size)]
    )
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        check_24("resnet10-2d")


# 27: patience


def judged(values, *, phases, patience=4, resets=True):
    """Judge a scripted metric curve until patience runs out; return the counters."""
    fit_like = SimpleNamespace(
        progress=Progress(),
        evaluator=object(),
        key="auc",
        metrics={"auc": SimpleNamespace(mode="max")},
        config=SimpleNamespace(patience=patience),
    )
    for epoch, value in enumerate(values):
        fit_like._phase_starts = lambda: phases if resets else {0}
        Fit._judge(fit_like, epoch, value, 0.5)
        fit_like.progress.epoch = epoch + 1
        fit_like._phase_starts = lambda: phases
        if Fit._out_of_patience(fit_like):
            break
    return fit_like.progress


CURVE = [0.8, 0.7, 0.7, 0.7, 0.6, 0.7, 0.75, 0.9, 0.7, 0.7, 0.7, 0.7]
"""The best of the first phase is worse than the best of the second, which starts at epoch 4 below it."""


def check_27(**options):
    progress = judged(CURVE, phases={0, 4}, **options)
    assert (progress.best_epoch, progress.best_value) == (7, 0.9), "the second phase had no time"
    assert progress.epoch == 12, "it stops when the last phase stalls"
    # The best epoch of an earlier phase stays the best where the later one never reaches it.
    progress = judged([0.95, *CURVE[1:]], phases={0, 4}, **options)
    assert (progress.best_epoch, progress.epoch) == (0, 8)


def test_pitfall_27_patience_is_of_a_phase_and_best_of_the_run():
    check_27()


def test_pitfall_27_goes_red():
    with pytest.raises(AssertionError, match="no time"):
        check_27(resets=False)

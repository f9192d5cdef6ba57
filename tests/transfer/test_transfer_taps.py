"""Which taps a head looks at is found out; the others cannot be used unnoticed."""

import pytest
import torch
from helpers_transfer import TinyHead, batches
from torch import nn

from medtl_monai.errors import RunError
from medtl_monai.transfer.taps import needed_taps, not_kept


class Looking(TinyHead):
    """Looks at taps as it is told, and draws and counts as heads do."""

    def __init__(self, look):
        super().__init__(width=8)
        self.look = look
        self.norm = nn.BatchNorm2d(8)

    def forward(self, features, batch):
        x = self.look(self, features)
        return self.out(nn.functional.dropout(self.norm(x), training=self.training).flatten(2).mean(2))


TAPS = [torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(4)]
WAYS = {
    "the last": (lambda head, f: f[-1], {3}),
    "a slice": (lambda head, f: f[-2:][0], {2, 3}),
    "all": (lambda head, f: sum(f), {0, 1, 2, 3}),
    "unpacked": (lambda head, f: [*f][1], {0, 1, 2, 3}),
    "backwards": (lambda head, f: next(reversed(f)), {0, 1, 2, 3}),
    "popped": (lambda head, f: f.copy().pop(), {0, 1, 2, 3}),
    "a shape": (lambda head, f: f[2] * f[0].shape[1], {0, 2}),
    "in training only": (lambda head, f: f[3] + f[1] if head.training else f[3], {1, 3}),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_head_looks_at(way):
    look, expected = WAYS[way]
    assert needed_taps(Looking(look), TAPS, batches(size=4)[0]) == expected


def test_watching_leaves_no_trace():
    head = Looking(WAYS["the last"][0]).train()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    needed_taps(head, TAPS, batches(size=4)[0])
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
    assert head.training
    head(TAPS, None)
    assert not torch.equal(before["norm.running_mean"], head.norm.running_mean), "the head does count"


@pytest.mark.parametrize(
    "use",
    [
        lambda tap: torch.cat([TAPS[0], tap]),
        lambda tap: tap.shape,
        lambda tap: tap + 1,
        lambda tap: TAPS[0] + tap,
        lambda tap: tap[0],
        lambda tap: nn.functional.relu(tap),
        lambda tap: nn.Conv2d(8, 1, 1)(tap),
        lambda tap: bool(tap),
    ],
)
def test_a_tap_that_was_not_kept_cannot_be_used(use):
    with pytest.raises(RunError, match=r"tap 2.*--no-prefix-cache"):
        use(not_kept(2))

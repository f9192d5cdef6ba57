"""Small contexts, features and a training loop for tests of heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medtl_monai.modules import Batch, Head
from medtl_monai.specs import HeadContext, Stage, TargetInfo


def stages(*strides: tuple[int, ...], channels: tuple[int, ...] = ()) -> tuple[Stage, ...]:
    channels = channels or tuple(8 * 2**i for i in range(len(strides)))
    return tuple(
        Stage(name=f"s{i}", channels=c, stride=s) for i, (c, s) in enumerate(zip(channels, strides, strict=True))
    )


PYRAMID = stages((2, 2, 2), (4, 4, 4), channels=(6, 10))


def context(target: TargetInfo, pyramid: tuple[Stage, ...] = PYRAMID) -> HeadContext:
    return HeadContext(stages=pyramid, spatial_dims=len(pyramid[0].stride), target=target)


def batch_of(target: Tensor | None, size: tuple[int, ...] = (8, 8, 8)) -> Batch:
    """Make a batch whose image holds nothing: a head must not look at it."""
    count = 1 if target is None else len(target)
    image = torch.full((count, 1, *(1 for _ in size)), float("nan"))
    return Batch(image=image, spatial_size=size, target=target)


def vector_features(signal: Tensor, *, noise: float = 0.5, seed: int = 0) -> list[Tensor]:
    """Make taps of PYRAMID whose first deep channels carry ``signal [N, K]`` in their mean."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.randn(len(signal), 6, 4, 4, 4, generator=generator)
    deep = noise * torch.randn(len(signal), 10, 2, 2, 2, generator=generator)
    deep[:, : signal.shape[1]] += signal[:, :, None, None, None]
    return [fine, deep]


def train(head: Head, features: list[Tensor], batch: Batch, *, steps: int = 60, lr: float = 0.05) -> list[float]:
    """Train on one batch; every gradient must be finite and some not zero."""
    head.train()
    optimizer = torch.optim.Adam(head.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.loss(head(features, batch), batch)
        loss.backward()
        gradients = [p.grad for p in head.parameters()]
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        assert any(bool(g.any()) for g in gradients if g is not None)
        optimizer.step()
        losses.append(loss.item())
    head.eval()
    return losses


def scores(head: Head, features: list[Tensor], batch: Batch, *, parts: int = 2) -> dict[str, Tensor]:
    """Feed every metric part by part, and return what each aggregates to."""
    results = {}
    for name, metric in head.metrics().items():
        for index in torch.arange(len(features[0])).chunk(parts):
            part = Batch(image=batch.image, spatial_size=batch.spatial_size, target=batch.labels()[index])
            with torch.no_grad():
                prediction = head.predict(head([f[index] for f in features], part), part)
            metric.fn(*metric.inputs(prediction, part))
        results[name] = torch.as_tensor(metric.fn.aggregate())
    return results


def round_trip(build: Callable[[], Head], head: Head, features: list[Tensor], batch: Batch) -> None:
    """Check that a fresh head with other weights gives the same output once it has the state of ``head``."""
    fresh = build().eval()
    head.eval()
    expected = head(features, batch)
    assert not torch.allclose(fresh(features, batch), expected)
    fresh.load_state_dict(head.state_dict(), strict=True)
    assert torch.equal(fresh(features, batch), expected)
    assert expected.std() > 0

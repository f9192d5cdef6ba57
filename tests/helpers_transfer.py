"""Small backbones, a head with a neck, policies and training loops for the tests of transfer."""

from __future__ import annotations

import copy
import functools

import helpers_backbones
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from medtl_monai.builtin import freezing
from medtl_monai.config import TrainingConfig
from medtl_monai.modules import Backbone, Batch, Head, Metric, Prediction
from medtl_monai.training.fit import make_optimizer as engine_optimizer
from medtl_monai.transfer.freeze import Freezer
from medtl_monai.transfer.lr import schedule_factor
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.schedule import plan
from medtl_monai.transfer.stages import frozen_statistics, parameter_counts, stage_infos

WIDTH = 8
STAGES = ("stem", "low", "mid", "top")


class DropPath(nn.Module):
    """Stochastic depth as networks define it for themselves: a module of no known type."""

    def forward(self, x):
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1)) < 0.5
        return x * keep / 0.5


class ChannelNorm(nn.Module):
    """A normalisation layer of no known type, with scales of shape [C, 1, 1]."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()
        return self.weight * x + self.bias[:, None, None]


NORMS = {
    "batch": lambda c, d: (nn.BatchNorm2d if d == 2 else nn.BatchNorm3d)(c),
    "batch-plain": lambda c, d: (nn.BatchNorm2d if d == 2 else nn.BatchNorm3d)(c, affine=False),
    "sync": lambda c, d: nn.SyncBatchNorm(c),
    "instance": lambda c, d: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    "instance-plain": lambda c, d: nn.InstanceNorm2d(c, track_running_stats=True),
    "group": lambda c, d: nn.GroupNorm(2, c),
    "group-plain": lambda c, d: nn.GroupNorm(2, c, affine=False),
    "layer": lambda c, d: nn.LayerNorm([c, *[8] * d]),
    "own": lambda c, d: ChannelNorm(c),
    "none": lambda c, d: nn.Identity(),
}


class Block(nn.Module):
    def __init__(self, inputs, norm, dims, drop):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = conv(inputs, WIDTH, 3, padding=1)
        self.norm = NORMS[norm](WIDTH, dims)
        self.act = nn.LeakyReLU(0.1)
        self.drop = nn.Sequential(nn.Dropout(0.3), DropPath()) if drop else nn.Identity()

    def forward(self, x):
        out = self.act(self.norm(self.conv(x)))
        return x + self.drop(out) if x.shape == out.shape else out


class TinyBackbone(Backbone):
    def __init__(self, norm="batch", dims=2, drop=False, in_channels=1, stages=STAGES):
        super().__init__()
        self.stages = nn.ModuleDict(
            {name: Block(WIDTH if i else in_channels, norm, dims, drop) for i, name in enumerate(stages)}
        )


class TinyHead(Head):
    """Two classes from the mean of the last tap; with a neck if asked."""

    def __init__(self, width=WIDTH, neck=False):
        super().__init__()
        if neck:
            self.necks["decoder"] = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh())
        self.out = nn.Linear(width, 2)

    def forward(self, features, batch):
        x = features[-1].flatten(2).mean(2)
        return self.out(self.necks["decoder"](x) if "decoder" in self.necks else x)

    def loss(self, output, batch):
        return nn.functional.cross_entropy(output, batch.labels())

    def predict(self, output, batch):
        return Prediction(probabilities=output.softmax(1), classes=output.argmax(1))

    def metrics(self) -> dict[str, Metric]:
        return {}


POLICIES = {
    "full": freezing.full(),
    "linear-probe": freezing.linear_probe(),
    "last-n": freezing.last_n(n=2),
    "gradual": freezing.gradual(every=1),
    "lp-ft": freezing.lp_ft(probe=0.5),
    "lp-ft-llrd": freezing.lp_ft(probe=0.5, decay=0.5),
    "llrd": freezing.llrd(),
    "norm-only": freezing.norm_only(),
    "bitfit": freezing.bitfit(),
    "l2-sp": freezing.l2_sp(),
    "surgical": freezing.surgical(stages=("low",)),
    "refreeze": freezing.full().then(freezing.linear_probe(), at=0.5),
    "narrow": freezing.full().then(freezing.bitfit(), at=0.5),
}
SHAPES = {2: (8, 8), 3: (8, 8, 8)}


def model(norm="batch", dims=2, drop=False, neck=False, seed=0) -> TransferModel:
    torch.manual_seed(seed)
    return randomise(TransferModel(TinyBackbone(norm, dims, drop), TinyHead(neck=neck)), seed)


def randomise(net, seed=0):
    """Give norms statistics and scales of their own: fresh ones hide what is mixed up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.2, 0.2, generator=generator))
    return net


def weights(net, *, neck=False, but=()):
    """Which stages count as pretrained: the backbone's but those named, and the neck if asked."""
    return {s.name: s.name not in but and (s.role == "backbone" or (neck and s.role == "neck")) for s in net.stages}


def named(policy, net):
    """Return a policy of this name; ``surgical`` names the network's own second stage."""
    return freezing.surgical(stages=(net.stages[1].name,)) if policy == "surgical" else POLICIES[policy]


def table(net, policy, epochs=4, pretrained=None, **options):
    infos = stage_infos(net.stages, weights(net) if pretrained is None else pretrained)
    chosen = named(policy, net) if isinstance(policy, str) else policy
    return plan(chosen, infos, epochs, counts=parameter_counts(net.stages), **options)


def batches(dims=2, n=3, size=4, seed=7, channels=1, shape=None):
    generator = torch.Generator().manual_seed(seed)
    shape = shape or SHAPES[dims]
    return [
        Batch(
            image=torch.randn(size, channels, *shape, generator=generator) * 2 + 0.5,
            spatial_size=shape,
            target=torch.arange(size) % 2,
        )
        for _ in range(n)
    ]


def make_optimizer(freezer, kind="adamw", lr=1e-2, weight_decay=0.1):
    return engine_optimizer(freezer, TrainingConfig(optimizer=kind, lr=lr, weight_decay=weight_decay))


def objective(net, freezer):
    def loss(output, batch):
        value = net.head.loss(output, batch)
        penalty = freezer.penalty()
        return value if penalty is None else value + penalty

    return loss


def fit_monai(net, freezer, data, *, kind="adamw", lr=1e-2, on_epoch=None, on_epoch_end=None, set_to_none=False):
    """Train for the table's epochs on MONAI's trainer, as the host does."""
    optimizer = make_optimizer(freezer, kind, lr)
    epochs, n = freezer.table.epochs, len(data)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=data,
        network=net,
        optimizer=optimizer,
        loss_function=objective(net, freezer),
        prepare_batch=lambda batch, device, non_blocking, **_: (batch, batch),
        inferer=lambda inputs, network: network(inputs),
        optim_set_to_none=set_to_none,
        decollate=False,
    )

    def start_epoch(engine):
        freezer.apply(engine.state.epoch - 1)
        if on_epoch:
            on_epoch(engine.state.epoch - 1)

    def start_step(engine):
        step = engine.state.iteration - 1
        factor = schedule_factor("cosine", step, epochs * n)
        freezer.set_lr(optimizer, lr, factor, step=step % n, steps_per_epoch=n)

    trainer.add_event_handler(Events.EPOCH_STARTED, start_epoch)
    trainer.add_event_handler(Events.ITERATION_STARTED, start_step)
    if on_epoch_end:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: on_epoch_end(engine.state.epoch - 1))
    trainer.run()
    return optimizer


def fit(
    net, freezer, data, optimizer, *, first=0, last=None, lr=1e-2, schedule="cosine", set_to_none=False, on_step=None
):
    """Train epochs ``first`` to ``last`` (exclusive) in a plain loop; dropout is a function of the step alone."""
    epochs, n = freezer.table.epochs, len(data)
    loss = objective(net, freezer)
    for epoch in range(first, epochs if last is None else last):
        freezer.apply(epoch)
        for i, batch in enumerate(data):
            step = epoch * n + i
            torch.manual_seed(step)
            freezer.set_lr(optimizer, lr, schedule_factor(schedule, step, epochs * n), step=i, steps_per_epoch=n)
            net.train()
            optimizer.zero_grad(set_to_none=set_to_none)
            loss(net(batch), batch).backward()
            optimizer.step()
            if on_step:
                on_step(epoch, i)


def snapshot(net):
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def start(net, policy, epochs=4, warmup=0.0, **options):
    return Freezer(net, table(net, policy, epochs, **options), warmup=warmup)


def checkpoint(net, freezer, optimizer):
    state = (net.state_dict(), optimizer.state_dict(), freezer.state_dict(), freezer.anchor_state())
    return copy.deepcopy(state)


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


NETS = {
    "batch-2d": {"norm": "batch"},
    "batch-3d": {"norm": "batch", "dims": 3},
    "instance-drop": {"norm": "instance", "drop": True},
    "group-drop": {"norm": "group", "drop": True},
    "layer-neck": {"norm": "layer", "neck": True},
    "batch-drop-neck": {"norm": "batch", "drop": True, "neck": True},
}


TINY = {
    "resnet": {"features": 8},
    "densenet121": {"features": 8, "growth_rate": 8, "dropout": 0.2},
    "efficientnet-b0": {},
    "segresnet": {"init_filters": 8},
    "unet": {"levels": ("3",), "features": 8, "dropout": 0.1},
    "dynunet": {"levels": ("3",), "features": 8, "dropout": 0.1},
    "swinunetr": {"feature_size": 12, "window_size": 2, "drop_path": 0.5},
}
"""Options that make a built-in backbone small, and random where it can be."""

BUILTINS = tuple(helpers_backbones.BY_NAME)
"""Every built-in backbone."""

DROPPING = tuple(name for name in BUILTINS if not name.startswith(("resnet", "segresnet", "efficientnet")))
"""Those with dropout or stochastic depth in every stage."""


def build(name, seed=0):
    """Return a network and its batches: one of :data:`NETS`, or a small built-in backbone."""
    if name in NETS:
        options = NETS[name]
        return model(**options, seed=seed), batches(options.get("dims", 2))
    dims = helpers_backbones.BY_NAME[name].input.spatial_dims
    side = 32 if dims == 2 or name.startswith("densenet") else 16
    return copy.deepcopy(_builtin(name, seed)), batches(size=2, shape=(side,) * dims)


@functools.cache
def _builtin(name, seed):
    family = next(prefix for prefix in TINY if name.startswith(prefix))
    torch.manual_seed(seed)
    backbone = helpers_backbones.build(name, 1, **TINY[family])
    specs = backbone.stage_specs or helpers_backbones.BY_NAME[name].stages
    return randomise(TransferModel(backbone, TinyHead(width=specs[-1].channels)), seed)


def still(net, rules):
    """Names of the tensors that must not move under these rules, and of the parameters that should."""
    fixed, moving = set(), set()
    for stage in net.stages:
        rule = rules[stage.name]
        chosen = {p.name for p in stage.select(rule.params)}
        moving |= chosen
        buffers = set(stage.tensors) - {p.name for p in stage.parameters}
        fixed |= {p.name for p in stage.parameters} - chosen
        fixed |= buffers if frozen_statistics(rule) else set()
    return fixed, moving


def assert_still(before, after, fixed, moving):
    moved = [name for name in fixed if not torch.equal(before[name], after[name])]
    assert not moved, f"frozen, but moved: {moved}"
    asleep = [name for name in moving if torch.equal(before[name], after[name])]
    assert moving, "nothing was to train"
    # A bias in front of a normalisation layer has no gradient; all the rest must have moved.
    assert len(asleep) <= len(moving) // 2, f"trainable, but unchanged: {asleep}"

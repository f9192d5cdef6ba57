"""An adapter as small as can be, and ways of getting one wrong, for the tests of transfer."""

from __future__ import annotations

import torch
from torch import nn

from medtl_monai.adapters import AdapterSpec
from medtl_monai.modules import Adapter
from medtl_monai.policy import FreezePolicy
from medtl_monai.specs import Rule


class Gain(Adapter):
    """Scales each output channel by ``1 + gain``."""

    def __init__(self, base, start=0.0):
        super().__init__(base)
        self.gain = nn.Parameter(torch.full((base.weight.shape[0],), start))

    def _factor(self, ndim):
        return (1 + self.gain).reshape(-1, *[1] * ndim)

    def forward(self, x):
        y = self.base(x)
        return y * (self._factor(y.ndim - 2) if y.ndim > 2 else 1 + self.gain)

    def merged(self):
        weight = self.base.weight
        tensors = {"weight": weight * self._factor(weight.ndim - 1)}
        return tensors if self.base.bias is None else {**tensors, "bias": self.base.bias * (1 + self.gain)}


def adapt(name, layer, start=0.0, only=""):
    """Adapt every linear and convolution layer, or the one named."""
    fits = isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d)) and only in ("", name)
    return Gain(layer, start) if fits else None


def not_an_adapter(name, layer):
    return nn.Identity()


def another_base(name, layer):
    return Gain(nn.Linear(2, 2))


def failing(name, layer):
    raise RuntimeError("boom")


class Short(Gain):
    def merged(self):
        return {"weight": super().merged()["weight"]}


def short(name, layer):
    return Short(layer) if isinstance(layer, nn.Conv2d) else None


def spec(function="adapt", **options):
    return AdapterSpec(name="gain", build=f"helpers_adapters:{function}", options=tuple(options.items()))


class Adapting(FreezePolicy):
    """Adapters in the named stages (all that received weights by default), the head as usual."""

    def __init__(self, *stages, adapter=None, lr=1.0):
        self.stages = stages
        self.adapter = adapter or spec()
        self.lr = lr

    def __call__(self, at, stages):
        rule = Rule(params="adapter", lr=self.lr, adapter=self.adapter)
        body = self.stages or [s.name for s in stages if s.pretrained and s.kinds]
        fresh = {s.name: Rule() for s in stages if not s.pretrained}
        return fresh | dict.fromkeys(body, rule)

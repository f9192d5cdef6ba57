"""MONAI's own networks and what they say their features are, as judges of the built-in backbones."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from monai.networks.nets import DenseNet121, DynUNet, EfficientNetBN, SegResNet, SwinUNETR, UNet
from monai.networks.nets import resnet as monai_resnet
from monai.networks.nets.efficientnet import EfficientNetBNFeatures
from torch import Tensor, nn

from medtl_monai.builtin.backbones import SPECS
from medtl_monai.builtin.networks.base import LayoutBackbone

BY_NAME = {spec.name: spec for spec in SPECS}
Features = Callable[[Tensor], list[Tensor]]


def build(name, in_channels=2, **options) -> LayoutBackbone:
    module, _, attribute = BY_NAME[name].build.partition(":")
    return getattr(importlib.import_module(module), attribute)(in_channels, **options)


def sizes(name) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The smallest size that is allowed and at least 16, and one that is longer along the first axis."""
    spec = BY_NAME[name].input
    small = tuple(max(16, s) for s in (spec.min_size or spec.divisible_by))
    return small, (small[0] + max(spec.divisible_by[0], 8), *small[1:])


def image(size, seed=0, batch=1, channels=2) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


def perturb(net: nn.Module, x: Tensor, seed=0) -> None:
    """Give every normalisation scales and statistics of its own: fresh ones hide what is mixed up.

    The statistics lie about those of ``x``, as after training: under arbitrary ones, deep features vanish.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for tensor in net.parameters():
            if tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.2, 0.2, generator=generator))
        if norms:
            _take_statistics(net, norms, x)
        for norm in norms:
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.2 * spread * torch.randn(spread.shape, generator=generator)
            norm.running_var *= torch.empty_like(spread).uniform_(0.5, 1.5, generator=generator)
    net.eval()


def _take_statistics(net: nn.Module, norms: list[nn.Module], x: Tensor) -> None:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def to_monai(backbone: LayoutBackbone, net: nn.Module) -> set[str]:
    """Copy the backbone's tensors into MONAI's network; return the keys of the backbone that were copied."""
    own, theirs, copied = backbone.state_dict(), {}, set()
    for key in net.state_dict():
        for old, new in backbone.monai_key_map:
            if key.startswith(old):
                theirs[key] = own[new + key.removeprefix(old)]
                copied.add(new + key.removeprefix(old))
                break
    net.load_state_dict(theirs, strict=False)
    net.eval()
    return copied


def hooked(net: nn.Module, modules: list[nn.Module], into: nn.Module | None = None) -> Features:
    """Features are the outputs of ``modules`` and the input of ``into``; copies, for MONAI works on them in place."""

    def features(x: Tensor) -> list[Tensor]:
        seen: dict[nn.Module, Tensor] = {}
        handles = [m.register_forward_hook(lambda m, _, output: seen.update({m: output.clone()})) for m in modules]
        if into is not None:
            handles.append(into.register_forward_pre_hook(lambda m, args: seen.update({m: args[0].clone()})))
        try:
            net(x)
        finally:
            for handle in handles:
                handle.remove()
        return list(seen.values())

    return features


def resnet(depth, dims, in_channels, **options) -> tuple[nn.Module, Features]:
    factory = getattr(monai_resnet, f"resnet{depth}")
    defaults = {"conv1_t_stride": 2, "bias_downsample": False, "num_classes": 3}
    net = factory(spatial_dims=dims, n_input_channels=in_channels, **(defaults | options))
    return net, lambda x: monai_resnet.ResNetFeatures.forward(net, x)


def densenet121(dims, in_channels, **options) -> tuple[nn.Module, Features]:
    net = DenseNet121(spatial_dims=dims, in_channels=in_channels, out_channels=3, **options)
    parts = dict(net.features.named_children())
    names = ("relu0", "denseblock1", "denseblock2", "denseblock3")
    return net, hooked(net, [parts[name] for name in names], into=net.class_layers.pool)


def efficientnet(dims, in_channels) -> tuple[nn.Module, Features]:
    net = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=dims, in_channels=in_channels)
    last = hooked(net, [], into=net._avg_pooling)
    return net, lambda x: [*EfficientNetBNFeatures.forward(net, x), *last(x)]


def segresnet(dims, in_channels, **options) -> tuple[nn.Module, Features]:
    net = SegResNet(spatial_dims=dims, in_channels=in_channels, **({"init_filters": 16} | options))
    return net, lambda x: net.encode(x)[1]


def unet(dims, in_channels, **options) -> tuple[nn.Module, Features]:
    norm = ("instance", {"affine": True})
    defaults = {"channels": (16, 32, 64, 128, 256), "strides": (1, 2, 2, 2), "num_res_units": 2, "norm": norm}
    net = UNet(spatial_dims=dims, in_channels=in_channels, out_channels=3, **(defaults | options))
    depth = len(net.channels)
    paths = ["model" + ".1.submodule" * i + ".0" for i in range(depth - 1)]
    paths.append("model" + ".1.submodule" * (depth - 1))
    return net, hooked(net, [net.get_submodule(path) for path in paths])


def dynunet(dims, in_channels, **options) -> tuple[nn.Module, Features]:
    strides = options.pop("strides", (1, 2, 2, 2, 2))
    defaults = {"kernel_size": (3,) * len(strides), "strides": strides, "upsample_kernel_size": strides[1:]}
    net = DynUNet(spatial_dims=dims, in_channels=in_channels, out_channels=3, **(defaults | options))
    return net, hooked(net, [net.input_block, *net.downsamples, net.bottleneck])


def swinunetr(dims, in_channels, **options) -> tuple[nn.Module, Features]:
    net = SwinUNETR(spatial_dims=dims, in_channels=in_channels, out_channels=3, **options)
    return net, lambda x: net.swinViT(x, normalize=True)


def judge(name, in_channels=2, **options) -> tuple[nn.Module, Features]:
    """An independently built MONAI network of this name, and its features."""
    family, _, last = name.rpartition("-")
    dims = int(last[0])
    if family.startswith("resnet"):
        return resnet(int(family.removeprefix("resnet")), dims, in_channels, **options)
    makers = {
        "densenet121": densenet121,
        "efficientnet-b0": efficientnet,
        "segresnet": segresnet,
        "unet": unet,
        "dynunet": dynunet,
        "swinunetr": swinunetr,
    }
    return makers[family](dims, in_channels, **options)

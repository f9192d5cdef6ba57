import copy

import pytest
import torch
from torch import nn

from medtl_monai.config import TrainingConfig
from medtl_monai.modules import Backbone, Batch, Head, Prediction
from medtl_monai.training import tuning
from medtl_monai.training.tuning import Tuning, activation_bytes, apply_format, format_batch, keep_fp32, tune
from medtl_monai.transfer.model import TransferModel


class Net(Backbone):
    def __init__(self) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.stages = nn.ModuleDict({"first": first, "second": nn.Conv3d(8, 8, 3, padding=1)})


class Mean(Head):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, features, batch):
        return self.linear(features[-1].mean((2, 3, 4)))

    def loss(self, output, batch):
        return nn.functional.cross_entropy(output, batch.labels())

    def predict(self, output, batch):
        return Prediction(probabilities=output.softmax(1))

    def metrics(self):
        return {}


class WrongInBf16(torch.autograd.Function):
    """The fault of oneDNN: a right value with a wrong weight gradient, in bf16 only."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return nn.functional.conv3d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wrong = torch.randn_like(weight) if torch.is_autocast_enabled("cpu") or grad.dtype == torch.bfloat16 else 1
        right = torch.nn.grad.conv3d_weight(x.float(), weight.shape, grad.float(), padding=1)
        inner = torch.nn.grad.conv3d_input(x.shape, weight.float(), grad.float(), padding=1)
        return inner.to(x.dtype), (right * wrong).to(weight.dtype), grad.sum((0, 2, 3, 4)).to(weight.dtype)


class FaultyConv(nn.Conv3d):
    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            x, weight, bias = x.bfloat16(), self.weight.bfloat16(), self.bias.bfloat16()
            return WrongInBf16.apply(x, weight, bias)
        return WrongInBf16.apply(x, self.weight, self.bias)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TransferModel(Net(), Mean())


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return Batch(image=torch.randn(4, 1, 6, 6, 6), spatial_size=(6, 6, 6), target=torch.tensor([0, 1, 1, 0]))


def test_the_probe_leaves_model_and_random_state_alone(model, batch):
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = tune(model, batch, TrainingConfig())
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert set(result.milliseconds) >= {"fp32", "fp32 channels-last"}
    assert all(ms > 0 for ms in result.milliseconds.values())
    # The probe did run the network: on the model itself a training step moves the statistics.
    model.train()
    model(batch)
    assert not torch.equal(
        before["backbone.stages.first.1.running_mean"], after["backbone.stages.first.1.running_mean"]
    )


def test_what_the_configuration_fixes_is_not_probed(model, batch):
    fixed = TrainingConfig(precision="fp32", channels_last=True)
    assert tune(model, batch, fixed) == Tuning(channels_last=True, threads=torch.get_num_threads())
    off = tune(model, batch, TrainingConfig(tune=False))
    assert off == Tuning(threads=torch.get_num_threads())


def test_a_change_must_pay(model, batch, monkeypatch):
    seconds = {False: 1.0, True: 0.97}
    monkeypatch.setattr(tuning, "step_seconds", lambda m, b, t: seconds[t.channels_last])
    monkeypatch.setattr(tuning, "has_bf16", lambda device: False)
    assert not tune(model, batch, TrainingConfig()).channels_last
    seconds[True] = 0.5
    assert tune(model, batch, TrainingConfig()).channels_last


def test_a_layer_with_a_wrong_bf16_gradient_is_found_and_kept_in_fp32(model, batch):
    assert tuning.unsafe_layers(model, batch, channels_last=False) == ()
    faulty = FaultyConv(8, 8, 3, padding=1)
    faulty.load_state_dict(model.backbone.stages["second"].state_dict())
    model.backbone.stages["second"] = faulty
    found = tuning.unsafe_layers(model, batch, channels_last=False)
    assert found == ("backbone.stages.second",)
    keep_fp32(model, found)
    seen = []
    faulty.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    model.precision = "bf16"
    model(batch)
    assert seen == [torch.float32]
    # A copy computes with its own weights, not with those of the original.
    copied = copy.deepcopy(model)
    nn.init.zeros_(copied.backbone.stages["second"].weight)
    assert not torch.equal(copied(batch), model(batch))


def test_bf16_asked_for_is_probed_for_faults(model, batch, monkeypatch):
    monkeypatch.setattr(tuning, "unsafe_layers", lambda m, b, c: ("backbone.stages.second",))
    result = tune(model, batch, TrainingConfig(precision="bf16", channels_last=False))
    assert result.precision == "bf16"
    assert result.fp32_layers == ("backbone.stages.second",)


def test_the_memory_format_changes_layout_and_not_values(model, batch):
    model.eval()
    plain = model(batch)
    apply_format(model, True, 3)
    formatted = format_batch(batch, True)
    assert formatted.image.is_contiguous(memory_format=torch.channels_last_3d)
    assert model.backbone.stages["second"].weight.is_contiguous(memory_format=torch.channels_last_3d)
    result = model(formatted)
    torch.testing.assert_close(result, plain, rtol=1e-4, atol=1e-5)
    assert plain.std() > 0


def test_it_comes_back_from_json():
    value = Tuning(precision="bf16", channels_last=True, fp32_layers=("a", "b"), threads=2, milliseconds={"fp32": 1.5})
    assert Tuning.from_json(value.to_json()) == value


def test_activations_grow_with_the_image(model, batch):
    small = activation_bytes(model, batch)
    image = torch.randn(4, 1, 12, 12, 12)
    large = activation_bytes(model, Batch(image=image, spatial_size=(12, 12, 12), target=batch.target))
    assert 6 * small < large < 10 * small

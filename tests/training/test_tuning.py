import copy
import time

import pytest
import torch
from torch import nn

from medtl_monai.config import TrainingConfig
from medtl_monai.modules import Backbone, Batch, Head, Prediction
from medtl_monai.training import capacity, tuning
from medtl_monai.training.tuning import Tuning, activation_bytes, apply_format, format_batch, keep_fp32, tune
from medtl_monai.transfer.model import TransferModel


class Net(Backbone):
    def __init__(self, channels=8) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv3d(1, channels, 3, padding=1), nn.BatchNorm3d(channels), nn.ReLU())
        self.stages = nn.ModuleDict({"first": first, "second": nn.Conv3d(channels, channels, 3, padding=1)})


class Mean(Head):
    def __init__(self, channels=8) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2)

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
    now = torch.get_num_threads()
    fixed = TrainingConfig(precision="fp32", channels_last=True, threads=now, workers=3)
    assert tune(model, batch, fixed, load=lambda: None) == Tuning(channels_last=True, threads=now, workers=3)
    off = tune(model, batch, TrainingConfig(tune=False), load=lambda: None)
    assert off == Tuning(threads=now)


def timed(monkeypatch, seconds):
    """Replace every measurement: of formats, of thread counts and of loading."""
    monkeypatch.setattr(tuning, "step_seconds", lambda m, b, t, **_: seconds[t.channels_last])
    monkeypatch.setattr(tuning, "has_bf16", lambda device: False)


def test_a_change_must_pay(model, batch, monkeypatch):
    seconds = {False: 1.0, True: 0.97}
    timed(monkeypatch, seconds)
    config = TrainingConfig(threads=1)
    assert not tune(model, batch, config).channels_last
    seconds[True] = 0.5
    assert tune(model, batch, config).channels_last


def test_a_short_run_is_not_probed_and_says_so(model, batch, monkeypatch):
    timed(monkeypatch, {False: 1.0, True: 0.5})
    short = tune(model, batch, TrainingConfig(threads=1), steps=20)
    assert not short.channels_last
    assert short.milliseconds == {}
    assert "too short" in short.skipped
    assert tune(model, batch, TrainingConfig(threads=1), steps=2000).channels_last


def test_the_probe_ends_in_time(model, batch, monkeypatch):
    timed(monkeypatch, {False: 1.0, True: 0.5})
    monkeypatch.setattr(tuning, "PROBE_SECONDS", 0.0)
    result = tune(model, batch, TrainingConfig(threads=1))
    assert list(result.milliseconds) == ["fp32"]
    assert result.skipped == "no time was left to measure fp32 channels-last"


def test_threads_are_probed_and_put_back(model, batch, monkeypatch):
    before = torch.get_num_threads()
    timed(monkeypatch, {False: 1.0, True: 1.0})
    seen = []

    def seconds(step, candidates, **_):
        step()
        seen.extend(candidates)
        return {n: 1.0 if n > 1 else 0.3 for n in candidates}

    monkeypatch.setattr(capacity, "thread_seconds", seconds)
    torch.set_num_threads(2)
    try:
        result = tune(model, batch, TrainingConfig())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]
    assert result.threads == 1
    assert result.milliseconds["1 thread"] == 300
    assert tune(model, batch, TrainingConfig(threads=before)).threads == before


def test_slow_loading_gets_processes(model, batch, monkeypatch):
    timed(monkeypatch, {False: 0.02, True: 0.02})
    monkeypatch.setattr(capacity, "cores", lambda: 4)
    fast = tune(model, batch, TrainingConfig(threads=1), load=lambda: None)
    assert (fast.workers, fast.milliseconds["data"] < 1) == (0, True)
    slow = tune(model, batch, TrainingConfig(threads=1), load=lambda: time.sleep(0.03))
    assert slow.workers in (2, 3)
    assert slow.milliseconds["data"] >= 30
    assert (
        slow.summary
        == f"fp32, {'1 thread' if slow.threads == 1 else f'{slow.threads} threads'}, {slow.workers} workers"
    )


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


@pytest.mark.skipif(not tuning.has_bf16(torch.device("cpu")), reason="this processor has no native bf16")
def test_the_fault_of_onednn_is_found_where_it_is():
    torch.manual_seed(0)
    conv = nn.Conv3d(32, 32, 3, padding=1)
    x, grad = torch.randn(2, 32, 2, 8, 8), torch.randn(2, 32, 2, 8, 8)
    right = torch.autograd.grad(conv(x), conv.weight, grad)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(x)
    wrong = torch.autograd.grad(output, conv.weight, grad.bfloat16())[0]
    error = float((wrong - right).norm() / right.norm())
    if error < tuning.TOLERANCE:
        pytest.skip(f"torch {torch.__version__} computes this gradient right on this processor (error {error:.4f})")
    # The same layer in a network, at a depth of two and of three slices.
    net = TransferModel(Net(channels=32), Mean(32))
    found = {}
    for depth in (2, 3):
        shape = (depth, 8, 8)
        image = torch.randn(2, 1, *shape)
        batch = Batch(image=image, spatial_size=shape, target=torch.tensor([0, 1]))
        found[depth] = tuning.unsafe_layers(net, batch, channels_last=False)
    assert "backbone.stages.second" in found[2]
    assert found[3] == ()


def test_bf16_is_not_chosen_where_sizes_vary(model, batch, monkeypatch):
    monkeypatch.setattr(tuning, "has_bf16", lambda device: True)
    monkeypatch.setattr(tuning, "step_seconds", lambda m, b, t, **_: 0.5 if t.precision == "bf16" else 1.0)
    assert tune(model, batch, TrainingConfig(threads=1)).precision == "bf16"
    assert tune(model, batch, TrainingConfig(threads=1), one_size=False).precision == "fp32"


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

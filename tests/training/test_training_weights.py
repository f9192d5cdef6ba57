"""What the configuration names becomes weights in the model, and a record of where they came from."""

import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from helpers_server import serving
from helpers_transfer import TinyBackbone, TinyHead, snapshot
from safetensors.torch import save_file
from torch import nn

from medtl_monai.config import ModelConfig, RunConfig
from medtl_monai.data.preprocessing import Preprocessing
from medtl_monai.errors import ConfigError, WeightsError
from medtl_monai.modules import Backbone
from medtl_monai.specs import BackboneSpec, InputSpec, Intensity, Stage, WeightsSpec
from medtl_monai.training.folder import RunFolder
from medtl_monai.training.reporter import Silent
from medtl_monai.training.weights import Seen, load_pretrained
from medtl_monai.transfer.coverage import CoverageReport
from medtl_monai.transfer.model import TransferModel

STAGES = ("stem", "low", "mid", "top")
IMAGENET = Intensity(normalise="fixed", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = Intensity(normalise="fixed", mean=(0.449,), std=(0.226,))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def trained(tmp_path):
    """A file of weights, and the network it is from."""
    torch.manual_seed(5)
    net = TinyBackbone("batch")
    save_file(net.state_dict(), tmp_path / "secret folder.safetensors")
    return net, (tmp_path / "secret folder.safetensors").read_bytes()


def spec(*weights):
    stages = tuple(Stage(name=name, channels=8, stride=(1, 1)) for name in STAGES)
    return BackboneSpec(
        name="tiny",
        summary="",
        build="a:b",
        stages=stages,
        input=InputSpec(spatial_dims=2),
        license="MIT",
        weights=weights,
    )


def offer(data, *uris, **options):
    sha256 = hashlib.sha256(data).hexdigest()
    return WeightsSpec(id="ssl", uris=uris, sha256=sha256, bytes=len(data), license="CC-BY-4.0", **options)


def preprocessing(intensity):
    values = {field.name: None for field in dataclasses.fields(Preprocessing)}
    return Preprocessing(**(values | {"intensity": intensity, "channel_plans": ()}))


def load(config, *weights, net=None, learnt=IMAGENET, images=GREY, channels=1, reporter=None):
    net = net or TransferModel(TinyBackbone("batch"), TinyHead())
    seen = Seen(learnt=learnt, images=preprocessing(images), channels=channels)
    report = load_pretrained(net, spec(*weights), None, config, seen=seen, reporter=reporter or Silent())
    return net, report


def arrived(net, source):
    return all(torch.equal(net.backbone.state_dict()[key], tensor) for key, tensor in source.state_dict().items())


def test_a_file_is_hashed_and_recorded_without_its_folder(trained, tmp_path):
    source, data = trained
    net, report = load(ModelConfig(weights=str(tmp_path / "secret folder.safetensors")))
    assert arrived(net, source)
    assert report.sha256 == hashlib.sha256(data).hexdigest()
    assert report.source == report.origin == "secret folder.safetensors"
    stored = json.loads(json.dumps(report.to_json()))
    assert CoverageReport.from_json(stored) == report
    del stored["origin"]
    assert CoverageReport.from_json(stored).origin == "", "runs of earlier versions can be read"


def test_offered_weights_come_from_the_first_address_that_has_them(trained):
    source, data = trained
    with serving(b"something else") as bad, serving(data) as good:
        offered = offer(data, bad.url(), good.url("/w.safetensors?token=secret"))
        net, report = load(ModelConfig(weights="ssl"), offered)
        assert arrived(net, source)
        assert report.origin == f"{good.base}/w.safetensors"
        assert report.source == "ssl"
        assert len(good.requests) == 1
        load(ModelConfig(weights="ssl"), offered)
        assert len(good.requests) == 1


def test_an_altered_download_is_removed_and_comes_anew(trained, folder):
    source, data = trained
    with serving(data) as server:
        offered = offer(data, server.url())
        load(ModelConfig(weights="ssl"), offered)
        (path,) = folder.glob("*.weights")
        path.write_bytes(data[:-1] + b"!")
        with pytest.raises(WeightsError, match=r"sha256 is .* expected is .*the altered download was removed"):
            load(ModelConfig(weights="ssl"), offered)
        assert not path.exists()
        assert arrived(load(ModelConfig(weights="ssl"), offered)[0], source)
        assert len(server.requests) == 2


def test_more_bytes_than_declared_are_not_read(trained, tmp_path):
    _, data = trained
    offered = dataclasses.replace(offer(data, str(tmp_path / "secret folder.safetensors")), bytes=100)
    with pytest.raises(WeightsError, match="larger than 100 bytes"):
        load(ModelConfig(weights="ssl"), offered)


def test_an_own_address_is_recorded_and_its_hash_offered(trained):
    source, data = trained
    with serving(data) as server:
        reporter = Silent()
        net, report = load(ModelConfig(weights=server.url("/w.safetensors?key=secret")), reporter=reporter)
        assert arrived(net, source)
        assert report.origin == f"{server.base}/w.safetensors"
        assert f"add #sha256={server.sha256} to the address" in reporter.notes[0]
        assert "secret" not in str(report) + str(reporter.notes)
        again = Silent()
        load(ModelConfig(weights=f"{server.url('/w.safetensors')}#sha256={server.sha256}"), reporter=again)
        assert again.notes == []
        with pytest.raises(WeightsError, match="expected is 000000000000"):
            load(ModelConfig(weights=f"{server.url('/w.safetensors')}#sha256={'0' * 64}"))


def test_the_run_folder_keeps_no_key_of_an_address(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    address = "https://example.org/deep/w.pt?key=secret#sha256=" + "0" * 64
    run.write_config(RunConfig(model=ModelConfig(weights=address)))
    text = (run.path / "config.yaml").read_text()
    assert "weights: https://example.org/deep/w.pt\n" in text
    assert "secret" not in text


def test_a_key_map_of_the_users_own(trained, tmp_path):
    source, _ = trained
    other = {key.replace("stages.", "module.block_"): tensor for key, tensor in source.state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    weights = str(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="0 of 24"):
        load(ModelConfig(weights=weights))
    net, _ = load(ModelConfig(weights=weights, key_map=[("module.", ""), (r"re:^block_(\w+)", r"stages.\1")]))
    assert arrived(net, source)


def test_inflation_where_the_weights_or_the_user_allow_it(tmp_path):
    torch.manual_seed(5)
    source = TinyBackbone("batch")
    save_file(source.state_dict(), tmp_path / "flat.safetensors")
    data, path = (tmp_path / "flat.safetensors").read_bytes(), str(tmp_path / "flat.safetensors")

    def deep():
        return TransferModel(TinyBackbone("batch", dims=3), TinyHead())

    with pytest.raises(WeightsError, match="of another shape"):
        load(ModelConfig(weights="ssl"), offer(data, path), net=deep())
    for config, offered in (
        (ModelConfig(weights="ssl"), [offer(data, path, inflation="repeat")]),
        (ModelConfig(weights=path, inflation="repeat"), []),
    ):
        net, report = load(config, *offered, net=deep())
        assert sum("2D kernel inflated to (3, 3, 3) (repeat)" in text for text in report.adaptations) == 4
        flat = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
        volume = flat.unsqueeze(-1).expand(-1, -1, -1, -1, 12)
        expected, answer = source.eval()(flat)[-1], net.backbone.eval()(volume)[-1]
        assert torch.allclose(answer[..., 6], expected, atol=1e-5)
        assert expected.std() > 0.1


@pytest.mark.parametrize("options", [{"key_map": [("a", "b")]}, {"inflation": "centre"}])
def test_options_of_a_file_are_refused_without_one(trained, tmp_path, options):
    _, data = trained
    offered = offer(data, str(tmp_path / "secret folder.safetensors"))
    for weights in (None, "ssl"):
        with pytest.raises(ConfigError, match="for your own weights file"):
            load(ModelConfig(weights=weights, **options), offered)


def test_what_is_no_weights_at_all(trained):
    _, data = trained
    with pytest.raises(WeightsError, match="'sssl' is neither a file nor weights on offer") as caught:
        load(ModelConfig(weights="sssl"), offer(data, "nowhere"))
    assert "Did you mean 'ssl'?" in caught.value.mend


class Colour(Backbone):
    """A first layer without a bias, and what follows it."""

    def __init__(self, channels, norm):
        super().__init__()
        layers = [nn.Conv2d(channels, 8, 3, padding=1, bias=norm is None), *([norm] if norm else []), nn.ReLU()]
        self.stages = nn.ModuleDict({"stem": nn.Sequential(*layers)})


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm])
def test_imagenet_weights_answer_to_grey_as_to_colour(tmp_path, norm):
    def build(channels):
        made = None if norm is None else norm(2, 8) if norm is nn.GroupNorm else norm(8)
        return Colour(channels, made)

    torch.manual_seed(1)
    colour = build(3)
    if norm is nn.BatchNorm2d:
        colour.train()(torch.randn(8, 3, 9, 9) * 2 + 1)
    save_file(colour.state_dict(), tmp_path / "w.safetensors")
    net, report = load(ModelConfig(weights=str(tmp_path / "w.safetensors")), net=TransferModel(build(1), TinyHead()))
    grey = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    means, stds = torch.tensor(IMAGENET.mean).reshape(1, 3, 1, 1), torch.tensor(IMAGENET.std).reshape(1, 3, 1, 1)
    expected = colour.eval()((grey - means) / stds)[0]
    answer = net.backbone.eval()((grey - GREY.mean[0]) / GREY.std[0])[0]
    inside = (..., slice(1, -1), slice(1, -1))
    same = torch.allclose(expected[inside], answer[inside], atol=1e-4)
    (note,) = report.adaptations
    assert "input channels 3 to 1 (summed, normalisation folded in)" in note
    if norm in (None, nn.BatchNorm2d):
        assert same
        assert note.endswith("the means into " + ("bias" if norm is None else "running_mean"))
    elif norm is nn.GroupNorm:
        assert not same
        assert note.endswith("but for the means: no bias or batch normalisation follows"), "what is not exact is said"
    else:
        assert note.endswith("the means are removed by the normalisation that follows")
    assert expected.std() > 0.05


def test_images_that_are_normalised_otherwise_get_the_plain_sum(tmp_path):
    colour = Colour(3, nn.BatchNorm2d(8))
    save_file(colour.state_dict(), tmp_path / "w.safetensors")
    net, report = load(
        ModelConfig(weights=str(tmp_path / "w.safetensors")),
        net=TransferModel(Colour(1, nn.BatchNorm2d(8)), TinyHead()),
        images=Intensity(normalise="zscore"),
    )
    assert report.adaptations[0].endswith("input channels 3 to 1 (summed)")
    kernel = colour.state_dict()["stages.stem.0.weight"]
    assert torch.allclose(net.backbone.state_dict()["stages.stem.0.weight"], kernel.sum(1, keepdim=True), atol=1e-6)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_downloaded_pickle_is_not_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with serving(pickle.dumps({"stages.stem.conv.weight": Bomb()}, protocol=2)) as server:
        net = TransferModel(TinyBackbone("batch"), TinyHead())
        before = snapshot(net)
        with pytest.raises(WeightsError, match=r"Python objects|damaged"):
            load(ModelConfig(weights=server.url()), net=net)
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not (tmp_path / "exploded").exists()


MEMORY = """
import re, sys
from pathlib import Path
import torch
from medtl_monai.transfer.reading import read_state

def memory(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

# From here on the peak is our own: resource.getrusage would tell that of the process that started us.
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
state, _ = read_state(Path(sys.argv[1]))
print((memory("VmHWM") - before) / Path(sys.argv[1]).stat().st_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_reading_needs_at_most_twice_the_file(tmp_path, kind):
    state, path = {f"t{i}": torch.randn(1 << 20) for i in range(24)}, tmp_path / f"w.{kind}"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 2.2

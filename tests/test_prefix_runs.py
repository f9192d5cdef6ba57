"""What is frozen is computed once, and a run ends bitwise equal to one that computes it in every step."""

import json
import math

import numpy as np
import pytest
from helpers_runs import make_data, medtl, train
from safetensors.torch import load_file

from medtl_monai.modules import Backbone
from medtl_monai.training import fit, prefix
from medtl_monai.training.checkpoint import CheckpointStore
from medtl_monai.training.folder import RunFolder

EPOCHS = 4


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), cases=12)


@pytest.fixture(scope="module")
def source(labels, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "source"
    assert train(labels, out, target="mask") == 0
    return out


@pytest.fixture(scope="module")
def online(labels, source, tmp_path_factory):
    """Runs without the cache, made when they are first asked for."""
    made = {}

    def get(target, policy, *arguments):
        key = (target, policy, *arguments)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("online") / "run"
            assert run(labels, source, made[key], target, policy, "--no-prefix-cache", *arguments) == 0
        return made[key]

    return get


def run(labels, source, out, target, policy, *arguments):
    augment = () if any("views" in str(a) for a in arguments) else ("--no-augment",)
    backbone = ("--backbone", source) if "--backbone" not in arguments else ()
    return train(labels, out, *backbone, "--policy", policy, *augment, *arguments, target=target, epochs=EPOCHS)


def cache(mode="memory", **settings):
    pairs = {"prefix_cache": mode, **settings}
    return [word for name, value in pairs.items() for word in ("--set", f"training.{name}={value}")]


def tensors(folder):
    return load_file(CheckpointStore(folder / "checkpoints").model_file("last"))


def decisions(folder):
    return json.loads((folder / prefix.RECORD).read_text())["decisions"]


def lines(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in RunFolder(folder).read_metrics()]


def assert_equal_and_trained(folder, other, source):
    a, b, start = tensors(folder), tensors(other), tensors(source)
    assert set(a) == set(b)
    assert [k for k in a if not np.array_equal(a[k], b[k])] == []
    # The head is another task's: what must have moved is compared with the first epoch's loss.
    assert lines(folder) == lines(other)
    losses = [line["loss"] for line in lines(folder)]
    assert len(set(losses)) == len(losses) == EPOCHS
    frozen = [k for k in a if k in start and k.startswith("backbone")]
    assert frozen
    return a, start


@pytest.fixture
def images_seen(monkeypatch):
    """How many images went through the first stage in training and validation."""
    seen = []
    real = Backbone.run

    def counted(self, x, start=0, stop=None):
        if start == 0:
            seen.append(len(x))
        return real(self, x, start, stop)

    monkeypatch.setattr(Backbone, "run", counted)
    return seen


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("policy", ["linear-probe", "lp-ft:probe=0.5", "gradual:every=1", "last-n:n=1"])
@pytest.mark.parametrize("target", ["kind", "bright,large", "radius", "mask"])
def test_bitwise_equal_to_online(labels, source, online, tmp_path, target, policy, mode):
    if mode == "disk" and target in ("bright,large", "radius"):
        pytest.skip("the same as for a class")
    out = tmp_path / "run"
    assert run(labels, source, out, target, policy, *cache(mode)) == 0
    found = decisions(out)
    assert all(d["start"] == d["boundary"] > 0 and d["where"] == mode and d["train"] and d["val"] for d in found)
    a, start = assert_equal_and_trained(out, online(target, policy), source)
    if policy == "linear-probe":
        assert all(np.array_equal(a[k], start[k]) for k in a if k.startswith("backbone"))
    if policy == "gradual:every=1":
        assert [d["boundary"] for d in found] == [3, 2, 1], "it moves on as the prefix shrinks"
        assert any(not np.array_equal(a[k], start[k]) for k in a if k.startswith("backbone.stages.level2"))


@pytest.mark.parametrize("backbone", ["resnet10-2d", "resnet10-3d"])
def test_networks_with_frozen_batch_statistics(tmp_path, backbone):
    table = make_data(tmp_path / "data", cases=8)
    if backbone.endswith("2d"):
        _flatten(table)
    weights = tmp_path / "source"
    # A class on both sides: the same backbone, with statistics that were measured.
    assert train(table, weights, "--backbone", backbone, "--no-augment", epochs=1) == 0
    folders = {}
    for name, arguments in {"online": ["--no-prefix-cache"], "cached": cache()}.items():
        folders[name] = tmp_path / name
        assert run(table, weights, folders[name], "kind", "linear-probe", *arguments) == 0
    a, start = assert_equal_and_trained(folders["cached"], folders["online"], weights)
    statistics = [k for k in a if k.endswith("running_mean")]
    assert statistics
    assert all(np.array_equal(a[k], start[k]) for k in statistics)
    assert any(np.abs(np.asarray(a[k])).sum() > 0 for k in statistics)


def _flatten(table):
    import nibabel as nib

    for path in (table.parent / "images").glob("*.nii"):
        array = nib.load(path, mmap=False).get_fdata()[..., 7:8]
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), path)


@pytest.mark.parametrize("policy", ["linear-probe", "gradual:every=2"])
def test_views_are_the_same_versions_online_and_stored(labels, source, online, tmp_path, policy, images_seen):
    views = ("--set", "training.views=2")
    out = tmp_path / "run"
    assert run(labels, source, out, "mask", policy, *cache(), *views) == 0
    made = sum(images_seen)
    assert all(d["train"] and "2 views of each case" in d["why"] for d in decisions(out))
    assert_equal_and_trained(out, online("mask", policy, *views), source)
    if policy == "linear-probe":
        cases = json.loads((out / "run.json").read_text())["cases"]
        # Two images tell what the stages cost, and the last batch is filled up.
        assert made == 2 + 4 * math.ceil(2 * cases["train"] / 4) + cases["val"]
    plain = tmp_path / "plain"
    assert train(labels, plain, "--backbone", source, "--policy", policy, target="mask", epochs=EPOCHS) == 0
    a, b = tensors(plain), tensors(out)
    assert not all(np.array_equal(a[k], b[k]) for k in a), "two versions are not endlessly many"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("policy", "epoch"), [("linear-probe", 1), ("gradual:every=2", 1), ("gradual:every=2", 3)])
def test_resumed_in_the_middle(labels, source, online, tmp_path, monkeypatch, policy, epoch, workers):
    real = fit.Fit._count_step

    def interrupt(self, engine):
        real(self, engine)
        if engine.state.epoch == epoch + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_count_step", interrupt)
    out = tmp_path / "run"
    assert run(labels, source, out, "kind", policy, *cache(), "--workers", workers) == 130
    assert [line["epoch"] for line in lines(out)] == list(range(epoch))
    decided = decisions(out)
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(prefix.PrefixPlanner, "choose", lambda self, *a: asked.append(a) or pytest.fail("decided anew"))
    if policy == "linear-probe" or epoch == 3:
        assert medtl("train", "--resume", out) == 0
        assert decisions(out) == decided
    else:
        monkeypatch.undo()
        assert medtl("train", "--resume", out) == 0
    assert_equal_and_trained(out, online("kind", policy), source)


def test_a_second_probe_finds_the_features_on_disk(labels, source, tmp_path, monkeypatch, images_seen):
    monkeypatch.setenv("MEDTL_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(labels, source, first, "kind", "linear-probe", *cache("disk")) == 0
    made = sum(images_seen)
    images_seen.clear()
    head = ("--head", "classification:dropout=0.5")
    assert run(labels, source, second, "kind", "linear-probe", *cache("disk"), *head) == 0
    again = sum(images_seen)
    assert made > 10
    assert again <= 3, "two images to measure and one of noise for the fingerprint"
    images_seen.clear()
    # Other weights: a miss.
    other = tmp_path / "other"
    assert train(labels, other, target="mask", epochs=3) == 0
    images_seen.clear()
    third = tmp_path / "third"
    arguments = ("--backbone", other, *cache("disk"))
    assert run(labels, source, third, "kind", "linear-probe", *arguments) == 0
    assert sum(images_seen) == made


def test_auto_decides_by_time_and_says_so(labels, source, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(labels, source, out, "kind", "linear-probe", "--set", "training.min_steps=20") == 0
    (decision,) = decisions(out)
    assert decision["start"] > 0
    assert "computed once for" in capsys.readouterr().err


def test_with_augmentation_it_says_how(labels, source, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(labels, out, "--backbone", source, "--policy", "linear-probe", epochs=1) == 0
    (decision,) = decisions(out)
    assert not decision["train"]
    assert "training.views=8" in capsys.readouterr().err


def test_whole_images_of_several_sizes_are_computed_in_every_step(labels, source, tmp_path, capsys):
    import nibabel as nib

    table = make_data(tmp_path / "data", cases=10)
    for name in ("image_03.nii", "mask_03.nii"):
        path = table.parent / "images" / name
        array = nib.load(path, mmap=False).get_fdata()[:8]
        nib.save(nib.Nifti1Image(array.astype(np.uint8 if "mask" in name else np.float32), np.eye(4)), path)
    out = tmp_path / "run"
    whole = ("--set", "preprocessing.patch_size=none")
    assert run(table, source, out, "mask", "linear-probe", *cache(), *whole) == 0
    assert not any(d["train"] for d in decisions(out))
    assert "differ in size" in capsys.readouterr().err


def test_windows_are_validated_online(labels, source, online, tmp_path):
    small = ("--set", "preprocessing.patch_size=[8,8,8]", "--set", "training.views=2")
    out = tmp_path / "run"
    assert run(labels, source, out, "mask", "linear-probe", *cache(), *small) == 0
    assert all(d["train"] and not d["val"] for d in decisions(out))
    assert_equal_and_trained(out, online("mask", "linear-probe", *small), source)


def test_bf16_is_near_and_not_equal(labels, source, online, tmp_path):
    out = tmp_path / "run"
    assert run(labels, source, out, "kind", "linear-probe", *cache(prefix_dtype="bf16")) == 0
    a, b = tensors(out), tensors(online("kind", "linear-probe"))
    gaps = [float(np.abs(np.asarray(a[k] - b[k])).max()) for k in a if k.startswith("head.linear")]
    assert 0 < max(gaps) < 0.01


def test_a_policy_without_frozen_stages_decides_nothing(labels, source, tmp_path):
    out = tmp_path / "run"
    assert run(labels, source, out, "kind", "surgical:stages=level0", *cache()) == 0
    assert not (out / prefix.RECORD).exists()


def test_disk_without_a_cache_is_refused(labels, source, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDTL_CACHE", "off")
    assert run(labels, source, tmp_path / "run", "kind", "linear-probe", *cache("disk")) == 2
    assert "the cache is off" in capsys.readouterr().err


def test_images_need_not_stay_in_memory(labels, source, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_CACHE", "off")
    held = []
    real = fit.Fit._end_epoch

    def look(self, engine):
        real(self, engine)
        held.append(self.datasets.train.bytes_in_memory + self.datasets.val.bytes_in_memory)

    monkeypatch.setattr(fit.Fit, "_end_epoch", look)
    assert run(labels, source, tmp_path / "probe", "kind", "linear-probe", *cache()) == 0
    assert held == [0] * EPOCHS
    held.clear()
    assert run(labels, source, tmp_path / "both", "kind", "lp-ft:probe=0.5", *cache()) == 0
    assert min(held) > 0, "fine-tuning asks for images again"


def test_a_plan_says_what_would_be_computed_once(labels, source, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ("--no-augment", "--dry-run", *cache())
    assert train(labels, out, "--backbone", source, "--policy", "lp-ft:probe=0.5", *arguments, epochs=EPOCHS) == 0
    assert "level0 to level2 computed once for" in " ".join(capsys.readouterr().out.split())
    assert train(labels, out, "--backbone", source, "--policy", "lp-ft", *arguments, "--json", epochs=EPOCHS) == 0
    frozen = json.loads(capsys.readouterr().out)["cost"]["frozen"]
    assert [(choice["boundary"], choice["start"]) for choice in frozen] == [(3, 3), (0, 0)]
    assert not out.exists()


def test_a_probe_does_not_try_out_what_it_runs_once(labels, source, tmp_path, monkeypatch):
    from medtl_monai.training import train as module

    asked = []
    real = module.tune
    monkeypatch.setattr(module, "tune", lambda m, b, config: asked.append(config.tune) or real(m, b, config))
    tuned = ("--tune", "--set", "training.min_steps=10")
    assert run(labels, source, tmp_path / "a", "kind", "linear-probe", *tuned, "--set", "training.precision=fp32") == 0
    assert asked == [False]
    assert run(labels, source, tmp_path / "b", "kind", "full", *tuned, "--set", "training.channels_last=false") == 0
    assert asked == [False, True]

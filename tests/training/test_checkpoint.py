import errno
import os

import pytest
import torch

from medtl_monai.errors import RunError, StorageError
from medtl_monai.training import checkpoint as module
from medtl_monai.training.checkpoint import CheckpointStore, Progress


def _save(store: CheckpointStore, epoch: int, *, best: int, value: float = 0.5) -> dict[str, torch.Tensor]:
    torch.manual_seed(epoch)
    tensors = {"w": torch.randn(4, 3), "n": torch.tensor(epoch)}
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    store.save(
        tensors,
        optimizer=optimizer.state_dict(),
        progress=Progress(epoch=epoch, best_epoch=best, best_value=value, stale=2, plateaus=1),
        metadata={"backbone": "b"},
        extra={"anchors": {"w": tensors["w"] * 2}},
    )
    return tensors


def test_what_was_saved_comes_back(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    tensors = _save(store, 1, best=0)
    loaded = store.load("last")
    assert torch.equal(loaded.tensors["w"], tensors["w"])
    assert tensors["w"].std() > 0
    assert loaded.progress == Progress(epoch=1, best_epoch=0, best_value=0.5, stale=2, plateaus=1)
    assert loaded.metadata == {"backbone": "b"}
    assert torch.equal(loaded.extra["anchors"]["w"], 2 * tensors["w"])
    assert loaded.optimizer["state"][0]["exp_avg"].abs().sum() > 0


def test_best_and_last_are_kept_and_others_dropped(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    first = _save(store, 1, best=0)
    _save(store, 2, best=0)
    third = _save(store, 3, best=0)
    assert sorted(p.name for p in store.folder.glob("epoch-*")) == ["epoch-0001", "epoch-0003"]
    assert torch.equal(store.load("best").tensors["w"], first["w"])
    assert torch.equal(store.load("last").tensors["w"], third["w"])
    assert not torch.equal(first["w"], third["w"])


@pytest.mark.parametrize("failing_write", [1, 2])
def test_a_full_disk_leaves_the_previous_checkpoint_intact(tmp_path, monkeypatch, failing_write):
    store = CheckpointStore(tmp_path / "checkpoints")
    before = _save(store, 1, best=0)
    real, calls = module._write, []

    def write(path, data):
        calls.append(path)
        if len(calls) == failing_write:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(StorageError, match="disk is full") as caught:
        _save(store, 2, best=1)
    assert str(tmp_path) not in str(caught.value)
    monkeypatch.undo()
    loaded = store.load("last")
    assert loaded.progress.epoch == 1
    assert torch.equal(loaded.tensors["w"], before["w"])
    assert [p.name for p in store.folder.iterdir() if p.name.startswith(".")] == []


def test_a_real_full_disk(tmp_path):
    # A limit on the file size makes the operating system refuse the write half way, as a full disk does.
    import resource
    import signal

    store = CheckpointStore(tmp_path / "checkpoints")
    before = _save(store, 1, best=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(StorageError, match="disk is full"):
            _save(store, 2, best=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.equal(store.load("last").tensors["w"], before["w"])


def test_tied_weights_are_stored(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    shared = torch.randn(3, 4)
    tensors = {"a": shared, "b": shared, "turned": shared.T}
    store.save(tensors, optimizer={}, progress=Progress(epoch=1), metadata={})
    loaded = store.load("last").tensors
    assert torch.equal(loaded["a"], shared)
    assert torch.equal(loaded["b"], shared)
    assert torch.equal(loaded["turned"], shared.T)


def test_no_checkpoint_yet(tmp_path):
    with pytest.raises(RunError, match="no checkpoint"):
        CheckpointStore(tmp_path / "checkpoints").load()


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt"])
def test_a_damaged_file_is_an_error(tmp_path, name):
    store = CheckpointStore(tmp_path / "checkpoints")
    _save(store, 1, best=0)
    path = store.folder / "epoch-0001" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunError, match="damaged"):
        store.load("last")


def test_a_pickle_with_code_is_never_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    store = CheckpointStore(tmp_path / "checkpoints")
    _save(store, 1, best=0)
    torch.save({"optimizer": Evil()}, store.folder / "epoch-0001" / "trainer.pt")
    with pytest.raises(RunError, match="damaged"):
        store.load("last")
    assert not (tmp_path / "owned").exists()

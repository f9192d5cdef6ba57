"""When checkpoints are written, and that what was put off is what would have been written."""

import pytest
import torch

from medtl_monai.training import saver as module
from medtl_monai.training.checkpoint import CheckpointStore, Progress
from medtl_monai.training.saver import Saver, State

STILL = {"backbone"}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "run" / "checkpoints")


@pytest.fixture
def slow(monkeypatch):
    """Every checkpoint seems to take a second, and epochs none."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def make(store):
        real = store.save

        def save(*args, **kwargs):
            now[0] += 1
            real(*args, **kwargs)

        monkeypatch.setattr(store, "save", save)
        return Saver(store), now

    return make


def state(epoch, tensors, best=None):
    progress = Progress(epoch=epoch, best_epoch=best)
    optimizer = {"state": {0: {"exp_avg": tensors["head"] * 2}}}
    return State(tensors=tensors, optimizer=optimizer, progress=progress, metadata={}, extra={"n": epoch})


def model():
    return {"backbone": torch.zeros(100), "head": torch.zeros(3)}


def test_what_was_put_off_is_kept_as_it_was(store, slow):
    saver, _ = slow(store)
    tensors = model()
    saver.save(state(0, tensors))
    for epoch in range(1, 5):
        tensors["head"] += 1  # in place, as an optimizer does
        saver.offer(state(epoch, tensors, best=1 if epoch > 1 else 0), still=STILL)
    assert store.load("last").progress.epoch == 0, "nothing was put off"
    tensors["head"] += 100  # an epoch that is interrupted
    saver.flush()
    last, best = store.load("last"), store.load("best")
    assert (last.progress.epoch, best.progress.epoch) == (4, 2)
    assert last.tensors["head"].tolist() == [4, 4, 4]
    assert best.tensors["head"].tolist() == [2, 2, 2]
    assert last.optimizer["state"][0]["exp_avg"].tolist() == [8, 8, 8]
    assert last.extra == {"n": 4}


def test_still_tensors_are_copied_before_they_thaw(store, slow):
    saver, _ = slow(store)
    tensors = model()
    saver.save(state(0, tensors))
    saver.offer(state(1, tensors, best=0), still=STILL)
    saver.thaw()
    tensors["backbone"] += 7
    saver.flush()
    assert store.load("last").tensors["backbone"].sum() == 0
    assert store.load("best").tensors["backbone"].sum() == 0


def test_after_a_while_it_is_written_and_a_better_one_before_it(store, slow):
    saver, now = slow(store)
    tensors = model()
    saver.save(state(0, tensors))
    tensors["head"] += 1
    saver.offer(state(1, tensors, best=0), still=STILL)
    now[0] += module.PATIENCE
    tensors["head"] += 1
    saver.offer(state(2, tensors, best=0), still=STILL)
    assert store.load("last").progress.epoch == 2
    assert store.load("best").tensors["head"].tolist() == [1, 1, 1]
    saver.flush()
    assert store.load("last").progress.epoch == 2


def test_where_much_trains_every_epoch_is_written(store, slow):
    saver, _ = slow(store)
    tensors = model()
    saver.save(state(0, tensors))
    for epoch in (1, 2):
        saver.offer(state(epoch, tensors))
        assert store.load("last").progress.epoch == epoch

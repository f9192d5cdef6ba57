"""What the planner weighs."""

import dataclasses

import pytest

from medtl_monai.training.prefix_plan import WORTH_KEEPING_S, Choice, Measured, Room, Uses, choose

GIB = 2**30
MEASURED = Measured(
    seconds=(0.1, 0.2, 0.01),
    states=(64_000_000, 8_000_000, 1_000_000),
    taps=(64_000_000, 8_000_000, 1_000_000),
    shared=(True, True, True),
    needed=frozenset({2}),
    stages=3,
)
USES = Uses(epochs=20, train=40, train_uses=40, val=10)
ROOM = Room(memory=10 * GIB, disk=100 * GIB)


def chosen(measured=MEASURED, uses=USES, room=ROOM, mode="auto", **options):
    return choose(measured, uses, room, boundary=3, epoch=0, mode=mode, **options)


def test_all_of_it_in_memory_where_there_is_room():
    choice = chosen()
    assert (choice.start, choice.where, choice.train, choice.val) == (3, "memory", True, True)
    assert choice.bytes == 50 * 1_000_000
    assert choice.saved_seconds == pytest.approx(0.31 * (20 * 50 - 50), rel=0.05)
    assert choice.kept, "half a minute of work is worth fifty megabytes"


def test_on_disk_where_memory_is_short():
    choice = chosen(room=Room(memory=1_000_000, disk=100 * GIB))
    assert (choice.start, choice.where, choice.kept) == (3, "disk", True)


def test_pyramid_levels_are_weighed_against_recomputing():
    pyramid = dataclasses.replace(MEASURED, needed=frozenset({0, 1, 2}))
    assert pyramid.size(3) == 73_000_000
    # All levels fit: everything once.
    assert chosen(pyramid).start == 3
    # The last stage is cheap to run again and its result is large; what fits is the part below it.
    heavy_end = dataclasses.replace(MEASURED, states=(1_000, 1_000, 64_000_000), taps=(1_000, 1_000, 64_000_000))
    tight = Room(memory=1_000_000, disk=0)
    choice = chosen(heavy_end, room=tight)
    assert (choice.start, choice.where) == (2, "memory")
    # With room for it, copying it would take longer than computing it; were it dearer, it would not.
    assert chosen(heavy_end).start == 2
    dearer = dataclasses.replace(heavy_end, seconds=(0.1, 0.2, 0.1))
    assert (chosen(dearer).start, chosen(dearer).where) == (3, "memory")
    on_disk = chosen(dearer, room=Room(memory=1_000_000, disk=100 * GIB))
    assert (on_disk.start, on_disk.where) == (2, "memory"), "the disk is slower than the stage"


def test_nothing_fits():
    choice = chosen(room=Room(memory=10, disk=0))
    assert (choice.start, choice.where) == (0, "nowhere")
    assert "47.7 MiB" in choice.why


def test_what_is_seen_once_is_not_stored():
    choice = chosen(uses=Uses(epochs=1, train=40, train_uses=40, val=10))
    assert choice.start == 0
    assert "no time" in choice.why
    assert chosen(uses=Uses(epochs=1, train=40, train_uses=400, val=0)).start == 3, "ten passes an epoch are enough"


def test_what_was_asked_for_is_done_where_it_fits():
    once = Uses(epochs=1, train=40, train_uses=40, val=0)
    for mode in ("memory", "disk"):
        choice = chosen(uses=once, mode=mode)
        assert (choice.start, choice.where, choice.kept) == (3, mode, mode == "disk")


def test_bf16_takes_half_and_a_mask_its_own():
    assert MEASURED.size(3, half=True) == 500_000
    assert dataclasses.replace(MEASURED, extra=100).size(3) == 1_000_100


def test_a_state_that_is_no_tap_is_kept_beside_it():
    assert MEASURED.size(2) == 8_000_000
    both = dataclasses.replace(MEASURED, needed=frozenset({1}), shared=(True, False, True))
    assert both.size(2) == 16_000_000
    assert dataclasses.replace(both, shared=(True, True, True)).size(2) == 8_000_000


def test_what_is_quick_to_make_is_not_written():
    quick = dataclasses.replace(MEASURED, seconds=(WORTH_KEEPING_S / 10,) * 3)
    assert not chosen(quick).kept


def test_a_decision_survives_its_record():
    choice = chosen()
    assert Choice.from_json(dataclasses.asdict(choice)) == choice

import errno
import json
import os
import shutil
import time

import numpy as np
import pytest

from medtl_monai.data.cache import entry as entries_module
from medtl_monai.data.cache import store as store_module
from medtl_monai.data.cache import usage
from medtl_monai.data.cache.places import make_folder
from medtl_monai.data.cache.store import Store

ARRAY = np.random.default_rng(0).normal(size=(1, 30, 31, 32)).astype(np.float32)


def store(folder, gib=1.0):
    make_folder(folder)
    return Store(folder, int(gib * 2**30))


def key(n):
    return f"{n:040x}"


def put(base, n, array=ARRAY):
    return base.put(key(n), {"image": array, "target": array[0].astype(np.int16)}, {"notes": ["a note"], "n": n})


def test_arrays_and_facts_survive_bit_by_bit(tmp_path):
    put(store(tmp_path / "c"), 1)
    found = store(tmp_path / "c").find(key(1))
    image = found.open("image")
    assert isinstance(image, np.memmap)
    assert not image.flags.writeable
    assert image.dtype == np.float32
    assert image.tobytes() == ARRAY.tobytes()
    assert found.names == ("image", "target")
    assert found.facts == {"notes": ["a note"], "n": 1}
    assert store(tmp_path / "c").find(key(2)) is None


def test_only_the_user_may_read(tmp_path):
    before = os.umask(0)
    try:
        put(store(tmp_path / "c"), 1)
    finally:
        os.umask(before)
    found = list((tmp_path / "c").rglob("*"))
    assert len(found) == 6
    for path in found:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700


def rewritten(path, data):
    """Change a file's bytes and restore its times, as far as one can."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", ["image.npy", "target.npy", "entry.json"])
@pytest.mark.parametrize("how", ["truncated", "changed", "gone", "empty"])
def test_a_damaged_entry_is_a_miss_that_is_made_again(name, how, tmp_path):
    put(store(tmp_path / "c"), 1)
    path = tmp_path / "c" / "entries" / key(1) / name
    data = path.read_bytes()
    time.sleep(0.01)
    if how == "gone":
        path.unlink()
    else:
        flipped = bytes([data[-9] ^ 1])
        rewritten(path, {"truncated": data[:-3], "changed": data[:-9] + flipped + data[-8:], "empty": b""}[how])
    base = store(tmp_path / "c")
    assert base.find(key(1)) is None
    assert not path.parent.exists()
    assert put(base, 1).open("image").tobytes() == ARRAY.tobytes()


def test_a_header_that_does_not_fit_is_damage(tmp_path):
    put(store(tmp_path / "c"), 1)
    path = tmp_path / "c" / "entries" / key(1) / "image.npy"
    time.sleep(0.01)
    rewritten(path, path.read_bytes().replace(b"(1, 30, 31, 32)", b"(1, 31, 30, 32)"))
    assert store(tmp_path / "c").find(key(1)) is None


def test_a_copied_cache_is_read_through_once_and_used(tmp_path, monkeypatch):
    put(store(tmp_path / "c"), 1)
    shutil.copytree(tmp_path / "c", tmp_path / "copy")
    sums = []
    original = entries_module.zlib.crc32
    monkeypatch.setattr(entries_module.zlib, "crc32", lambda data: sums.append(len(data)) or original(data))
    assert store(tmp_path / "c").find(key(1)) is not None
    assert len(sums) == 1  # entry.json's own
    copy = store(tmp_path / "copy")
    assert copy.find(key(1)).open("image").tobytes() == ARRAY.tobytes()
    assert len(sums) == 4
    assert copy.find(key(1)) is not None
    assert len(sums) == 5


def test_another_layout_is_a_miss(tmp_path, monkeypatch):
    put(store(tmp_path / "c"), 1)
    monkeypatch.setattr(entries_module, "LAYOUT", 99)
    assert store(tmp_path / "c").find(key(1)) is None


def test_the_bound_holds_and_what_was_used_longest_ago_goes_first(tmp_path):
    one = 4096 + ARRAY.nbytes * 3 // 2
    base = store(tmp_path / "c")
    for n in range(4):
        put(base, n)
        os.utime(tmp_path / "c" / "entries" / key(n), (1000 + n, 1000 + n))
    os.utime(tmp_path / "c" / "entries" / key(0), (5000, 5000))
    later = store(tmp_path / "c", gib=2.5 * one / 2**30)
    put(later, 9)
    left = {each.name for each in usage.entries(tmp_path / "c")}
    assert key(9) in left
    assert key(1) not in left
    assert key(0) in left
    assert sum(each.bytes for each in usage.entries(tmp_path / "c")) <= later.max_bytes
    assert len(left) < 5


def test_what_this_run_uses_is_never_evicted(tmp_path):
    one = 4096 + ARRAY.nbytes * 3 // 2
    base = store(tmp_path / "c", gib=2.2 * one / 2**30)
    opened = put(base, 0).open("image")
    assert put(base, 1) is not None
    os.utime(tmp_path / "c" / "entries" / key(0), (1000, 1000))
    kept = [put(base, n) for n in range(2, 6)]
    assert kept[-1] is None
    assert base.crowded_out >= 2
    assert base.trouble == ""
    assert base.find(key(0)) is not None
    # Another run does need the room; what is mapped stays as it is.
    os.utime(tmp_path / "c" / "entries" / key(0), (1000, 1000))
    os.utime(tmp_path / "c" / "entries" / key(1), (1001, 1001))
    assert put(store(tmp_path / "c", gib=1.2 * one / 2**30), 7) is not None
    assert not (tmp_path / "c" / "entries" / key(0)).exists()
    assert opened.tobytes() == ARRAY.tobytes()


def test_half_of_the_free_disk_at_most(tmp_path, monkeypatch):
    base = store(tmp_path / "c")
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: type("U", (), {"free": 4 * ARRAY.nbytes})())
    assert put(base, 1) is not None
    assert put(base, 2) is None
    assert base.crowded_out == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_said_and_survived(number, tmp_path, monkeypatch):
    base = store(tmp_path / "c")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(entries_module.np.lib.format, "write_array", refuse)
    assert put(base, 1) is None
    assert base.trouble == ("the disk is full" if number == errno.ENOSPC else os.strerror(number))
    assert list((tmp_path / "c" / "entries").iterdir()) == []
    monkeypatch.undo()
    assert put(base, 2) is None, "it does not try again for every case"


def test_if_another_process_was_faster_its_entry_counts(tmp_path, monkeypatch):
    base = store(tmp_path / "c")
    original = store_module.write_entry

    def overtaken(folder, arrays, facts):
        original(folder, arrays, facts)
        monkeypatch.setattr(store_module, "write_entry", original)
        put(store(tmp_path / "c"), 1, ARRAY + 1)

    monkeypatch.setattr(store_module, "write_entry", overtaken)
    assert np.array_equal(put(base, 1).open("image"), ARRAY + 1)
    assert [p.name for p in (tmp_path / "c" / "entries").iterdir()] == [key(1)]


def test_what_a_dead_process_left_is_swept(tmp_path):
    store(tmp_path / "c")
    for name, age in ((".deadbeef.x1.tmp", 7 * 3600), (".deadbeef.y2.tmp", 60)):
        folder = tmp_path / "c" / "entries" / name
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    store(tmp_path / "c")
    assert [p.name for p in (tmp_path / "c" / "entries").iterdir()] == [".deadbeef.y2.tmp"]


def test_the_record_is_plain_json(tmp_path):
    put(store(tmp_path / "c"), 1)
    record = json.loads((tmp_path / "c" / "entries" / key(1) / "entry.json").read_text())
    assert record["content"]["files"]["image"]["shape"] == [1, 30, 31, 32]

import hashlib
import os
import sqlite3

import pytest

from medtl_monai.data.cache import stamps
from medtl_monai.data.cache.stamps import Stamps


@pytest.fixture
def reads(monkeypatch):
    """The files whose bytes are read."""
    seen = []
    original = stamps._sha256
    monkeypatch.setattr(stamps, "_sha256", lambda file: seen.append(file.name) or original(file))
    return seen


def files(tmp_path):
    paths = [tmp_path / name for name in ("one", "two")]
    for n, path in enumerate(paths):
        path.write_bytes(bytes([n]) * 100)
    return paths


def test_a_file_is_read_once(tmp_path, reads, settled):
    paths = files(tmp_path)
    base = Stamps(tmp_path / "s.sqlite", b"key")
    first = base.snapshot(paths)
    assert first.hashes == tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in paths)
    assert len(set(first.hashes)) == 2
    assert reads == ["one", "two"]
    assert Stamps(tmp_path / "s.sqlite", b"key").snapshot(paths) == first
    assert reads == ["one", "two"]
    assert Stamps(tmp_path / "s.sqlite", b"another key").snapshot(paths) == first
    assert len(reads) == 4


def test_what_changed_is_read_again(tmp_path, reads, settled):
    paths = files(tmp_path)
    base = Stamps(tmp_path / "s.sqlite", b"key")
    before = base.snapshot(paths)
    status = paths[0].stat()
    paths[0].write_bytes(b"x" * 100)
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    after = paths[0].stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (status.st_size, status.st_mtime_ns, status.st_ino)
    now = base.snapshot(paths)
    assert now.hashes[0] != before.hashes[0]
    assert now.hashes[1] == before.hashes[1]
    assert reads == ["one", "two", "one"]


@pytest.mark.parametrize("part", range(4))
def test_size_both_times_and_inode_count(part, tmp_path, reads, settled, monkeypatch):
    paths = files(tmp_path)[:1]
    base = Stamps(tmp_path / "s.sqlite", b"key")
    base.snapshot(paths)
    original = stamps.stamp
    monkeypatch.setattr(stamps, "stamp", lambda f: tuple(v - (n == part) for n, v in enumerate(original(f))))
    base.snapshot(paths)
    assert reads == ["one", "one"]


def test_a_stamp_is_size_times_and_inode(tmp_path):
    (path, _) = files(tmp_path)
    status = path.stat()
    assert stamps.stamp(path) == (100, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    assert min(stamps.stamp(path)) > 0


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(tmp_path, settled, monkeypatch):
    (path, _) = files(tmp_path)
    original = stamps._sha256

    def hashed(file):
        found = original(file)
        file.write_bytes(b"longer than it was before" * 100)
        return found

    base = Stamps(tmp_path / "s.sqlite", b"key")
    with monkeypatch.context() as patch:
        patch.setattr(stamps, "_sha256", hashed)
        assert not base.snapshot([path]).holds()
    assert base._known(base._names([path])) == {}
    base.snapshot([path])
    assert len(base._known(base._names([path]))) == 1


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, reads, monkeypatch):
    paths = files(tmp_path)
    base = Stamps(tmp_path / "s.sqlite", b"key")
    base.snapshot(paths)
    base.snapshot(paths)
    assert len(reads) == 4
    now = stamps.time.time_ns()
    monkeypatch.setattr(stamps.time, "time_ns", lambda: now + 3_000_000_000)
    base.snapshot(paths)
    base.snapshot(paths)
    assert len(reads) == 6


def test_a_snapshot_tells_whether_files_changed_since(tmp_path):
    paths = files(tmp_path)
    snapshot = Stamps(tmp_path / "s.sqlite", b"key").snapshot(paths)
    assert snapshot.holds()
    paths[1].write_bytes(b"other")
    assert not snapshot.holds()
    paths[1].unlink()
    assert not snapshot.holds()


def test_only_keyed_hashes_of_paths_are_written(tmp_path, settled):
    folder = tmp_path / "DOE_JANE"
    folder.mkdir()
    base = tmp_path / "s.sqlite"
    Stamps(base, b"key").snapshot(files(folder))
    data = base.read_bytes()
    for secret in (b"DOE", b"one", str(tmp_path).encode(), hashlib.sha256(str(folder / "one").encode()).digest()[:16]):
        assert secret not in data
    assert base.stat().st_mode & 0o777 == 0o600
    assert sqlite3.connect(base).execute("SELECT count(*) FROM files").fetchone() == (2,)


def test_a_damaged_base_costs_time_only(tmp_path, reads, settled):
    paths = files(tmp_path)
    (tmp_path / "s.sqlite").write_bytes(b"no database" * 1000)
    base = Stamps(tmp_path / "s.sqlite", b"key")
    first = base.snapshot(paths)
    assert base.snapshot(paths) == base.snapshot(paths) == first
    assert reads == ["one", "two"] * 2


def test_what_was_not_used_for_long_is_forgotten(tmp_path, reads, settled, monkeypatch):
    paths = files(tmp_path)
    base = Stamps(tmp_path / "s.sqlite", b"key")
    base.snapshot(paths)
    base.forget(older_than_days=30)
    base.snapshot(paths)
    assert len(reads) == 2
    now = stamps.time.time()
    monkeypatch.setattr(stamps.time, "time", lambda: now + 20 * 86_400)
    base.snapshot(paths[:1])
    monkeypatch.setattr(stamps.time, "time", lambda: now + 40 * 86_400)
    base.forget(older_than_days=30)
    base.snapshot(paths)
    assert reads == ["one", "two", "two"]

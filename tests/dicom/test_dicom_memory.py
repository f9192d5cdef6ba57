"""The remembered scan: equal to a fresh one whatever changed, and no one else's business."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import ACCESSION, CORONAL, NAME, PATIENT, Frame, Recipe, write_enhanced, write_seg
from pydicom.data import get_testdata_file

from medtl_monai.dicom import Memory, index, index_path, read_volume, records, refresh, scan, store
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.parse import Damaged, parse_file
from medtl_monai.dicom.seal import Seal
from medtl_monai.errors import DicomError, StorageError
from medtl_monai.notices import listening

KEY = b"a key of the test, 32 bytes long"


@pytest.fixture(autouse=True)
def remember_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "FRESH_NS", 0)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read."""
    seen: list[str] = []

    def parse(root: Path, path: str):
        seen.append(path)
        return parse_file(root, path)

    monkeypatch.setattr(index, "parse_file", parse)
    monkeypatch.setattr(refresh, "parse_file", parse)
    return seen


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    first = Recipe().write(root / "p1" / "T1")
    Recipe(study=first.study, orientation=CORONAL, modality="CT", slope=1.5, intercept=-3.25).write(root / "p1" / "CT")
    write_enhanced(root / "p2", Recipe(patient="PID-2"), order=(3, 1, 0, 2, 5, 4))
    write_seg(root / "p1" / "seg", [Frame(mask=np.ones((5, 7), np.uint8), position=first.position(1))], first)
    (root / "readme.txt").write_text("text")
    (root / "p1" / "T1" / "notes.txt").write_bytes(b"")
    return root


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "index", KEY)


def same(one, other) -> bool:
    """Whether two scans say the same; errors compare by their text."""

    def plain(found):
        series = [dataclasses.replace(s, problem=str(s.problem), gap=str(s.gap)) for s in found.series]
        damaged = {name: str(error) for name, error in found.damaged.items()}
        return series, found.segmentations, found.structure_sets, found.skipped_files, found.skipped, damaged

    return plain(one) == plain(other)


def rows(file: Path, query: str) -> list[tuple]:
    base = sqlite3.connect(file)
    try:
        return base.execute(query).fetchall()
    finally:
        base.close()


def test_nothing_is_read_twice(tree: Path, memory: Memory, parsed: list[str]) -> None:
    first = scan(tree, memory=memory)
    assert len(parsed) == len(set(parsed)) == 16
    parsed.clear()
    again = scan(tree, memory=memory)
    assert parsed == []
    assert same(again, first)
    assert same(again, scan(tree))
    assert len(again.series) == 3
    for one, other in zip(again.series, first.series, strict=True):
        assert np.array_equal(read_volume(one).array, read_volume(other).array)
        assert np.array_equal(read_volume(one).affine, read_volume(other).affine)


def test_changes_are_noticed(tree: Path, memory: Memory, parsed: list[str]) -> None:
    scan(tree, memory=memory)
    parsed.clear()
    Recipe(patient="PID-3").write(tree / "p3")
    (tree / "p1" / "CT" / "IM0003").unlink()
    torn = tree / "p1" / "T1" / "IM0002"
    torn.write_bytes(torn.read_bytes()[:-10])
    found = scan(tree, memory=memory)
    assert sorted(parsed) == ["p1/T1/IM0002", *(f"p3/IM000{n}" for n in range(6))]
    assert same(found, scan(tree))
    assert list(found.damaged) == ["p1/T1/IM0002"]
    assert sorted(s.shape[2] for s in found.series) == [5, 5, 6, 6]
    assert rows(memory.file, "SELECT count(*) FROM dirty") == [(0,)]


def test_a_folder_that_is_gone_is_forgotten(tree: Path, memory: Memory) -> None:
    scan(tree, memory=memory)
    for path in (tree / "p1" / "CT").iterdir():
        path.unlink()
    (tree / "p1" / "CT").rmdir()
    found = scan(tree, memory=memory)
    assert [s.modality for s in found.series] == ["MR", "MR"]
    assert same(found, scan(tree))
    assert rows(memory.file, "SELECT count(*) FROM folders") == [(4,)]


def test_a_series_across_folders_is_one_after_any_change(tree: Path, memory: Memory, parsed: list[str]) -> None:
    scan(tree, memory=memory)
    moved = tree / "p1" / "more"
    moved.mkdir()
    for name in ("IM0001", "IM0002"):
        (tree / "p1" / "T1" / name).rename(moved / name)
    parsed.clear()
    found = scan(tree, memory=memory)
    assert sorted(parsed) == ["p1/more/IM0001", "p1/more/IM0002"]
    assert [s.shape[2] for s in found.series] == [6, 6, 6]
    assert same(found, scan(tree))


def test_a_change_that_keeps_size_and_time_is_noticed(tree: Path, memory: Memory, parsed: list[str]) -> None:
    path = tree / "p1" / "T1" / "IM0002"
    before = path.stat()
    scan(tree, memory=memory)
    parsed.clear()
    path.write_bytes(path.read_bytes().replace(b"PID-SENTINEL-7", b"PID-SENTINEL-8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    found = scan(tree, memory=memory)
    assert parsed == ["p1/T1/IM0002"]
    assert len(found.series) == 4
    assert same(found, scan(tree))


def test_a_file_just_written_is_not_trusted_yet(
    tree: Path, memory: Memory, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "FRESH_NS", 10**12)
    scan(tree, memory=memory)
    parsed.clear()
    assert same(scan(tree, memory=memory), scan(tree))
    assert len(parsed) == 32


def test_what_the_disk_refused_once_is_tried_again(tree: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path, path: str):
        broken = DicomError("the file cannot be read (Input/output error)", where=path)
        return Damaged(path, broken, transient=True) if path.endswith("T1/IM0003") else parse_file(root, path)

    monkeypatch.setattr(refresh, "parse_file", refuse)
    assert list(scan(tree, memory=memory).damaged) == ["p1/T1/IM0003"]
    monkeypatch.setattr(refresh, "parse_file", parse_file)
    assert scan(tree, memory=memory).damaged == {}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_processes_and_storage_change_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, chunk: int
) -> None:
    blank = tree / "p1" / "CT" / "IM0009"
    blank.write_bytes(b"")
    (tree / "p1" / "T1" / "stray").write_bytes((tree / "p1" / "T1" / "IM0001").read_bytes()[:400])
    expected = scan(tree)
    assert len(expected.damaged) == 2
    assert [s.problem is None for s in expected.series] == [False, False, True]
    monkeypatch.setattr(refresh, "CHUNK", chunk)
    monkeypatch.setattr(refresh, "_SEALED_BYTES", 10 * chunk)
    monkeypatch.setattr(refresh, "_RESULTS", 2)
    for _ in range(2):
        assert same(scan(tree, memory=Memory(tmp_path / "small", KEY), workers=workers), expected)
    monkeypatch.setattr(index, "SMALL", 3)
    assert same(scan(tree, workers=workers), expected)


def test_patterns_to_skip_have_an_index_of_their_own(tree: Path, memory: Memory, parsed: list[str]) -> None:
    assert index_path(tree) != index_path(tree, ["CT"]) != index_path(tree, ["C", "T"])
    found = scan(tree, memory=memory, skip=["CT"])
    assert len(found.series) == 2
    assert found.skipped["left out as asked"] == 6
    parsed.clear()
    again = scan(tree, memory=memory, skip=["CT"])
    assert parsed == []
    assert same(found, again)
    assert same(scan(tree, memory=memory), scan(tree))


def test_only_the_user_can_read_it(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = index_path(tree)
    assert file.is_relative_to(tmp_path / "cache")
    assert "tree" not in file.name
    assert index_path(tree / "p1") != file
    scan(tree, memory=Memory(file, KEY))
    assert [stat.S_IMODE(p.stat().st_mode) for p in file.parent.iterdir()] == [0o600]
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_it_tells_nothing_without_the_key(tree: Path, memory: Memory) -> None:
    found = scan(tree, memory=memory)
    series = found.series[1]
    data = memory.file.read_bytes()
    assert len(data) > 10_000
    for secret in (NAME, PATIENT, ACCESSION, series.study_instance_uid, series.series_instance_uid, "IM0001"):
        assert secret.encode() not in data
        assert secret in f"{NAME}{series.group}{series.accession_number}{series.files}"
    sealed = rows(memory.file, "SELECT sealed FROM groups")[0][0]
    assert Seal(KEY).open(sealed)[0] in ("", "p1", "p1/T1", "p1/CT", "p2")
    with pytest.raises(ValueError, match="another key"):
        Seal(b"another key, also of the test 32").open(sealed)


def test_with_another_key_it_is_made_anew(tree: Path, memory: Memory, parsed: list[str]) -> None:
    scan(tree, memory=memory)
    parsed.clear()
    other = Memory(memory.file, b"another key, also of the test 32")
    assert same(scan(tree, memory=other), scan(tree))
    assert len(parsed) == 32


def test_an_index_of_another_tree_or_version_is_emptied(
    tree: Path, tmp_path: Path, memory: Memory, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Recipe(patient="PID-9").write(tmp_path / "other" / "p1" / "T1")
    scan(tree, memory=memory)
    assert same(scan(tmp_path / "other", memory=memory), scan(tmp_path / "other"))
    scan(tree, memory=memory)
    parsed.clear()
    monkeypatch.setattr(store, "__version__", "0.0.0")
    scan(tree, memory=memory)
    assert len(parsed) == 16


def test_other_files_are_left_alone(tree: Path, tmp_path: Path) -> None:
    text = tmp_path / "labels.csv"
    text.write_text("StudyInstanceUID,label\n" * 100)
    with pytest.raises(StorageError, match=r"labels\.csv: the index cannot be used"):
        scan(tree, memory=Memory(text, KEY))
    assert text.read_text() == "StudyInstanceUID,label\n" * 100
    other = tmp_path / "other.sqlite"
    base = sqlite3.connect(other)
    base.execute("CREATE TABLE precious (x)")
    base.close()
    before = other.read_bytes()
    with pytest.raises(StorageError, match="another program's"):
        scan(tree, memory=Memory(other, KEY))
    assert other.read_bytes() == before
    with pytest.raises(StorageError, match="not a file"):
        scan(tree, memory=Memory(tmp_path, KEY))


def test_two_scans_at_once(tree: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PATIENCE_S", 0.1)
    scan(tree, memory=memory)
    other = store.Store(memory.file, tree, Seal(KEY))
    with other.writing(), pytest.raises(StorageError, match="another scan is using the index"):
        scan(tree, memory=memory)


def test_a_damaged_index_is_made_anew(tree: Path, memory: Memory, parsed: list[str]) -> None:
    scan(tree, memory=memory)
    base = sqlite3.connect(memory.file)
    with base:
        base.execute("UPDATE groups SET sealed = X'00'")
        base.execute("UPDATE series SET summary = zeroblob(40)")
    base.close()
    parsed.clear()
    assert same(scan(tree, memory=memory), scan(tree))
    assert len(parsed) == 32


def test_a_damaged_group_is_read_again(tree: Path, memory: Memory, parsed: list[str]) -> None:
    scan(tree, memory=memory)
    base = sqlite3.connect(memory.file)
    with base:
        base.execute("UPDATE groups SET sealed = X'00'")
    base.close()
    (tree / "p1" / "T1" / "more.txt").write_text("more")
    parsed.clear()
    assert same(scan(tree, memory=memory), scan(tree))


def test_slices_are_fetched_when_they_are_looked_at(
    tree: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []
    original = store.Store.slices

    def slices(self, key, part, version):
        fetched.append(part)
        return original(self, key, part, version)

    monkeypatch.setattr(store.Store, "slices", slices)
    found = scan(tree, memory=memory)
    for series in found.series:
        assert len(series.slices) == 6
        assert series.slices[0].header.modality == series.modality
    assert fetched == []
    assert found.series[0].slices[1].header.path.startswith("p1/CT/IM")
    assert fetched == [0]


def test_a_series_that_was_scanned_anew_is_not_mixed_up(tree: Path, memory: Memory) -> None:
    before = scan(tree, memory=memory).series[1]
    path = tree / "p1" / "T1" / "IM0002"
    path.write_bytes(path.read_bytes().replace(b"AXIAL", b"OTHER"))
    after = scan(tree, memory=memory).series[1]
    with pytest.raises(DicomError, match="changed since they were scanned"):
        read_volume(before)
    assert read_volume(after).shape == (7, 5, 6)


def test_a_series_travels_whole(tree: Path, memory: Memory) -> None:
    series = scan(tree, memory=memory).series[1]
    copy = pickle.loads(pickle.dumps(series))
    assert isinstance(copy.slices, tuple)
    assert copy == series
    assert hash(copy.slices) == hash(series.slices)
    assert copy.slices[1:3] == series.slices[1:3]
    with get_context("fork").Pool(1) as pool:
        assert np.array_equal(pool.apply(read_volume, (series,)).array, read_volume(series).array)


def test_a_large_tree_leaves_nothing_behind(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(index, "SMALL", 3)
    found = scan(tree)
    series = found.series[1]
    del found
    assert [p.name for p in (tmp_path / "tmp").iterdir() if p.name.startswith("medtl-")]
    assert read_volume(series).shape == (7, 5, 6)
    del series
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_scan_that_was_killed_goes_on(tmp_path: Path, memory: Memory) -> None:
    root = tmp_path / "many"
    for n in range(60):
        Recipe(patient=f"P{n}").write(root / f"p{n}")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom medtl_monai.dicom import Memory, refresh, scan\n"
        "refresh.FRESH_NS, refresh.CHUNK, refresh._RESULTS = 0, 12, 1\nparse = refresh.parse_file\n"
        "def slow(root, path):\n    time.sleep(0.005)\n    return parse(root, path)\n"
        "refresh.parse_file = slow\nprint('go', flush=True)\n"
        f"scan(sys.argv[1], memory=Memory(Path(sys.argv[2]), {KEY!r}))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(root), str(memory.file)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"go\n"
    for _ in range(600):
        time.sleep(0.02)
        if memory.file.exists() and rows(memory.file, "SELECT 1 FROM sqlite_master WHERE name = 'groups'"):
            known = rows(memory.file, "SELECT count(*) FROM groups")[0][0]
            if 5 <= known < 55:
                break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    before = rows(memory.file, "SELECT count(*) FROM groups")[0][0]
    assert 5 <= before < 60
    seen: list[str] = []

    def parse(base: Path, path: str):
        seen.append(path)
        return parse_file(base, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refresh, "parse_file", parse)
        found = scan(root, memory=memory)
    assert len(seen) < 360
    assert same(found, scan(root))
    assert len(found.series) == 60


def test_nothing_identifying_is_logged(tree: Path, memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    os.symlink("/etc/hostname", tree / "link")
    with caplog.at_level(logging.DEBUG):
        found = scan(tree, memory=memory)
    assert "file(s) skipped" in caplog.text
    for secret in (PATIENT, ACCESSION, found.series[0].study_instance_uid, str(tree), "IM0001", "link"):
        assert secret not in caplog.text
    assert found.skipped_files[refresh.LINK] == ["link"]


def test_records_of_real_files_are_exact() -> None:
    root = Path(get_testdata_file("CT_small.dcm", download=False)).parent
    kinds = []
    for path in sorted(p.name for p in root.iterdir() if p.is_file()):
        found = parse_file(root, path)
        record = json.loads(json.dumps(records.pack(found)))
        again = records.unpack(record, path)
        if isinstance(found, Damaged):
            assert isinstance(again, Damaged)
            assert (str(again.error), again.series_uid) == (str(found.error), found.series_uid)
        else:
            assert again == found
        kinds.append(type(found).__name__)
    assert kinds.count("Header") > 40
    assert {"ObjectHeader", "Skipped", "Damaged"} <= set(kinds)


@pytest.mark.parametrize("record", ["", [], {}, ["H"], ["H", [], [], [], [], [], []], ["X", 1], None, [[1]], ["S"]])
def test_what_is_no_record_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match="no record"):
        records.unpack(record, "a")


def test_groups_are_told_apart_by_length() -> None:
    seal = Seal(KEY)
    assert seal.name("a", "bc") != seal.name("ab", "c")
    assert seal.name("a", "bc") == Seal(KEY).name("a", "bc")
    header = parse_file(Path(get_testdata_file("CT_small.dcm", download=False)).parent, "CT_small.dcm")
    assert isinstance(header, Header)
    assert len(seal.name(*header.group)) == 16


def test_what_was_left_out_is_told_by_every_scan(tree: Path, memory: Memory) -> None:
    path = tree / "p1" / "T1" / "IM0001"
    (tree / "p1" / "T1" / "again").write_bytes(path.read_bytes())
    heard = []
    for _ in range(2):
        told: list[str] = []
        with listening(told.append):
            scan(tree, memory=memory)
        heard.append(told)
    assert heard[0] == heard[1] == ["p1/T1/again repeats p1/T1/IM0001 and is left out"]
    assert b"repeats" not in memory.file.read_bytes()

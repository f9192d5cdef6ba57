"""The index of a scanned tree: equal to a fresh scan whatever changed, and no one else's business."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import CORONAL, Frame, Recipe, write_enhanced, write_seg
from pydicom.data import get_testdata_file

from medtl_monai.dicom import headers, index, read_volume, records, scan
from medtl_monai.dicom.headers import index_path
from medtl_monai.dicom.parse import Damaged, parse_file
from medtl_monai.errors import StorageError


@pytest.fixture(autouse=True)
def remember_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "FRESH_NS", 0)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read."""
    seen: list[str] = []

    def parse(root: Path, path: str):
        seen.append(path)
        return parse_file(root, path)

    monkeypatch.setattr(index, "parse_file", parse)
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


def same(one, other) -> bool:
    """Whether two scans say the same; errors compare by their text."""

    def plain(found):
        series = [dataclasses.replace(s, problem=str(s.problem)) for s in found.series]
        damaged = {name: str(error) for name, error in found.damaged.items()}
        return series, found.segmentations, found.structure_sets, found.skipped_files, damaged

    return plain(one) == plain(other)


def test_nothing_is_read_twice(tree: Path, tmp_path: Path, parsed: list[str]) -> None:
    file = tmp_path / "index"
    first = scan(tree, index=file)
    assert len(parsed) == len(set(parsed)) == 16
    parsed.clear()
    again = scan(tree, index=file)
    assert parsed == []
    assert same(again, first)
    assert same(again, scan(tree))
    assert len(again.series) == 3
    for one, other in zip(again.series, first.series, strict=True):
        assert np.array_equal(read_volume(one).array, read_volume(other).array)
        assert np.array_equal(read_volume(one).affine, read_volume(other).affine)


def test_changes_are_noticed(tree: Path, tmp_path: Path, parsed: list[str]) -> None:
    file = tmp_path / "index"
    scan(tree, index=file)
    parsed.clear()
    Recipe(patient="PID-3").write(tree / "p3")
    (tree / "p1" / "CT" / "IM0003").unlink()
    torn = tree / "p1" / "T1" / "IM0002"
    torn.write_bytes(torn.read_bytes()[:-10])
    found = scan(tree, index=file)
    assert sorted(parsed) == ["p1/T1/IM0002", *(f"p3/IM000{n}" for n in range(6))]
    assert same(found, scan(tree))
    assert list(found.damaged) == ["p1/T1/IM0002"]
    assert sorted(s.shape[2] for s in found.series) == [5, 5, 6, 6]
    with sqlite3.connect(file) as base:
        assert base.execute("SELECT count(*) FROM files").fetchone() == (20,)
    base.close()


def test_a_change_that_keeps_size_and_time_is_noticed(tree: Path, tmp_path: Path, parsed: list[str]) -> None:
    path = tree / "p1" / "T1" / "IM0002"
    before = path.stat()
    file = tmp_path / "index"
    scan(tree, index=file)
    parsed.clear()
    path.write_bytes(path.read_bytes().replace(b"PID-SENTINEL-7", b"PID-SENTINEL-8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    found = scan(tree, index=file)
    assert parsed == ["p1/T1/IM0002"]
    assert len(found.series) == 4
    assert same(found, scan(tree))


def test_a_file_just_written_is_not_trusted_yet(
    tree: Path, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "FRESH_NS", 10**12)
    scan(tree, index=tmp_path / "index")
    parsed.clear()
    assert same(scan(tree, index=tmp_path / "index"), scan(tree))
    assert len(parsed) == 32


def test_windows_and_processes_change_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scan(tree)
    monkeypatch.setattr(index, "_WINDOW", 3)
    for _ in range(2):
        assert same(scan(tree, index=tmp_path / "small"), expected)
    monkeypatch.setattr(index, "_WINDOW", 100)
    monkeypatch.setattr(index, "_CHUNK", 4)
    for _ in range(2):
        assert same(scan(tree, index=tmp_path / "parallel", workers=2), expected)


def test_skipped_files_are_not_forgotten(tree: Path, tmp_path: Path, parsed: list[str]) -> None:
    file = tmp_path / "index"
    scan(tree, index=file)
    parsed.clear()
    assert len(scan(tree, index=file, skip=["CT"]).series) == 2
    assert len(scan(tree, index=file).series) == 3
    assert parsed == []


def test_only_the_user_can_read_it(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = index_path(tree)
    assert file.is_relative_to(tmp_path / "cache")
    assert "tree" not in file.name
    assert index_path(tree / "p1") != file
    scan(tree, index=file)
    assert [stat.S_IMODE(p.stat().st_mode) for p in file.parent.iterdir()] == [0o600]
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_an_index_of_another_tree_or_version_is_emptied(
    tree: Path, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Recipe(patient="PID-9").write(tmp_path / "other" / "p1" / "T1")
    file = tmp_path / "index"
    scan(tree, index=file)
    assert same(scan(tmp_path / "other", index=file), scan(tmp_path / "other"))
    scan(tree, index=file)
    parsed.clear()
    monkeypatch.setattr(headers, "__version__", "0.0.0")
    scan(tree, index=file)
    assert len(parsed) == 16


def test_other_files_are_left_alone(tree: Path, tmp_path: Path) -> None:
    text = tmp_path / "labels.csv"
    text.write_text("StudyInstanceUID,label\n" * 100)
    with pytest.raises(StorageError, match=r"labels\.csv: the index cannot be used"):
        scan(tree, index=text)
    assert text.read_text() == "StudyInstanceUID,label\n" * 100
    other = tmp_path / "other.sqlite"
    base = sqlite3.connect(other)
    base.execute("CREATE TABLE precious (x)")
    base.close()
    before = other.read_bytes()
    with pytest.raises(StorageError, match="another program's"):
        scan(tree, index=other)
    assert other.read_bytes() == before
    with pytest.raises(StorageError, match="not a file"):
        scan(tree, index=tmp_path)


def test_two_scans_at_once(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_PATIENCE_S", 0.1)
    file = tmp_path / "index"
    scan(tree, index=file)
    with headers.HeaderIndex(file, tree), pytest.raises(StorageError, match="another scan is using the index"):
        scan(tree, index=file)


def test_damaged_records_are_read_again(tree: Path, tmp_path: Path, parsed: list[str]) -> None:
    file = tmp_path / "index"
    scan(tree, index=file)
    base = sqlite3.connect(file)
    with base:
        for n, text in enumerate(
            ["", "[]", "{}", '["H"]', '["H", [], [], [], [], [], []]', '["X", 1]', "null", "[[1]]"]
        ):
            base.execute("UPDATE files SET record = ? WHERE name = ?", (text, f"IM000{n}".encode()))
    base.close()
    parsed.clear()
    assert same(scan(tree, index=file), scan(tree))
    assert len(set(parsed)) >= 12


def test_records_of_real_files_are_exact() -> None:
    root = Path(get_testdata_file("CT_small.dcm", download=False)).parent
    kinds = []
    for path in sorted(p.name for p in root.iterdir() if p.is_file()):
        found = parse_file(root, path)
        text = records.pack(found)
        assert (text is None) == isinstance(found, Damaged)
        if text is not None:
            assert records.unpack(text, path) == found
            kinds.append(type(found).__name__)
    assert kinds.count("Header") > 40
    assert {"ObjectHeader", "Skipped"} <= set(kinds)

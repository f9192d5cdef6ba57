"""Where the cache is, and that nothing else is ever touched."""

from pathlib import Path

import pytest
from helpers_cache import classes, dataset, open_cache, ran

from medtl_monai.config import CacheConfig
from medtl_monai.data.cache import places, usage
from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.errors import StorageError


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"1")
    with pytest.raises(StorageError, match=r"photos: the folder is not empty, and it is not a cache of medtl"):
        CaseCache.open(CacheConfig(folder=tmp_path / "photos"))
    with pytest.raises(StorageError, match="not a cache of medtl, nothing was removed"):
        usage.clear(tmp_path / "photos")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StorageError, match="the cache is not a folder"):
        CaseCache.open(CacheConfig(folder=tmp_path / "file"))


def test_only_what_looks_like_an_entry_is_ever_removed(tmp_path):
    ran(dataset(classes(tmp_path / "d"), open_cache(tmp_path / "c")))
    (tmp_path / "c/entries/mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "c/entries" / ("0" * 40)).symlink_to(tmp_path / "elsewhere")
    assert usage.clear(tmp_path / "c").entries == 4
    assert {p.name for p in (tmp_path / "c/entries").iterdir()} == {"mine", "0" * 40}
    (tmp_path / "user/entries" / ("1" * 40)).mkdir(parents=True)
    with pytest.raises(StorageError, match="not a cache of medtl"):
        CaseCache.open(CacheConfig(folder=tmp_path / "user"))


def test_a_folder_that_cannot_be_written_is_survived(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    cache, note = CaseCache.open(CacheConfig(folder=tmp_path / "c"))
    assert cache is None
    assert "cannot be written" in note
    assert str(tmp_path) not in note


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert places.choose_folder(CacheConfig()) == tmp_path / "medtl/volumes"
    assert places.choose_folder(CacheConfig(enabled=False)) is None
    monkeypatch.setenv("MEDTL_CACHE", str(tmp_path / "own"))
    assert places.choose_folder(CacheConfig()) == tmp_path / "own"
    assert places.choose_folder(CacheConfig(folder=tmp_path / "given")) == tmp_path / "given"
    monkeypatch.setenv("MEDTL_CACHE", "off")
    assert places.choose_folder(CacheConfig(folder=tmp_path / "given")) is None
    monkeypatch.delenv("MEDTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert places.default_folder() == Path.home() / ".cache/medtl/volumes"


def test_scans_are_where_the_dicom_room_puts_them(tmp_path):
    from medtl_monai.dicom import index_path

    assert index_path(tmp_path).parent == places.scans_folder()
    assert index_path(tmp_path).suffix == places.SCAN_SUFFIX


def test_off_means_scans_too(tmp_path, monkeypatch):
    from medtl_monai.data.scanning import scan_studies

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "notes.txt").write_text("text")
    monkeypatch.setenv("MEDTL_CACHE", "off")
    assert scan_studies(tmp_path / "studies").skipped == {"not DICOM": 1}
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("MEDTL_CACHE")
    assert scan_studies(tmp_path / "studies").skipped == {"not DICOM": 1}
    assert len(list(places.scans_folder().iterdir())) == 1

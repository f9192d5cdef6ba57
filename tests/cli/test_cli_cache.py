"""``medtl cache`` shows what is there by hashes only, and removes nothing that is not ours."""

import json
import os
import subprocess
import sys
import time

import pytest

from medtl_monai.cli import main
from medtl_monai.data.cache.places import make_folder
from medtl_monai.data.cache.store import Store

DAY = 86_400


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/medtl"


def fill(folder, *ages):
    """Make a cache with entries that were last used so many days ago."""
    import numpy as np

    make_folder(folder)
    store = Store(folder, 2**30)
    for n, age in enumerate(ages):
        store.put(f"{n:040x}", {"image": np.ones((1, 8, 8, 8), np.float32)}, {})
        os.utime(folder / "entries" / f"{n:040x}", (time.time() - age * DAY,) * 2)
    (folder / "stamps.sqlite").touch(0o600)


def listed(capfd, *arguments):
    capfd.readouterr()
    assert main(["cache", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_nothing_there(home, capfd):
    found = listed(capfd)
    assert (found["entries"], found["scans"], found["enabled"]) == ([], [], True)
    assert found["folder"] == str(home / "volumes")
    assert main(["cache", "clear", "--yes"]) == 0
    assert "removed 0 images" in capfd.readouterr().out
    assert not home.exists()


def test_entries_size_bound_and_age(home, capfd):
    fill(home / "volumes", 3, 0, 10)
    (home / "scans").mkdir()
    (home / "scans/abc.db").write_bytes(b"1" * 2048)
    found = listed(capfd)
    assert [each["name"][-1] for each in found["entries"]] == ["2", "0", "1"]
    assert found["bytes"] > 3 * 2048
    assert found["bound_bytes"] == 50 * 2**30
    assert [each["bytes"] for each in found["scans"]] == [2048]
    assert main(["cache"]) == 0
    out = capfd.readouterr().out
    assert "3, " in out
    assert "10 days ago" in out
    assert "at most 50 GiB" in out
    assert "scan" in out


def test_many_entries_are_shown_on_request(home, capfd):
    fill(home / "volumes", *range(1, 26))
    assert main(["cache"]) == 0
    printed = capfd.readouterr()
    assert printed.out.count(" image ") == 20
    assert "5 more" in printed.err
    assert main(["cache", "--all"]) == 0
    assert capfd.readouterr().out.count(" image ") == 25


def test_clear_everything(home, capfd):
    fill(home / "volumes", 3, 0)
    assert main(["cache", "clear", "--yes", "--json"]) == 0
    freed = json.loads(capfd.readouterr().out)
    assert freed["images"]["entries"] == 2
    assert freed["images"]["bytes"] > 4096
    assert freed["scans"] == {"entries": 0, "bytes": 0}
    assert listed(capfd)["entries"] == []
    assert sorted(p.name for p in (home / "volumes").iterdir()) == ["entries", "medtl-cache.json"]


def test_clear_what_is_old_and_scans(home, capfd):
    fill(home / "volumes", 3, 0, 10)
    (home / "scans").mkdir()
    for name, age in (("old", 9), ("new", 1)):
        (home / f"scans/{name}.db").touch()
        os.utime(home / f"scans/{name}.db", (time.time() - age * DAY,) * 2)
    assert main(["cache", "clear", "--older-than", "2", "--yes"]) == 0
    assert "removed 2 images: " in capfd.readouterr().out
    assert len(listed(capfd)["scans"]) == 2
    assert main(["cache", "clear", "--older-than", "2", "--scans", "--yes"]) == 0
    assert "removed 1 remembered scans" in capfd.readouterr().out
    found = listed(capfd)
    assert [each["name"] for each in found["scans"]] == ["new"]
    assert len(found["entries"]) == 1


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path, home, capfd):
    (tmp_path / "photos/entries/a").mkdir(parents=True)
    assert main(["cache", "clear", "--folder", str(tmp_path / "photos"), "--yes"]) == 2
    assert "not a cache of medtl" in capfd.readouterr().err
    assert (tmp_path / "photos/entries/a").is_dir()


def test_it_asks_and_refuses_to_guess(home, capfd, monkeypatch):
    fill(home / "volumes", 1)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["cache", "clear"]) == 2
    assert "--yes" in capfd.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: False)
    assert main(["cache", "clear"]) == 0
    assert "nothing was removed" in capfd.readouterr().out
    assert len(listed(capfd)["entries"]) == 1
    monkeypatch.setattr("typer.confirm", lambda text: True)
    assert main(["cache", "clear"]) == 0
    assert listed(capfd)["entries"] == []


def test_switched_off_it_can_still_be_shown_and_cleared(home, capfd, monkeypatch):
    fill(home / "volumes", 1)
    monkeypatch.setenv("MEDTL_CACHE", "off")
    found = listed(capfd)
    assert (found["enabled"], len(found["entries"])) == (False, 1)
    assert main(["cache", "clear", "--yes"]) == 0
    assert listed(capfd)["entries"] == []


def test_another_folder(tmp_path, home, capfd, monkeypatch):
    fill(tmp_path / "own", 1)
    assert len(listed(capfd, "--folder", str(tmp_path / "own"))["entries"]) == 1
    monkeypatch.setenv("MEDTL_CACHE", str(tmp_path / "own"))
    assert len(listed(capfd)["entries"]) == 1


def test_it_imports_neither_torch_nor_monai():
    code = (
        "import sys; from medtl_monai.cli import main; assert main(['cache']) == 0; "
        "assert main(['cache', 'clear', '--yes']) == 0; "
        "print(sorted({'torch', 'monai', 'numpy', 'pydicom', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

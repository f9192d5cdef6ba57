"""One-file plugins, named by the user with --plugin."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import sys
from pathlib import Path

import pytest
from helpers_host import HEALTHY, PREAMBLE, Site, fake_builtins, make_site

from medtl_monai.discovery import one_file
from medtl_monai.errors import PluginError


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    fake_builtins(monkeypatch)
    site = make_site(tmp_path / "site", monkeypatch)
    site.add("healthy", HEALTHY)
    return site


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "my_head.py"
    path.write_text(PREAMBLE + HEALTHY.replace("well", "mine"), encoding="utf-8")
    return path


def test_a_file_is_a_plugin(site, file):
    host = site.host(file)
    record = host.plugins[-1]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (record.name, record.state, record.heads, record.path) == ("my_head.py", "active", ("mine",), file)
    assert record.sha256 == sha256
    choice = host.resolve("head", "my_head.py:mine:size=4")
    assert choice == host.resolve("head", "mine:size=4")
    assert choice.build().kwargs == {"size": 4}
    assert choice.provenance()["file_sha256"] == sha256
    assert str(file) not in str(choice.provenance())
    assert host.resolve("head", "well").build() is not None
    assert not list(file.parent.glob("__pycache__"))


def test_the_allow_list_does_not_concern_what_the_user_named(site, file):
    assert site.host(file, MEDTL_PLUGINS="").resolve("head", "mine").build() is not None


def test_loading_again_gives_the_same_classes(site, file):
    first, second = site.host(file), site.host(file, file)
    assert first.resolve("head", "mine").load() is second.resolve("head", "mine").load()
    assert len(second.plugins) == 3


def test_a_changed_file_is_another_module(site, file):
    before = site.host(file).resolve("head", "mine")
    file.write_text(file.read_text(encoding="utf-8").replace("default=3", "default=8"), encoding="utf-8")
    after = site.host(file).resolve("head", "mine")
    assert (before.parameters["size"], after.parameters["size"]) == (3, 8)
    assert before.load() is not after.load()


def test_objects_of_its_classes_can_be_pickled_in_workers(site, file):
    built = site.host(file).resolve("head", "mine").build()
    assert pickle.loads(pickle.dumps(built)).kwargs == {"size": 3}
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=lambda: queue.put(built))
    worker.start()
    received = queue.get()
    worker.join()
    assert type(received) is type(built)
    assert received.kwargs == {"size": 3}


def test_two_different_files_of_one_name(site, file, tmp_path):
    other = tmp_path / "other" / "my_head.py"
    other.parent.mkdir()
    other.write_text(file.read_text(encoding="utf-8").replace("mine", "theirs"), encoding="utf-8")
    with pytest.raises(PluginError, match="Rename one"):
        site.host(file, other)


def test_importing_torch_is_fine_in_a_file(site, file, monkeypatch):
    # A stand-in: the host looks at the names of modules only.
    fake = site.folder / "pydicom.py"
    fake.write_text("")
    monkeypatch.delitem(sys.modules, "pydicom", raising=False)
    file.write_text("import pydicom\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    host = site.host(file)
    assert "pydicom" in sys.modules
    assert sys.modules["pydicom"].__file__ == str(fake)
    assert host.plugins[-1].warnings == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:", "SyntaxError"),
        ("x = '\0'", "at import"),
        ("import not_there_at_all", "not_there_at_all"),
        ("raise SystemExit(0)", "SystemExit"),
        ("x = 1", "no hook"),
        ("@hookimpl\ndef medtl_hed(): return []", "not a hook"),
        ("@hookimpl\ndef medtl_heads():\n    yield head('Bad Name')", "not a valid name"),
        ("CONTRACT = 99\n@hookimpl\ndef medtl_heads():\n    return []", "contract 99"),
    ],
)
def test_a_file_that_fails_is_an_error_for_the_user_who_named_it(source, message, site, file):
    file.write_text(PREAMBLE + source, encoding="utf-8")
    before = set(sys.modules)
    with pytest.raises(PluginError, match=message) as caught:
        site.host(file)
    assert str(file) in str(caught.value)
    assert not [name for name in set(sys.modules) - before if name.startswith("_medtl_plugin")]
    assert site.host().resolve("head", "well").build() is not None


def test_a_path_that_is_no_plugin_file(site, tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name, message in (("missing.py", "no such plugin file"), ("folder.py", "cannot be read"), ("notes.txt", ".py")):
        with pytest.raises(PluginError, match=message):
            site.host(tmp_path / name)


def test_the_users_interrupt_in_a_file(site, file):
    file.write_text("raise KeyboardInterrupt")
    before = set(sys.modules)
    with pytest.raises(KeyboardInterrupt):
        site.host(file)
    assert not [name for name in set(sys.modules) - before if name.startswith("_medtl_plugin")]


def test_what_runs_is_what_was_hashed(file):
    # Other tests have loaded a file of the same bytes: that module would be used again.
    file.write_text(f"{file.read_text(encoding='utf-8')}\nONLY_HERE = True\n", encoding="utf-8")
    record, fetch = one_file(file)
    file.write_text("raise SystemExit", encoding="utf-8")
    module = fetch()
    assert module.__name__ == record.module
    assert module.Built(1).args == (1,)
    assert module.__file__ == str(file.resolve())

import hashlib
import io
import logging
import multiprocessing
import os
import threading
from collections import namedtuple

import pytest
import requests
import torch
from helpers_server import serving

from medtl_monai.errors import StorageError, WeightsError
from medtl_monai.transfer import http
from medtl_monai.transfer.download import download
from medtl_monai.transfer.downloaded import clear, downloaded, url_key, weights_folder
from medtl_monai.transfer.http import check_address
from medtl_monai.transfer.sources import resolve_source

DATA = bytes(range(256)) * 16_384  # 4 MiB
LIMIT = 1 << 24


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "weights"


def get(server, path="/w.pt", *, pinned=True, **options):
    sha256 = server.sha256 if pinned is True else pinned or None
    return download(server.url(path), sha256=sha256, max_bytes=options.pop("max_bytes", LIMIT), where="ssl", **options)


def refused(match, act, kind=WeightsError):
    with pytest.raises(kind, match=match) as caught:
        act()
    assert caught.value.where == "ssl"
    assert caught.value.mend
    return caught.value


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_file_is_downloaded_once_and_named_by_its_hash(folder):
    told = []
    with serving(DATA) as server:
        path = get(server, size=len(DATA), progress=lambda done, total: told.append((done, total)))
        again = get(server, size=len(DATA))
        assert len(server.requests) == 1
    assert path == again == folder / f"{server.sha256}.weights"
    assert path.read_bytes() == DATA
    assert names(folder) == [path.name]
    assert told[-1] == (len(DATA), len(DATA))
    assert told[0][0] < len(DATA)


def test_a_cut_download_goes_on_where_it_stopped():
    with serving(DATA, cuts=[1_500_000, 700_000]) as server:
        assert get(server, size=len(DATA)).read_bytes() == DATA
    asked = [(r, c) for _, r, c in server.requests]
    assert asked[0] == ("", "")
    assert len(asked) == 3
    assert all(c == '"v1"' for _, c in asked[1:])
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r, _ in asked[1:]]
    assert 1_000_000 < starts[0] < starts[1] < len(DATA)


def test_a_server_that_keeps_cutting_is_given_up_and_the_next_run_goes_on():
    with serving(DATA, cuts=[65_536] + [0] * 20) as server:
        error = refused(
            r"stopped after 65536 of 4194304 bytes \(127.0.0.1: the connection was cut\)",
            lambda: get(server, size=len(DATA)),
        )
        assert "goes on from there" in error.mend
        assert len(server.requests) == http.ATTEMPTS
        assert names(weights_folder()) == [f".{server.sha256}.json", f".{server.sha256}.part"]
        server.cuts.clear()
        assert get(server, size=len(DATA)).read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=65536-"


@pytest.mark.parametrize("options", [{"ranges": False}, {"etag": ""}, {"etag": 'W/"v1"'}])
@pytest.mark.parametrize("pinned", [True, False])
def test_servers_without_ranges_or_versions(options, pinned):
    with serving(DATA, cuts=[1_000_000], **options) as server:
        assert get(server, pinned=pinned).read_bytes() == DATA
    # Without a hash and a version nobody could tell whether the rest fits what is there.
    assert bool(server.requests[1][1]) == (pinned or options == {"ranges": False})


def test_a_file_that_changes_meanwhile_is_fetched_anew():
    with serving(DATA, cuts=[1_000_000]) as server:
        new, old_get = DATA[::-1], server.sha256

        def change(done, total):
            server.data, server.etag = new, '"v2"'

        assert old_get
        path = get(server, pinned=False, progress=change)
        assert path.read_bytes() == new
        assert path.stem == hashlib.sha256(new).hexdigest()


def test_another_start_than_asked_for_is_not_appended():
    with serving(DATA, cuts=[1_000_000]) as server:
        original = http._continues
        seen = []
        http._continues = lambda response, have: not seen.append(have) and len(seen) > 1 and original(response, have)
        try:
            assert get(server).read_bytes() == DATA
        finally:
            http._continues = original
    assert seen == [983_040]
    assert server.requests[-1][1] == ""


@pytest.mark.parametrize("statuses", [[503, 429], [500, 502, 504]])
def test_a_busy_server_is_asked_again(statuses):
    with serving(DATA, statuses=list(statuses)) as server:
        assert get(server).read_bytes() == DATA
    assert len(server.requests) == len(statuses) + 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_server_that_refuses_is_not_asked_again(status):
    with serving(DATA, statuses=[status] * 9) as server:
        refused(f"127.0.0.1 answered HTTP {status}", lambda: get(server))
    assert len(server.requests) == 1


def test_tampered_bytes_are_removed_and_both_hashes_named(folder):
    with serving(DATA) as server:
        expected = server.sha256
        server.data = DATA[:-1] + b"!"
        error = refused(
            f"sha256 is {server.sha256[:12]}…, expected is {expected[:12]}…; it was removed",
            lambda: get(server, pinned=expected, size=len(DATA)),
        )
    assert "do not use it" in error.mend
    assert names(folder) == []
    assert len(server.requests) == 1


def test_a_tampered_partial_file_is_fetched_anew(folder):
    with serving(DATA, cuts=[1_000_000] + [0] * 4) as server:
        refused("stopped", lambda: get(server, size=len(DATA)))
        part = folder / f".{server.sha256}.part"
        part.write_bytes(b"!" * part.stat().st_size)
        assert get(server, size=len(DATA)).read_bytes() == DATA
    assert server.requests[-1][1] == ""


@pytest.mark.parametrize("length", [True, False])
def test_another_size_than_declared_is_refused(folder, length):
    with serving(DATA, length=length) as server:
        match = "has 4194304 bytes, the weights declare 1000" if length else "more than 1000 bytes"
        refused(match, lambda: get(server, size=1000, max_bytes=1000))
        shorter = server.url("/x")
        assert shorter
    assert names(folder) == []


@pytest.mark.parametrize("length", [True, False])
def test_no_more_than_the_cap_is_taken(folder, length):
    with serving(DATA, length=length) as server:
        refused("1000000 are accepted", lambda: get(server, pinned=False, max_bytes=1_000_000))
    assert names(folder) == []


def test_too_short_a_file_is_never_taken_for_whole():
    with serving(DATA[:-5], length=False) as server:
        refused("stopped after 4194299 of 4194304 bytes", lambda: get(server, size=len(DATA)))


def test_recoded_bodies_are_refused():
    with serving(DATA, encoding="gzip") as server:
        refused("sends the file recoded", lambda: get(server))


def test_redirects_are_followed_and_end():
    with serving(DATA) as server:
        server.redirects = {"/a": "/b?key=secret", "/b?key=secret": server.url("/w.pt"), "/loop": "/loop"}
        assert get(server, "/a").read_bytes() == DATA
        refused("redirects without end", lambda: get(server, "/loop", pinned="0" * 64))


@pytest.mark.parametrize("target", ["http://example.org/w.pt", "ftp://example.org/w.pt", "file:///etc/passwd"])
def test_redirects_to_what_is_not_encrypted_are_refused(target):
    with serving(DATA) as server:
        server.redirects = {"/w.pt": target}
        refused("over https only .redirected to", lambda: get(server))


@pytest.mark.parametrize(
    ("url", "before", "match"),
    [
        ("http://example.org/w.pt", "", "over https only"),
        ("http://10.0.0.1/w.pt", "", "over https only"),
        ("http://localhost.example.org/w.pt", "", "over https only"),
        ("http://127.0.0.1/w.pt", "https://example.org/", "over https only"),
        ("https:///w.pt", "", "over https only"),
        ("https://[::1/w.pt", "", "over https only"),
        ("https://user:secret@example.org/w.pt", "", "user name or password"),
        ("http://user@127.0.0.1/w.pt", "", "user name or password"),
    ],
)
def test_addresses_that_are_never_asked(url, before, match):
    error = refused(match, lambda: check_address(url, "ssl", before=before))
    assert "secret" not in str(error)


@pytest.mark.parametrize("url", ["https://example.org/w.pt", "http://127.0.0.1:8/w.pt", "http://[::1]/w.pt"])
def test_addresses_that_may_be_asked(url):
    check_address(url, "ssl")


def test_nobody_there(monkeypatch):
    with serving(DATA) as server:
        url = server.url()
    error = refused(
        "stopped at 0 bytes .127.0.0.1: no connection",
        lambda: download(f"{url}?token=secret", sha256=None, max_bytes=LIMIT, where="ssl"),
    )
    assert "secret" not in str(error)


def test_a_server_that_falls_silent(monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_S", (1.0, 0.05))
    gate = threading.Event()
    with serving(DATA) as server:
        monkeypatch.setattr("helpers_server.Answer.end", lambda self, body, cut=None: gate.wait(5))
        refused("no answer in time|the connection was cut", lambda: get(server))
        gate.set()


def test_the_proxy_of_the_environment_is_used(monkeypatch):
    with serving(DATA) as server, serving(DATA) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base)
        monkeypatch.setenv("no_proxy", "")
        assert get(server).read_bytes() == DATA
    assert proxy.requests[0][0] == server.url(), "a proxy is asked for the whole address"
    assert server.requests == []


def test_an_untrusted_certificate_is_not_tried_again(monkeypatch):
    asked = []

    def fail(self, *args, **options):
        asked.append(args)
        raise requests.exceptions.SSLError("https://example.org/?secret")

    monkeypatch.setattr(requests.Session, "get", fail)
    error = refused(
        "certificate of example.org is not trusted",
        lambda: download("https://example.org/w.pt", sha256="0" * 64, max_bytes=LIMIT, where="ssl"),
    )
    assert "REQUESTS_CA_BUNDLE" in error.mend
    assert len(asked) == 1


def test_no_room_on_the_disk(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(http.shutil, "disk_usage", lambda folder: usage(1, 1, 100))
    with serving(DATA) as server:
        refused("no room for 4194304 bytes", lambda: get(server), StorageError)


def test_without_a_hash_the_address_is_remembered_and_its_query_is_not(folder, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(DATA) as server:
        path = get(server, "/w.pt?token=secret", pinned=False)
        assert get(server, "/w.pt?token=secret", pinned=False) == path
        assert len(server.requests) == 1
        url = server.url("/w.pt?token=secret")
    assert names(folder) == sorted([path.name, f"{url_key(url)}.url"])
    stored = b"".join(p.read_bytes() for p in folder.iterdir() if p.suffix != ".weights")
    assert b"secret" not in stored
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("medtl")]
    assert not any("secret" in text for text in ours)


def _fetch(url, sha256, queue):
    queue.put(str(download(url, sha256=sha256, max_bytes=LIMIT, where="ssl")))


def test_processes_that_want_the_same_file_wait_for_one_another():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with serving(DATA) as server:
        children = [context.Process(target=_fetch, args=(server.url(), server.sha256, queue)) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0, 0, 0]
        assert len(server.requests) == 1
    assert len({queue.get() for _ in children}) == 1


def test_addresses_are_tried_in_order_and_every_reason_is_given(folder):
    state = io.BytesIO()
    torch.save({"a": torch.ones(2)}, state)
    with serving(b"not the file") as bad, serving(state.getvalue()) as good:
        uris = [bad.url(), "/secret/folder/w.pt", good.url()]
        found = resolve_source(uris, where="ssl", sha256=good.sha256)
        assert found.path.read_bytes() == good.data
        assert found.origin == f"{good.base}/w.pt"
        assert found.downloaded
        refused(
            r"cannot be had \(http: the downloaded file's sha256 is .*; w\.pt: no such file\)",
            lambda: resolve_source([bad.url(), "/secret/folder/w.pt"], where="ssl", sha256="1" * 64),
        )


def test_what_is_here_goes_before_what_is_far(tmp_path):
    here = tmp_path / "w.pt"
    here.write_bytes(DATA)
    with serving(DATA) as server:
        found = resolve_source([server.url(), str(here)], sha256=server.sha256)
        assert found.path == here
        assert server.requests == []


def test_offline_uses_what_is_there_and_says_what_would_be_downloaded(folder, monkeypatch):
    with serving(DATA) as server:
        monkeypatch.setenv("MEDTL_OFFLINE", "1")
        uri, facts = server.url("/w.pt?token=secret"), {"where": "ssl", "sha256": server.sha256, "size": len(DATA)}
        error = refused(
            "MEDTL_OFFLINE is set, and 4.2 MB would be downloaded from 127.0.0.1",
            lambda: resolve_source([uri], **facts),
        )
        assert f"put it as {server.sha256}.weights into the folder" in error.mend
        assert "--weights FILE" in error.mend
        assert "secret" not in str(error)
        folder.mkdir()
        (folder / f"{server.sha256}.weights").write_bytes(DATA)
        assert resolve_source([uri], **facts).path.read_bytes() == DATA
        assert server.requests == []


def test_a_folder_that_may_only_be_read_is_enough(folder):
    with serving(DATA) as server:
        path = get(server)
        folder.chmod(0o500)
        try:
            assert resolve_source([server.url()], sha256=server.sha256).path == path
        finally:
            folder.chmod(0o700)
        assert len(server.requests) == 1


def test_clearing_takes_downloads_and_nothing_else(folder):
    with serving(DATA, cuts=[10] + [0] * 4) as server:
        refused("stopped", lambda: get(server))
        (folder / "notes.txt").write_text("mine")
    with serving(DATA[1:]) as server:
        path = get(server)
    assert [each.name for each in downloaded(folder)] == [path.stem]
    os.utime(path, (1, 1))
    assert [each.name for each in clear(folder, older_than_days=1)] == [path.stem]
    assert len(names(folder)) == 3
    clear(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["notes.txt"]
    assert downloaded(folder / "none") == clear(folder / "none") == []

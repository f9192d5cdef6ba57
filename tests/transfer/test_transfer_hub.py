import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers_server import Answer, serving

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.hub import hub_file, parse_hub

DATA = bytes(range(256)) * 400
COMMIT = "a1" * 20
URI = "hf://team/ct-weights@main/deep/w.safetensors"

needs_library = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="the extra 'hub' is not installed")


class Hub(Answer):
    """As much of the hub's web interface as a download of one file needs."""

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(self.server_state.data)

    def answer(self, body):
        state = self.server_state
        state.requests.append((f"{self.command} {self.path}", "", ""))
        revisions = [f"/team/ct-weights/resolve/{r}/deep/w.safetensors" for r in ("main", COMMIT, "refs%2Fpr%2F1")]
        if self.path not in revisions:
            kind = "RepoNotFound" if "ct-weights" not in self.path else "EntryNotFound"
            self.send_response(404)
            self.send_header("X-Error-Code", kind)
            body = b""
        else:
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(state.data).hexdigest()}"')
            if not body:
                self.send_header("Content-Length", str(len(state.data)))
        if body or self.path not in revisions:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


SCRIPT = """
import json, sys
from medtl_monai.errors import MedtlError
from medtl_monai.transfer.sources import resolve_source
told = []
try:
    options = json.loads(sys.argv[2])
    found = resolve_source([sys.argv[1]], where="ssl", progress=lambda *now: told.append(now), **options)
    print(json.dumps([str(found.path), found.origin, told[-1:]]))
except MedtlError as error:
    print(json.dumps([error.what, error.mend, told]))
"""


@pytest.fixture
def ask(tmp_path):
    """Run the real library, in a process of its own: it reads its environment when it is imported."""

    def run(server, uri, environ=(), **options):
        settings = {"HF_ENDPOINT": server.base, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment = inherited | settings | dict(environ)
        command = [sys.executable, "-c", SCRIPT, uri, json.dumps(options)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "the library draws nothing over our own progress"
        return json.loads(done.stdout)

    return run


@needs_library
def test_a_file_of_the_hub_is_downloaded_once_and_its_commit_recorded(ask):
    with serving(DATA, Hub) as server:
        path, origin, told = ask(server, URI)
        assert Path(path).read_bytes() == DATA
        assert origin == f"hf://team/ct-weights@{COMMIT}/deep/w.safetensors", "a branch moves, a commit does not"
        assert told == [[len(DATA), len(DATA)]]
        assert any(request.startswith("GET") for request, _, _ in server.requests)
        asked = len(server.requests)
        assert ask(server, URI, sha256=server.sha256)[:2] == [path, origin]
        assert len(server.requests) == asked, "with a hash, what is here is known to be meant"
        assert ask(server, URI, {"MEDTL_OFFLINE": "1"})[:2] == [path, origin]
        assert ask(server, URI, {"HF_HUB_OFFLINE": "1"})[:2] == [path, origin]
        assert len(server.requests) == asked


@needs_library
@pytest.mark.parametrize("variable", ["MEDTL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked(ask, variable):
    with serving(DATA, Hub) as server:
        what, mend, _ = ask(server, URI, {variable: "1"}, size=len(DATA))
        assert what == f"{variable} is set, and 0.1 MB of team/ct-weights would be downloaded from the Hugging Face hub"
        assert "--weights FILE" in mend
        assert server.requests == []


@needs_library
@pytest.mark.parametrize(
    ("uri", "options", "expected"),
    [
        (URI, {"max_bytes": 1000}, "the file has 102400 bytes, 1000 are accepted"),
        ("hf:team/ct-weights/none.pt", {}, "the hub gave no file of team/ct-weights (there is no such file)"),
        ("hf:team/other/w.pt", {}, "(there is no such repository, or not for you)"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(ask, uri, options, expected):
    with serving(DATA, Hub) as server:
        what, mend, _ = ask(server, uri, **options)
        assert expected in what
        assert mend
        assert not any(request.startswith("GET") for request, _, _ in server.requests)


@needs_library
def test_a_server_that_is_not_there(ask):
    with serving(DATA, Hub) as server:
        pass
    what, _, _ = ask(server, URI)
    assert what.startswith("the hub gave no file of team/ct-weights (")
    assert "http" not in what.replace("hub", ""), "no address in messages"


def test_without_the_library_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="huggingface_hub is not installed") as caught:
        hub_file(URI, max_bytes=1000, where="ssl")
    assert caught.value.mend == "Install it with: pip install 'medtl-monai[hub]'"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        (URI, ("team/ct-weights", "main", "deep/w.safetensors")),
        ("hf:team/ct.weights/w.pt", ("team/ct.weights", None, "w.pt")),
        ("hf://team/ct-weights@refs%2Fpr%2F1/w.pt", ("team/ct-weights", "refs/pr/1", "w.pt")),
    ],
)
def test_addresses_of_the_hub(uri, parts):
    assert parse_hub(uri, "ssl") == parts


@pytest.mark.parametrize(
    "uri", ["hf:w.pt", "hf://team/w", "hf://team/repo@main", "hf://team/repo/../../w.pt", "hf:///a/b"]
)
def test_what_is_no_address_of_the_hub(uri):
    with pytest.raises(WeightsError, match="not a file of the Hugging Face hub"):
        parse_hub(uri, "ssl")

"""``medtl weights``: what is on offer, what is here, and fetching it beforehand."""

import hashlib
import json

import pytest
from helpers_server import serving

from medtl_monai.cli import main

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()

PLUGIN = """
from medtl_monai.plugin import BackboneSpec, InputSpec, Stage, WeightsSpec, hookimpl

@hookimpl
def medtl_backbones():
    weights = WeightsSpec(id="ssl", uris=("URL",), sha256="SHA256", bytes=SIZE, license="CC-BY-4.0")
    return [BackboneSpec(name="tiny", summary="Tiny", build=":build", license="MIT", weights=(weights,),
                         stages=(Stage(name="only", channels=8, stride=(2, 2)),), input=InputSpec(spatial_dims=2))]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def plugin(tmp_path, server, sha256=SHA256):
    text = PLUGIN.replace("URL", server.url()).replace("SHA256", sha256).replace("SIZE", str(len(DATA)))
    (tmp_path / "tiny.py").write_text(text)
    return ["--plugin", str(tmp_path / "tiny.py")]


def listed(options, capsys):
    assert main(["weights", "list", *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_get_fetches_what_a_plugin_offers(tmp_path, folder, capsys):
    with serving(DATA) as server:
        options = plugin(tmp_path, server)
        assert [row["here"] for row in listed(options, capsys)["weights"]] == [False]
        assert main(["weights", "get", "ssl", "--backbone", "tiny", *options]) == 0
        assert SHA256 in capsys.readouterr().out
        shown = listed(options, capsys)
        assert [(row["id"], row["here"]) for row in shown["weights"]] == [("ssl", True)]
        assert shown["downloaded_bytes"] == len(DATA)
        assert main(["weights", *options]) == 0
        assert str(folder) in capsys.readouterr().out
        assert main(["backbones", "show", "tiny", *options]) == 0
        assert "yes" in capsys.readouterr().out
        assert len(server.requests) == 1


def test_get_fetches_an_address(folder, capsys):
    with serving(DATA) as server:
        assert main(["weights", "get", f"{server.url()}?key=secret", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        origin = f"{server.base}/w.pt"
    path = str(folder / f"{SHA256}.weights")
    assert shown == {"origin": origin, "path": path, "sha256": SHA256, "bytes": len(DATA)}


def test_get_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    with serving(DATA) as server:
        options = plugin(tmp_path, server, sha256="0" * 64)
        assert main(["weights", "get", "ssl", "--backbone", "tiny", *options]) == 2
        assert f"sha256 is {SHA256[:12]}…, expected is 000000000000…" in capsys.readouterr().err
        monkeypatch.setenv("MEDTL_OFFLINE", "1")
        assert main(["weights", "get", "ssl", "--backbone", "tiny", *options]) == 2
        assert "MEDTL_OFFLINE is set" in capsys.readouterr().err
    assert main(["weights", "get", "ssl"]) == 2
    assert "Name its backbone with --backbone" in capsys.readouterr().err


def test_the_cache_lists_and_clears_weights(folder, capsys):
    with serving(DATA) as server:
        assert main(["weights", "get", server.url()]) == 0
    capsys.readouterr()
    assert main(["cache", "list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in shown["weights"]] == [SHA256]
    assert main(["cache", "clear", "--yes"]) == 0
    assert (folder / f"{SHA256}.weights").exists(), "only when asked"
    assert main(["cache", "clear", "--weights", "--yes"]) == 0
    assert "removed 1 downloaded weights" in capsys.readouterr().out
    assert list(folder.iterdir()) == []

"""medtl plugins: every plugin is a row, --json is clean whatever plugins do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers_host import HEALTHY, PREAMBLE, Site, make_site

from medtl_monai.cli import main


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    for name in ("MEDTL_PLUGINS", "MEDTL_BLOCK", "MEDTL_STRICT"):
        monkeypatch.delenv(name, raising=False)
    site = make_site(tmp_path / "site", monkeypatch)
    site.add("fit-heads", HEALTHY, version="1.2")
    site.add("ill-heads", "print('noise')\nimport not_there_at_all")
    return site


def rows(capsys) -> dict[str, dict]:
    return {row["distribution"]: row for row in json.loads(capsys.readouterr().out)}


def test_json_is_a_list_of_records(site, capsys):
    assert main(["plugins", "--json"]) == 0
    found = rows(capsys)
    keys = {"name", "distribution", "version", "entry_point", "module", "state", "reason", "warnings"}
    assert keys | {"backbones", "heads", "policies", "sha256", "path"} == set(found["fit-heads"])
    assert (found["fit-heads"]["version"], found["fit-heads"]["state"]) == ("1.2", "active")
    assert found["ill-heads"]["state"] == "broken"
    assert "not_there_at_all" in found["ill-heads"]["reason"]
    assert found["medtl-monai"]["state"] == "active"
    assert found["medtl-monai"]["heads"]


def test_table(site, capsys):
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "noise" not in out
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "1 head" in lines["fit-heads/plug"]
    assert "ModuleNotFoundError" in lines["ill-heads/plug"]
    assert "active" in lines["medtl-monai/builtin"]


def test_show(site, capsys):
    assert main(["plugins", "show", "fit-heads"]) == 0
    assert "well" in capsys.readouterr().out
    assert main(["plugins", "show", "ill-heads", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "broken"
    assert main(["plugins", "--json", "show", "ill-heads"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "broken"
    assert main(["plugins", "show", "fit-head"]) == 2
    assert "Did you mean 'fit-heads/plug'" in capsys.readouterr().err


def test_environment(site, capsys, monkeypatch):
    monkeypatch.setenv("MEDTL_BLOCK", "ill-heads,fat-heads")
    assert main(["plugins", "--json"]) == 0
    captured = capsys.readouterr()
    assert {row["distribution"]: row["state"] for row in json.loads(captured.out)}["ill-heads"] == "blocked"
    assert "note: MEDTL_BLOCK names 'fat-heads', which is not installed. Did you mean 'fit-heads'?" in captured.err
    assert "noise" not in captured.err
    monkeypatch.setenv("MEDTL_PLUGINS", "")
    assert main(["plugins", "--json"]) == 0
    assert {row["state"] for name, row in rows(capsys).items() if name != "medtl-monai"} == {"blocked"}


def test_strict(site, capsys, monkeypatch):
    monkeypatch.setenv("MEDTL_STRICT", "1")
    assert main(["plugins", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "not_there_at_all" in captured.err
    assert "plugin ill-heads/plug is broken" in captured.err


def test_one_file_plugins_on_every_command(site, tmp_path, capsys):
    for name in ("one", "two"):
        source = PREAMBLE + HEALTHY.replace("well", f"{name}-head")
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    options = ["--plugin", str(tmp_path / "one.py"), "--plugin", str(tmp_path / "two.py")]
    assert main(["plugins", "--json", *options]) == 0
    found = rows(capsys)
    assert found["two.py"]["heads"] == ["two-head"]
    assert len(found["two.py"]["sha256"]) == 64
    for command in ("backbones", "heads", "policies"):
        assert main([command, "--json", *options]) == 0
        names = [row["name"] for row in json.loads(capsys.readouterr().out)]
        assert ("two-head" in names) == (command == "heads")
    assert main(["heads", "show", "one.py:one-head", *options]) == 0
    assert "one-head" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message"), [(None, "no such plugin file"), ("def f(:", "SyntaxError"), ("x = 1", "no hook")]
)
def test_a_named_file_that_fails_is_exit_2(source, message, site, tmp_path, capsys):
    path = tmp_path / "mine.py"
    if source is not None:
        path.write_text(source)
    assert main(["heads", "--json", "--plugin", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert str(path) in captured.err
    assert main(["heads", "--json", "--plugin", str(path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_package_that_pulls_torch_is_active_but_named(tmp_path, site):
    """In its own process, with a stand-in for torch: the host looks at names of modules only."""
    site.add("zz-light", HEALTHY.replace("well", "light"))
    site.add(
        "heavy-heads",
        "",
        module="heavy_heads.medtl_plugin",
        files={
            "heavy_heads/__init__.py": "import torch",
            "heavy_heads/medtl_plugin.py": PREAMBLE + HEALTHY.replace("well", "heavy"),
            "torch.py": "",
        },
    )
    result = subprocess.run(
        [sys.executable, "-m", "medtl_monai", "plugins", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site.folder)},
        timeout=120,
        check=True,
    )
    found = {row["distribution"]: row for row in json.loads(result.stdout)}
    assert found["heavy-heads"]["state"] == "active"
    assert found["heavy-heads"]["heads"] == ["heavy"]
    [warning] = found["heavy-heads"]["warnings"]
    for part in ("heavy-heads/plug", "heavy_heads.medtl_plugin", "torch"):
        assert part in warning
    assert warning in result.stderr
    assert found["zz-light"]["state"] == found["medtl-monai"]["state"] == "active"
    assert found["zz-light"]["warnings"] == found["medtl-monai"]["warnings"] == []

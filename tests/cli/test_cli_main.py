"""Exit codes, error texts, --debug, and how commands are found."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import typer

from medtl_monai import __version__
from medtl_monai.cli import COMMANDS, application, main
from medtl_monai.cli.options import DebugOption
from medtl_monai.errors import DataError
from medtl_monai.isolation import HEAVY


@pytest.fixture
def command(monkeypatch):
    """Return a function that makes ``medtl probe`` run a given function."""

    def install(function) -> None:
        app = typer.Typer()
        app.command()(function)
        monkeypatch.setitem(COMMANDS, "probe", "A command for tests.")
        module = type(sys)("medtl_monai.cli.probe")
        module.app = app
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environ}, timeout=120
    )


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medtl {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_lists_every_command_without_importing_one(argv, capsys, command):
    command(lambda: None)
    for name in COMMANDS:
        if name != "probe":
            sys.modules.pop(f"medtl_monai.cli.{name}", None)
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert name in out
        assert line.split()[0] in out
        assert name == "probe" or f"medtl_monai.cli.{name}" not in sys.modules


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_the_common_options(name):
    command = application.load_command(name)
    for leaf in getattr(command, "commands", {"": command}).values():
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert {"--plugin", "--debug"} <= options
        assert name not in ("plugins", "backbones", "heads", "policies") or "--json" in options


def test_light_commands_import_nothing_heavy():
    code = f"""
import sys
from medtl_monai.cli import main
codes = [main(a) for a in (["--help"], ["plugins"], ["plugins", "--json"], ["plugins", "show", "builtin"],
    ["backbones", "--dims", "3", "--modality", "CT"], ["backbones", "--json"], ["heads"], ["policies"],
    ["policies", "show", "full"], ["heads", "show", "classification", "--json"], ["no-such-command"])]
found = [m for m in {HEAVY!r} if m in sys.modules]
print(codes, found, file=sys.stderr)
"""
    result = run(code)
    assert result.stderr.splitlines()[-1] == "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] []"


def test_the_contract_itself_imports_nothing_heavy():
    names = ("errors", "specs", "policy", "hookspecs", "plugin", "host", "config", "cli", "builtin")
    imports = "".join(f"import medtl_monai.{name}\n" for name in names)
    assert run(f"{imports}import sys\nprint([m for m in {HEAVY!r} if m in sys.modules])").stdout == "[]\n"


def test_an_error_of_the_user_is_one_sentence_and_exit_2(command, capsys):
    def probe() -> None:
        raise DataError("no labels matched", where="labels.csv", mend="Check the key column")

    command(probe)
    assert main(["probe"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: labels.csv: no labels matched. Check the key column.\n"


def test_paths_are_not_broken_in_the_middle(command, capsys):
    path = "/".join(["a_folder_with_a_long_name"] * 12)

    def probe() -> None:
        raise DataError("no such file [0]", where=path)

    command(probe)
    assert main(["probe"]) == 2
    assert capsys.readouterr().err == f"error: {path}: no such file [0].\n"


@pytest.mark.parametrize("argv", [["probe", "--debug"], ["--debug", "probe"]])
def test_debug_shows_the_traceback(argv, command, capsys):
    def probe(debug: DebugOption = False) -> None:
        raise DataError("told so")

    command(probe)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: told so.\n")


def test_anything_else_is_an_internal_error(command, capsys):
    def probe() -> None:
        raise ZeroDivisionError("by zero")

    command(probe)
    assert main(["probe"]) == 1
    err = capsys.readouterr().err
    assert err == "error: internal error: ZeroDivisionError: by zero; run again with --debug.\n"


def test_an_interrupt_is_130(command, capsys):
    def probe() -> None:
        raise KeyboardInterrupt

    command(probe)
    assert main(["probe"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_may_return_its_exit_code(command):
    command(lambda: 3)
    assert main(["probe"]) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plugin"], "Did you mean 'plugins'? See 'medtl --help'."),
        (["plugins", "--jason"], "--json"),
        (["backbones", "--dims", "4"], "'--dims'"),
        (["backbones", "--dims", "two"], "'--dims'"),
        (["backbones", "show"], "Missing argument"),
        (["--plugin", "x.py"], "--plugin"),
    ],
)
def test_usage_errors_are_exit_2(argv, message, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_a_reader_that_goes_away_is_no_noise():
    result = subprocess.run(
        f"{sys.executable} -m medtl_monai backbones --json | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout == "["
    assert result.stderr == ""


def test_a_pipe_closed_before_anything_is_written():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "medtl_monai", "heads", "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode == 1


def test_console_script_and_module_are_the_same(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medtl", "--version"])
    assert main() == 0
    with pytest.raises(SystemExit) as caught:
        importlib.import_module("runpy").run_module("medtl_monai", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"medtl {__version__}\n" * 2

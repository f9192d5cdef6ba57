"""The project's frame tells the truth: docs, Makefile, README and citation against the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml

from medtl_monai import __version__, errors, hookspecs, modules, plugin, policy, specs
from medtl_monai.cli import COMMANDS
from medtl_monai.cli.application import load_command
from medtl_monai.config import RunConfig, load_config
from medtl_monai.host import Host

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
VARIABLE = re.compile(r"MEDTL_[A-Z_]*[A-Z]")
PAGES = [path for path in DOCS.rglob("*.md") if not {"_build", "generated"} & set(path.parts)]


def _generator():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> dict[str, str]:
    return _generator().generate(tmp_path_factory.mktemp("generated"))


def section(text: str, title: str) -> str:
    """Return what stands below a heading, up to the next heading."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no heading {title!r}"
    return found.group(2)


def rows(text: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))


def test_every_generated_part_is_on_a_page(generated):
    included = {name for page in PAGES for name in re.findall(r"\{include\} generated/(\w+)\.md", page.read_text())}
    assert included == set(generated)
    assert all(len(text) > 200 for text in generated.values())


def test_every_hook(generated):
    hooks = [name for name in vars(hookspecs) if name.startswith("medtl_")]
    assert len(hooks) == 3
    for name in hooks:
        below = section(generated["hooks"], name)
        assert f"{name}() -> Iterable[" in below
        assert "@hookimpl" in below
    assert all(f"- `{name}`" in generated["hooks"] for name in plugin.__all__)


@pytest.mark.parametrize(
    ("page", "home", "names"),
    [
        ("specs", specs, [n for n, v in vars(specs).items() if isinstance(v, type) and dataclasses.is_dataclass(v)]),
        ("torch", modules, ["Batch", "Prediction", "Metric"]),
    ],
)
def test_every_field_of_every_spec(generated, page, home, names):
    assert len(names) >= 3
    for name in names:
        thing = getattr(home, name)
        text = generated["freezing"] if name in ("At", "StageInfo", "Rule") else generated[page]
        below = section(text, name)
        fields = {field.name for field in dataclasses.fields(thing)}
        assert fields
        assert rows(below) == fields
        code = below.split("```")[1]
        assert all(re.search(rf"\b{field}: ", code) for field in fields), "the signature names every field"


def test_every_method_of_the_contract(generated):
    for thing, page in ((modules.Backbone, "torch"), (modules.Head, "torch"), (policy.FreezePolicy, "freezing")):
        below = section(generated[page], thing.__name__)
        methods = [n for n, m in vars(thing).items() if callable(m) and m.__doc__ and not n.startswith("_")]
        assert methods
        assert all(f"{thing.__name__}.{name}(" in below for name in methods)


def test_every_error(generated):
    classes = {
        n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.MedtlError) and n[0] != "_"
    }
    assert len(classes) > 5
    assert rows(generated["errors"]) | {"MedtlError"} == classes


def test_every_configuration_key(generated):
    keys = _keys()
    assert "training.epochs" in keys
    assert rows(generated["config"]) == keys
    assert yaml.safe_load(re.findall(r"```yaml\n(.*?)```", generated["config"], re.DOTALL)[-1])["training"]


def test_every_command_and_option(generated):
    assert COMMANDS
    for name in COMMANDS:
        command = load_command(name)
        below = generated["commands"].partition(f"\n## medtl {name}\n")[2].partition("\n## ")[0]
        assert below
        for each in getattr(command, "commands", {"": command}).values():
            options = [p for p in each.params if p.name not in ("install_completion", "show_completion")]
            for option in (o for p in options for o in (*p.opts, *p.secondary_opts) if o.startswith("--")):
                assert re.search(rf"`[^`]*{option}\b", below), f"{name} {option}"


def test_every_builtin(generated):
    host = Host.load(environ={"MEDTL_PLUGINS": ""})
    for kind in ("backbone", "head", "policy"):
        entries = host.entries(kind)
        assert entries
        for entry in entries:
            assert f"`{entry.name}`" in generated["builtins"] or f"### {entry.name}\n" in generated["builtins"]


def test_every_environment_variable():
    source = "\n".join(path.read_text() for path in (ROOT / "medtl_monai").rglob("*.py"))
    table = rows((DOCS / "reference/environment.md").read_text())
    assert table == set(VARIABLE.findall(source))
    assert len(table) > 3
    told = {name for page in [*PAGES, ROOT / "README.md"] for name in VARIABLE.findall(page.read_text())}
    assert told == table


def commands_in(text: str) -> list[list[str]]:
    """Return the medtl commands of a page's console blocks, as words; placeholders are left out."""
    blocks = re.findall(r"```(?:console|bash|sh|shell)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "medtl " in line]
    words = [[w for w in line if not re.fullmatch(VARIABLE.pattern + "=.*", w)] for line in found]
    return [line[1:] for line in words if line and line[0].endswith("medtl")]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_on_pages_exist(page):
    for command, *rest in commands_in(page.read_text()):
        assert command in COMMANDS, f"medtl {command}"
        each = load_command(command)
        every = [each, *getattr(each, "commands", {}).values()]
        known = {option for one in every for p in one.params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known
        for option, value in itertools.pairwise(rest):
            assert option != "--set" or value.partition("=")[0] in _keys()


def _keys(model=RunConfig, prefix: str = "") -> set[str]:
    """Return every dotted key of the configuration, however deeply its sections are nested."""
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields")
        keys |= _keys(field.annotation, f"{prefix}{name}.") if nested else {f"{prefix}{name}"}
        named = get_args(field.annotation)[1:] if get_origin(field.annotation) is dict else ()
        keys |= {key for each in named for key in _keys(each, f"{prefix}{name}.NAME.")}
    return keys


def test_the_pages_name_commands():
    assert sum(len(commands_in(page.read_text())) for page in PAGES) > 15


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_python_on_pages_is_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def test_links_between_pages_lead_somewhere():
    seen = 0
    for page in [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                seen += 1
    assert seen > 10


def test_makefile_recipes():
    text = (ROOT / "Makefile").read_text()
    recipes = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert recipes >= {"venv", "demo", "test", "check", "docs", "bench"}
    assert len(recipes) <= 10
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    assert set(phony) == recipes
    told = "\n".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")) + "\n".join(
        page.read_text() for page in PAGES
    )
    named = set(re.findall(r"(?:^|`)(?:\$ )?make ([a-z]+)", told, re.MULTILINE))
    assert {"venv", "test", "demo"} <= named <= recipes


def test_makefile_is_understood_by_make():
    done = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 127:
        pytest.skip("make is not installed")
    assert done.returncode == 0, done.stderr
    for tool in ("ruff format --check", "ruff check", "mypy", "lint-imports", "sphinx -W -n"):
        assert tool in done.stdout


def test_ci_script_is_bash_and_runs_what_the_makefile_has():
    script = ROOT / ".ci/run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert {"test", "check"} <= set(re.findall(r"^make (\w+)", text, re.MULTILINE))


def test_citation_and_changelog():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["version"] == project["version"] == __version__
    assert citation["license"] == project["license"]
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", citation["date-released"])
    assert "### For plugin authors" in (ROOT / "CHANGELOG.md").read_text()


def test_pinned_packages_cover_what_the_project_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = ("codecs", "dev", "docs", "bench")
    needed = [*project["dependencies"], *(name for extra in named for name in extras[extra])]
    pinned = {_plain(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if line}
    assert {_plain(re.split(r"[<>=!~\[; ]", name)[0]) for name in needed} <= pinned


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_one_file_plugins_of_the_docs_load():
    files = sorted((DOCS / "tutorials").glob("*.py")) + sorted((DOCS / "howto").glob("*.py"))
    assert len(files) >= 2
    host = Host.load(files, environ={"MEDTL_PLUGINS": ""})
    assert host.resolve("head", "log-volume").spec.target == "number"
    built = host.resolve("policy", "thaw-from-below:every=2").build()
    stages = [
        *(specs.StageInfo(name=f"s{n}", role="backbone", pretrained=True) for n in range(3)),
        specs.StageInfo(name="head", role="head", pretrained=False),
    ]
    table = [set(built(specs.At(epoch=epoch, epochs=8), stages)) for epoch in (0, 2, 7)]
    assert table == [{"head"}, {"head", "s0"}, {"head", "s0", "s1", "s2"}]
    lines = (DOCS / "tutorials/log_volume.py").read_text().splitlines()
    assert len(lines) < 40, "the tutorial promises so"


def test_tutorial_quotes_the_table_as_it_is():
    text = (DOCS / "tutorials/train-on-the-samples.md").read_text()
    head = "\n".join((ROOT / "sample_dicoms/source.csv").read_text().splitlines()[:3])
    assert head in text


@pytest.mark.slow
def test_the_custom_head_of_the_tutorial_trains_on_the_samples(tmp_path, monkeypatch):
    from medtl_monai.cli import main

    page = (DOCS / "tutorials/custom-head.md").read_text()
    train, evaluate = (c for c in commands_in(page) if c[0] in ("train", "evaluate"))
    monkeypatch.chdir(tmp_path)
    for name in ("sample_dicoms", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "log_volume.py").symlink_to(DOCS / "tutorials/log_volume.py")
    quick = ["--epochs", "2", "--no-tune", "--set", "training.min_steps=8"]
    assert main([*train, *quick]) == 0
    assert main(evaluate) == 0
    lines = (tmp_path / "runs/volume/evaluation/test/predictions.csv").read_text().splitlines()
    column = lines[0].split(",").index("predicted_volume_ml")
    values = [float(line.split(",")[column]) for line in lines[1:]]
    assert len(values) == 7
    assert min(values) > 0
    assert len(set(values)) > 1
    written = {
        re.sub(r"epoch-\d+", "epoch-NNNN", str(path.relative_to(tmp_path / "runs/volume")))
        for path in (tmp_path / "runs/volume").rglob("*")
        if path.is_file()
    }
    told = (DOCS / "reference/run-folder.md").read_text().replace("PART", "test")
    assert {n for n in written if not n.startswith("plugins/") and Path(n).name not in told} == set()
    assert "plugins/log_volume.py" in written
    assert "`plugins/`" in told


def test_docs_build_is_configured_strictly():
    text = (DOCS / "conf.py").read_text()
    assert "nitpicky = True" in text
    assert "-W -n" in (ROOT / "Makefile").read_text()


def test_default_configuration_on_the_page_is_the_default(generated, tmp_path):
    block = re.findall(r"```yaml\n(.*?)```", generated["config"], re.DOTALL)[-1]
    path = tmp_path / "config.yaml"
    path.write_text(block)
    assert load_config(path) == RunConfig()


def test_generating_writes_only_what_changed(tmp_path):
    module = _generator()
    module.generate(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert before
    module.generate(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

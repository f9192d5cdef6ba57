"""Fake installed plugins: real ``.dist-info`` folders and modules in a temporary folder on ``sys.path``."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from medtl_monai import builtin
from medtl_monai.host import Host
from medtl_monai.specs import BackboneSpec, HeadSpec, InputSpec, Parameter, PolicySpec, Stage

_COUNTER = itertools.count()

PREAMBLE = """
from medtl_monai.plugin import BackboneSpec, HeadSpec, InputSpec, Parameter, PolicySpec, Stage, hookimpl

def head(name, **fields):
    base = dict(summary="A head", build=":Built", task="classification", target="class", license="MIT")
    return HeadSpec(name=name, **{**base, **fields})

def policy(name, **fields):
    return PolicySpec(name=name, **{**dict(summary="A policy", build=":Built", license="MIT"), **fields})

class Built:
    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
"""

HEALTHY = """
@hookimpl
def medtl_heads():
    yield head("well", parameters=(Parameter(name="size", default=3),))
"""


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        distribution: str,
        source: str,
        *,
        entry: str = "plug",
        version: str = "1.0",
        module: str = "",
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Install a distribution with one entry point; return the name of its module."""
        module = module or f"fake_plugin_{next(_COUNTER)}"
        if files is None:
            files = {f"{module}.py": PREAMBLE + dedent(source)}
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        points = info / "entry_points.txt"
        text = points.read_text() if points.exists() else "[medtl_monai]\n"
        points.write_text(f"{text}{entry} = {module}\n")
        return module

    def points(self) -> list[importlib.metadata.EntryPoint]:
        """Return the entry points of this folder only: what else is installed does not matter to a test."""
        found = importlib.metadata.distributions(path=[str(self.folder)])
        return [point for distribution in found for point in distribution.entry_points]

    def host(self, *files: Path, **environ: str) -> Host:
        return Host.load(files, environ=environ, entry_points=self.points())


def make_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder.mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(str(folder))
    return Site(folder)


def fake_builtins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put small specs in place of the built-in ones, so that these tests depend on the host alone."""
    stage = Stage(name="only", channels=4, stride=(2, 2))
    net = BackboneSpec(
        name="net",
        summary="A net",
        build="types:SimpleNamespace",
        license="MIT",
        stages=(stage,),
        input=InputSpec(spatial_dims=2),
    )
    task = HeadSpec(
        name="task",
        summary="A task",
        build="types:SimpleNamespace",
        license="MIT",
        task="classification",
        target="class",
    )
    rule = PolicySpec(
        name="rule",
        summary="A rule",
        build="types:SimpleNamespace",
        license="MIT",
        parameters=(
            Parameter(name="n", default=1),
            Parameter(name="rate", default=0.5),
            Parameter(name="soft", default=False),
            Parameter(name="names", default=("a",)),
            Parameter(name="mode", default="fast"),
            Parameter(name="limit", default=None),
        ),
    )
    for name, spec in (("backbones", net), ("heads", task), ("policies", rule)):
        module = types.ModuleType(f"medtl_monai.builtin.{name}")
        module.SPECS = (spec,)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(builtin, name, module, raising=False)

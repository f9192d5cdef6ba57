"""The specs of the built-in heads: light, true to the code, and buildable from text options."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from medtl_monai.builtin.heads import SPECS
from medtl_monai.modules import Head
from medtl_monai.specs import HeadSpec


def _build(spec: HeadSpec) -> type[Head]:
    module, _, name = spec.build.partition(":")
    return getattr(importlib.import_module(module), name)


def test_specs_are_named_after_their_task() -> None:
    assert [spec.name for spec in SPECS] == ["classification", "multilabel", "regression", "segmentation"]
    assert [spec.target for spec in SPECS] == ["class", "classes", "number", "mask"]
    assert all(spec.spatial_dims == (2, 3) for spec in SPECS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_parameters_are_those_of_the_constructor(spec: HeadSpec) -> None:
    signature = inspect.signature(_build(spec))
    defaults = {n: p.default for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert defaults == {p.name: p.default for p in spec.parameters}
    assert defaults
    assert all(p.help for p in spec.parameters)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_builds_a_documented_head(spec: HeadSpec) -> None:
    build = _build(spec)
    assert issubclass(build, Head)
    documented = inspect.getdoc(build) or ""
    assert all(f"{p.name}:" in documented for p in spec.parameters)


def test_specs_import_nothing_heavy() -> None:
    code = (
        "import sys; import medtl_monai.builtin.heads;"
        "print(sorted({'torch','monai','numpy','scipy','pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The plugin as it is when installed, whether or not this environment has it."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import torch

from medtl_monai.host import Host

PLUGIN = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder with the distribution's metadata, made from its pyproject.toml."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site")
    info = folder / f"medtl_lora-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"]["medtl_monai"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[medtl_monai]", *points, ""]))
    return folder


@pytest.fixture
def host(site) -> Host:
    found = importlib.metadata.distributions(path=[str(site)])
    points = [point for distribution in found for point in distribution.entry_points]
    return Host.load(environ={}, entry_points=points)


@pytest.fixture
def installed(site, monkeypatch):
    """Make it visible to commands run in this process."""
    monkeypatch.syspath_prepend(str(site))

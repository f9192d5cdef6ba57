"""Who is found, and who is let in: entry points on sys.path, MEDTL_PLUGINS, MEDTL_BLOCK."""

from __future__ import annotations

import sys

import pytest
from helpers_host import HEALTHY, Site, fake_builtins, make_site

from medtl_monai.discovery import installed_entry_points
from medtl_monai.host import Host


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    fake_builtins(monkeypatch)
    return make_site(tmp_path / "site", monkeypatch)


@pytest.fixture
def modules(site) -> dict[str, str]:
    return {
        name: site.add(name, HEALTHY.replace("well", name), entry=f"{name}-point")
        for name in ("alpha", "beta", "gam_ma")
    }


def states(host: Host) -> dict[str, str]:
    return {record.distribution: record.state for record in host.plugins}


@pytest.mark.parametrize("item", ["beta", "BETA", "beta-point", "beta/beta-point", " beta , "])
def test_blocked_plugins_are_never_imported(item, site, modules):
    host = site.host(MEDTL_BLOCK=item)
    assert states(host) == {"medtl-monai": "active", "alpha": "active", "beta": "blocked", "gam_ma": "active"}
    assert host.plugin("beta").reason == "MEDTL_BLOCK names it"
    assert modules["beta"] not in sys.modules
    assert modules["alpha"] in sys.modules
    assert host.resolve("head", "alpha").build() is not None
    assert host.resolve("head", "task").build() is not None
    assert host.warnings == ()


def test_an_allow_list_lets_in_nobody_else(site, modules):
    host = site.host(MEDTL_PLUGINS="alpha,gam-ma/gam_ma-point")
    assert states(host) == {"medtl-monai": "active", "alpha": "active", "beta": "blocked", "gam_ma": "active"}
    assert host.plugin("beta").reason == "MEDTL_PLUGINS does not name it"
    assert modules["beta"] not in sys.modules


def test_an_empty_allow_list_leaves_the_builtins(site, modules):
    host = site.host(MEDTL_PLUGINS="")
    assert states(host) == {"medtl-monai": "active", "alpha": "blocked", "beta": "blocked", "gam_ma": "blocked"}
    assert not any(module in sys.modules for module in modules.values())
    assert [entry.qualified for entry in host.entries("head")] == ["medtl-monai:task"]


def test_blocking_wins_over_allowing(site, modules):
    assert states(site.host(MEDTL_PLUGINS="alpha,beta", MEDTL_BLOCK="alpha"))["alpha"] == "blocked"


def test_builtins_cannot_be_blocked_and_typing_errors_are_named(site, modules):
    host = site.host(MEDTL_BLOCK="medtl-monai,bta")
    assert states(host)["medtl-monai"] == "active"
    assert host.warnings == (
        "MEDTL_BLOCK names the built-ins, which cannot be blocked.",
        "MEDTL_BLOCK names 'bta', which is not installed. Did you mean 'beta'?",
    )
    assert "alhpa" in site.host(MEDTL_PLUGINS="alhpa,medtl-monai").warnings[0]


def test_installed_plugins_are_found_on_the_path(site, modules, monkeypatch):
    monkeypatch.delenv("MEDTL_PLUGINS", raising=False)
    names = [record.name for record in Host.load(environ={}).plugins]
    ours = [name for name in names if name.split("/")[0] in modules]
    assert ours == ["alpha/alpha-point", "beta/beta-point", "gam_ma/gam_ma-point"]


def test_the_environment_of_the_process_is_the_default(site, modules, monkeypatch):
    monkeypatch.setenv("MEDTL_PLUGINS", "beta")
    assert Host.load().plugin("alpha").state == "blocked"
    assert Host.load().plugin("beta").state == "active"


def test_the_first_distribution_of_a_name_on_the_path_counts(site, tmp_path, monkeypatch):
    site.add("Some_Plugin", HEALTHY, version="1.0")
    newer = make_site(tmp_path / "newer", monkeypatch)
    newer.add("some-plugin", HEALTHY, version="2.0")
    found = [p for p in installed_entry_points() if p.dist is not None and p.dist.name.lower().startswith("some")]
    assert [point.dist.version for point in found] == ["2.0"]


def test_a_damaged_installation_hides_nobody(site, modules):
    info = site.folder / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[medtl_monai]\n\xff\xfe = x")
    (info / "METADATA").write_text("Name: damaged\nVersion: 1.0\n")
    garbage = site.folder / "garbage-1.0.dist-info"
    garbage.mkdir()
    (garbage / "METADATA").write_text("Name: garbage\nVersion: 1.0\n")
    (garbage / "entry_points.txt").write_text("[medtl_monai]\nno equals sign\nbad = not a module!\n")
    host = Host.load(environ={})
    assert host.plugin("alpha").state == "active"
    assert host.resolve("head", "task").build() is not None


def test_a_distribution_without_metadata_goes_by_its_package(site):
    module = site.add("nameless", HEALTHY)
    (site.folder / "nameless-1.0.dist-info" / "METADATA").unlink()
    record = Host.load(environ={}).plugin(f"{module}/plug")
    assert record.state == "active"
    assert record.version == ""


def test_an_entry_point_that_names_no_module_is_broken(site, modules):
    site.add("odd", "", module="not a module!", files={})
    host = site.host()
    assert host.plugin("odd").state == "broken"
    assert states(host)["alpha"] == "active"

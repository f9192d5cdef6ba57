"""What a name means: short, qualified, ambiguous, unknown, with options; and what is built from it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from helpers_host import HEALTHY, Site, fake_builtins, make_site

from medtl_monai import specs
from medtl_monai.errors import ConfigError, DataError, PluginError


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    fake_builtins(monkeypatch)
    return make_site(tmp_path / "site", monkeypatch)


def test_a_short_name_works_while_one_plugin_offers_it(site):
    site.add("one", HEALTHY)
    host = site.host()
    assert host.resolve("head", "well") == host.resolve("head", "one:well")
    assert host.resolve("head", "well").qualified == "one:well"


def test_an_ambiguous_name_is_an_error_at_use_only(site):
    site.add("one", HEALTHY)
    site.add("two", HEALTHY)
    host = site.host()
    assert [record.state for record in host.plugins] == ["active"] * 3
    with pytest.raises(PluginError, match=r"more than one plugin.*Choose one of: one:well, two:well"):
        host.resolve("head", "well")
    for distribution in ("one", "two"):
        choice = host.resolve("head", f"{distribution}:well:size=7")
        assert choice.qualified == f"{distribution}:well"
        assert choice.build().kwargs == {"size": 7}
    assert host.resolve("head", "task").build() is not None


def test_a_name_shared_with_a_builtin_is_ambiguous_too(site):
    site.add("one", HEALTHY.replace("well", "task"))
    host = site.host()
    with pytest.raises(PluginError, match="medtl-monai:task, one:task"):
        host.resolve("head", "task")
    assert host.resolve("head", "medtl-monai:task").entry.plugin == "medtl-monai/builtin"


def test_two_distributions_with_the_same_entry_point_name_both_load(site):
    site.add("one", HEALTHY, entry="same")
    site.add("two", HEALTHY.replace("well", "fine"), entry="same")
    host = site.host()
    assert [record.name for record in host.plugins] == ["medtl-monai/builtin", "one/same", "two/same"]
    assert host.resolve("head", "well").build() is not None
    assert host.resolve("head", "fine").build() is not None


def test_one_distribution_never_offers_a_name_twice(site):
    site.add("one", HEALTHY, entry="first")
    site.add("one", HEALTHY, entry="second")
    host = site.host()
    assert [(r.entry_point, r.state) for r in host.plugins[1:]] == [("first", "active"), ("second", "broken")]
    assert "already offers a head named 'well'" in host.plugins[2].reason
    assert host.resolve("head", "one:well").entry.plugin == "one/first"


def test_an_entry_point_declared_twice_is_reported(site):
    site.add("one", HEALTHY)
    site.add("one", HEALTHY.replace("well", "other"))
    assert [record.state for record in site.host().plugins] == ["active", "active", "broken"]


def test_nobody_can_pass_for_the_builtins(site):
    site.add("Medtl_Monai", HEALTHY.replace("well", "task"))
    host = site.host()
    assert host.plugin("Medtl_Monai/plug").state == "broken"
    assert host.resolve("head", "medtl-monai:task").entry.plugin == "medtl-monai/builtin"


def test_the_same_name_in_two_kinds_is_no_conflict(site):
    site.add("one", HEALTHY + "@hookimpl\ndef medtl_freeze_policies():\n    yield policy('well')\n")
    host = site.host()
    assert host.resolve("head", "well").spec != host.resolve("policy", "well").spec


def test_distribution_names_compare_normalised(site):
    site.add("My_Heads.Extra", HEALTHY)
    assert site.host().resolve("head", "my-heads-extra:well").qualified == "My_Heads.Extra:well"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wel", "no head is called 'wel'. Did you mean 'well'?"),
        ("one:wel", "Did you mean 'one:well'?"),
        ("on:well", "Did you mean 'one:well'?"),
        ("nothing-like-it", "Choose from: task, well."),
        ("well:size", "Options are written well:size=VALUE"),
        ("", "is not a name"),
        ("a:b:c", "is not a name"),
        (":well", "is not a name"),
        ("size=3", "is not a name"),
    ],
)
def test_unknown_names_say_what_is_near(text, message, site):
    site.add("one", HEALTHY)
    with pytest.raises(PluginError) as caught:
        site.host().resolve("head", text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ("", {}),
        (":n=3", {"n": 3}),
        (":n=3,rate=2", {"n": 3, "rate": 2.0}),
        (":rate=1e-3", {"rate": 1e-3}),
        (":soft=yes", {"soft": True}),
        (":soft=FALSE", {"soft": False}),
        (":names=b+c", {"names": ("b", "c")}),
        (":names=", {"names": ()}),
        (":mode=a:b", {"mode": "a:b"}),
        (": n = 3 , mode = x ", {"n": 3, "mode": "x"}),
        (":limit=4", {"limit": 4}),
        (":limit=0.5", {"limit": 0.5}),
        (":limit=true", {"limit": True}),
        (":limit=text", {"limit": "text"}),
        (":limit=none", {"limit": None}),
    ],
)
@pytest.mark.parametrize("name", ["rule", "medtl-monai:rule"])
def test_options_take_the_type_of_the_default(name, options, parameters, site):
    defaults = {"n": 1, "rate": 0.5, "soft": False, "names": ("a",), "mode": "fast", "limit": None}
    choice = site.host().resolve("policy", name + options)
    expected = {**defaults, **parameters}
    assert choice.parameters == expected
    assert {k: type(v) for k, v in choice.parameters.items()} == {k: type(v) for k, v in expected.items()}
    assert vars(choice.build()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rat=1", "unknown option 'rat'. Did you mean 'rate'? Its options are: limit, mode, n, names, rate, soft."),
        ("zzz=1", "Choose from: limit, mode, n, names, rate, soft."),
        ("n=1.5", "option n='1.5' is not a whole number"),
        ("rate=fast", "option rate='fast' is not a number"),
        ("rate=nan", "is not a number"),
        ("soft=maybe", "is not true or false"),
        ("n=1,n=2", "option 'n' is given twice"),
        ("n=1,2", "option '2' is not key=value"),
        ("n=1,", "option '' is not key=value"),
    ],
)
def test_options_that_do_not_fit(options, message, site):
    with pytest.raises(ConfigError) as caught:
        site.host().resolve("policy", f"rule:{options}")
    assert message in str(caught.value)


def test_stored_parameters_give_the_same_choice(site):
    host = site.host()
    choice = host.resolve("policy", "rule:n=4,names=x+y,soft=on")
    stored = json.loads(json.dumps(choice.provenance()))
    assert host.resolve("policy", stored["name"], stored["parameters"]) == choice
    with pytest.raises(ConfigError, match="of type int"):
        host.resolve("policy", "rule", {"n": "four", "mode": 3} | {"n": True})


def test_an_option_of_a_spec_without_options(site):
    with pytest.raises(ConfigError, match="It takes no options"):
        site.host().resolve("head", "task:size=3")


def test_provenance_names_everything(site):
    site.add("one", HEALTHY, version="2.5")
    choice = site.host().resolve("head", "well:size=9")
    assert choice.provenance() == {
        "kind": "head",
        "name": "one:well",
        "plugin": "one/plug",
        "distribution": "one",
        "version": "2.5",
        "digest": specs.digest(choice.spec),
        "parameters": {"size": 9},
        "file_sha256": None,
    }


def test_build_passes_what_the_host_adds(site):
    site.add("one", HEALTHY)
    built = site.host().resolve("head", "well").build("context", extra=1)
    assert built.args == ("context",)
    assert built.kwargs == {"size": 3, "extra": 1}


@pytest.mark.parametrize(
    ("build", "cause", "message"),
    [
        ("a_module_that_is_not_there:x", ModuleNotFoundError, "Install 'a_module_that_is_not_there'"),
        (":Missing", AttributeError, "has no attribute 'Missing'"),
        (":constant", TypeError, "is a int, not a callable"),
        (":fails", ZeroDivisionError, "ZeroDivisionError: division by zero"),
        (":leaves", SystemExit, "SystemExit(4)"),
        (":recurses", RecursionError, "RecursionError"),
    ],
)
def test_what_plugin_code_raises_names_plugin_spec_and_reference(build, cause, message, site):
    site.add(
        "one",
        f"""
        constant = 3
        def fails(): 1 / 0
        def leaves(): raise SystemExit(4)
        def recurses(): recurses()

        @hookimpl
        def medtl_heads():
            yield head("bad", build="{build}")
        """,
    )
    host = site.host()
    with pytest.raises(PluginError) as caught:
        host.resolve("head", "bad").build()
    assert isinstance(caught.value.__cause__, cause)
    for part in ("'bad'", "one/plug", repr(build), message):
        assert part in str(caught.value)
    assert host.resolve("head", "task").build() is not None


def test_a_plugins_own_medtl_error_and_the_users_interrupt_pass_through(site):
    site.add(
        "one",
        """
        from medtl_monai.errors import DataError

        def says(): raise DataError("too few cases")
        def stops(): raise KeyboardInterrupt

        @hookimpl
        def medtl_heads():
            yield head("says", build=":says")
            yield head("stops", build=":stops")
        """,
    )
    host = site.host()
    with pytest.raises(DataError, match="too few cases"):
        host.resolve("head", "says").build()
    with pytest.raises(KeyboardInterrupt):
        host.resolve("head", "stops").build()


def test_a_choice_can_be_pickled(site):
    site.add("one", HEALTHY)
    choice = site.host().resolve("head", "well:size=2")
    again = pickle.loads(pickle.dumps(choice))
    assert again == choice
    assert again.build().kwargs == {"size": 2}


def test_finding_a_plugin_by_any_of_its_names(site):
    site.add("one", HEALTHY, entry="first")
    site.add("two", HEALTHY, entry="both")
    site.add("three", HEALTHY, entry="both")
    host = site.host()
    for name in ("one/first", "one", "first", "ONE"):
        assert host.plugin(name).name == "one/first"
    with pytest.raises(PluginError, match="Choose one of: three/both, two/both"):
        host.plugin("both")
    with pytest.raises(PluginError, match="Did you mean 'one/first'"):
        host.plugin("one/firs")


def test_records_are_plain_json(site):
    site.add("one", HEALTHY)
    rows = json.loads(json.dumps([record.to_json() for record in site.host().plugins]))
    assert {"name", "distribution", "version", "state", "reason"} <= set(rows[0])
    assert rows[1]["heads"] == ["well"]
    assert rows[1]["path"] is None
    assert not any(Path(str(value)).is_absolute() for value in rows[1].values())

"""One plugin's failure never touches another, the built-ins, or the output; and it is never silent."""

from __future__ import annotations

import sys

import pytest
from helpers_host import HEALTHY, PREAMBLE, Site, fake_builtins, make_site

from medtl_monai.errors import PluginError
from medtl_monai.host import KINDS, Host

FAILURES = {
    # name: (source, state, parts of the reason)
    "import-error": ("import a_package_that_is_not_there", "broken", ["at import", "ModuleNotFoundError"]),
    "syntax-error": ("def broken(:", "broken", ["at import", "SyntaxError"]),
    "exit-at-import": ("raise SystemExit(3)", "broken", ["at import", "SystemExit(3)"]),
    "exit-zero-at-import": ("import sys; sys.exit()", "broken", ["SystemExit(None)"]),
    "not-even-an-exception": ("class Panic(BaseException): ...\nraise Panic('rust')", "broken", ["Panic: rust"]),
    "unprintable-error": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "broken",
        ["at import: Odd"],
    ),
    "recursion-at-import": ("def f(): f()\nf()", "broken", ["at import", "RecursionError"]),
    "recursion-in-hook": (
        "@hookimpl\ndef medtl_heads():\n    return medtl_heads()",
        "broken",
        ["in medtl_heads", "RecursionError"],
    ),
    "exit-in-hook": ("@hookimpl\ndef medtl_heads():\n    raise SystemExit", "broken", ["in medtl_heads", "SystemExit"]),
    "misspelt-hook": (
        "@hookimpl\ndef medtl_head():\n    yield head('lost')",
        "broken",
        ["'medtl_head' is not a hook", "Did you mean 'medtl_heads'?"],
    ),
    "one-of-two-hooks-misspelt": (
        "@hookimpl\ndef medtl_heads():\n    yield head('lost')\n@hookimpl\ndef medtl_policies():\n    return []",
        "broken",
        ["'medtl_policies' is not a hook"],
    ),
    "unknown-argument": ("@hookimpl\ndef medtl_heads(device):\n    yield head('lost')", "broken", ["device"]),
    "argument-with-default": (
        "@hookimpl\ndef medtl_heads(size=3):\n    yield head('lost')",
        "broken",
        ["'size'", "without arguments"],
    ),
    "keyword-only-argument": ("@hookimpl\ndef medtl_heads(*, size=3):\n    yield head('lost')", "broken", ["'size'"]),
    "generator-fails-half-way": (
        "@hookimpl\ndef medtl_heads():\n    yield head('lost')\n    raise KeyError('weights')",
        "broken",
        ["in medtl_heads", "KeyError: 'weights'"],
    ),
    "second-hook-fails": (
        "@hookimpl\ndef medtl_heads():\n    yield head('lost')\n"
        "@hookimpl\ndef medtl_freeze_policies():\n    raise OSError('no file')",
        "broken",
        ["in medtl_freeze_policies", "OSError: no file"],
    ),
    "endless-generator": (
        "@hookimpl\ndef medtl_heads():\n    while True:\n        yield head('lost')",
        "broken",
        ["10000"],
    ),
    "returns-nothing": ("@hookimpl\ndef medtl_heads():\n    head('lost')", "broken", ["returned None"]),
    "returns-text": ("@hookimpl\ndef medtl_heads():\n    return 'lost'", "broken", ["type str"]),
    "returns-one-spec": ("@hookimpl\ndef medtl_heads():\n    return head('lost')", "broken", ["type HeadSpec"]),
    "returns-mapping": ("@hookimpl\ndef medtl_heads():\n    return {'lost': head('lost')}", "broken", ["type dict"]),
    "wrong-kind-of-spec": (
        "@hookimpl\ndef medtl_heads():\n    yield head('lost')\n    yield policy('x')",
        "broken",
        ["result 2", "PolicySpec", "HeadSpec"],
    ),
    "spec-class": ("@hookimpl\ndef medtl_heads():\n    return [HeadSpec]", "broken", ["result 1"]),
    "invalid-spec": (
        "@hookimpl\ndef medtl_heads():\n    yield head('Bad Name')",
        "broken",
        ["'Bad Name'", "not a valid name"],
    ),
    "spec-field-missing": ("@hookimpl\ndef medtl_heads():\n    yield HeadSpec(name='lost')", "broken", ["TypeError"]),
    "spec-not-inert": (
        "@hookimpl\ndef medtl_heads():\n    yield head('lost', license=object())",
        "broken",
        ["head lost"],
    ),
    "parameters-repeat": (
        "p = Parameter(name='n', default=1)\n@hookimpl\ndef medtl_heads():\n    yield head('lost', parameters=(p, p))",
        "broken",
        ["parameter names repeat"],
    ),
    "duplicate-names": (
        "@hookimpl\ndef medtl_heads():\n    yield head('lost')\n    yield head('lost', task='other')",
        "broken",
        ["two head specs", "'lost'"],
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef medtl_heads():\n    result = yield\n    return []",
        "broken",
        ["hook wrapper"],
    ),
    "no-hook": ("def medtl_heads():\n    yield head('lost')", "broken", ["no hook", "@hookimpl"]),
    "newer-contract": (
        "CONTRACT = 2\n@hookimpl\ndef medtl_heads():\n    yield head('lost')",
        "incompatible",
        ["contract 2", "Update medtl-monai"],
    ),
    "odd-contract": (
        "CONTRACT = '1'\n@hookimpl\ndef medtl_heads():\n    yield head('lost')",
        "broken",
        ["CONTRACT", "'1'"],
    ),
}


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    fake_builtins(monkeypatch)
    site = make_site(tmp_path / "site", monkeypatch)
    # Neighbours that load before and after the failing plugin.
    site.add("aaa-first", HEALTHY.replace('"well"', '"early"'))
    site.add("zzz-last", HEALTHY.replace('"well"', '"late"'))
    return site


def assert_the_others_work(host: Host) -> None:
    records = {record.distribution: record for record in host.plugins}
    for distribution, name in (("aaa-first", "early"), ("zzz-last", "late")):
        assert records[distribution].state == "active"
        assert records[distribution].heads == (name,)
        assert host.resolve("head", f"{name}:size=5").build("context").kwargs == {"size": 5}
    assert records["medtl-monai"].state == "active"
    for kind, name in (("backbone", "net"), ("head", "task"), ("policy", "rule")):
        assert host.resolve(kind, name).build() is not None
        assert host.resolve(kind, f"medtl-monai:{name}").build() is not None


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_plugin_is_a_row_and_nothing_else(case, site, capfd):
    source, state, parts = FAILURES[case]
    site.add("mmm-failing", source)
    stdout, limit = sys.stdout, sys.getrecursionlimit()

    host = site.host()
    record = host.plugin("mmm-failing")

    assert record.state == state
    assert record.name == "mmm-failing/plug"
    assert record.version == "1.0"
    for part in parts:
        assert part in record.reason
    assert "\n" not in record.reason
    # It left nothing behind.
    assert all(record.offers(kind) == () for kind in KINDS)
    assert all(entry.distribution != "mmm-failing" for kind in KINDS for entry in host.entries(kind))
    assert sys.stdout is stdout
    assert sys.getrecursionlimit() == limit
    with pytest.raises(PluginError, match=f"mmm-failing/plug is {state}"):
        host.resolve("head", "mmm-failing:lost")
    with pytest.raises(PluginError, match="medtl plugins"):
        host.resolve("head", "lost")
    assert_the_others_work(host)
    assert capfd.readouterr().out == ""


def test_every_failure_at_once(site):
    for case, (source, _, _) in FAILURES.items():
        site.add(f"bad-{case}", source)
    host = site.host()
    states = {record.distribution: record.state for record in host.plugins}
    assert len(states) == len(FAILURES) + 3
    assert {case: states[f"bad-{case}"] for case in FAILURES} == {c: state for c, (_, state, _) in FAILURES.items()}
    assert_the_others_work(host)


def test_what_a_plugin_prints_goes_to_stderr(site, capfd):
    site.add(
        "mmm-noisy",
        """
        import os
        print("at import")
        os.system("echo from a process")

        @hookimpl
        def medtl_heads():
            print("in the hook")
            yield head("noisy", build=":shout")

        def shout():
            print("in build")
            return "built"
        """,
    )
    host = site.host()
    assert host.plugin("mmm-noisy").state == "active"
    assert host.resolve("head", "noisy").build() == "built"
    out, err = capfd.readouterr()
    assert out == ""
    for text in ("at import", "from a process", "in the hook", "in build"):
        assert text in err
    print("the host's own")
    assert capfd.readouterr().out == "the host's own\n"
    assert_the_others_work(host)


@pytest.mark.parametrize("place", ["import", "hook"])
def test_the_users_interrupt_is_never_swallowed(place, site):
    source = "raise KeyboardInterrupt"
    if place == "hook":
        source = "@hookimpl\ndef medtl_heads():\n    yield head('x')\n    raise KeyboardInterrupt"
    site.add("mmm-interrupted", source)
    host, stdout = site.host(), sys.stdout
    with pytest.raises(KeyboardInterrupt):
        _ = host.plugins
    assert sys.stdout is stdout
    assert host.resolve("head", "medtl-monai:task").build() is not None


def test_an_interrupt_leaves_the_host_as_it_was(site, monkeypatch):
    module = site.add(
        "mmm-once",
        "import builtins\nif builtins.interrupts.pop():\n    raise KeyboardInterrupt\n" + HEALTHY,
    )
    monkeypatch.setattr("builtins.interrupts", [False, True], raising=False)
    host = site.host()
    with pytest.raises(KeyboardInterrupt):
        _ = host.plugins
    assert module not in sys.modules
    assert host.plugin("mmm-once").heads == ("well",)
    assert_the_others_work(host)


def test_hooks_without_the_marker_are_named(site):
    site.add(
        "mmm-half",
        "@hookimpl\ndef medtl_heads():\n    yield head('kept')\ndef medtl_freeze_policies():\n    yield policy('lost')",
    )
    record = site.host().plugin("mmm-half")
    assert record.state == "active"
    assert record.heads == ("kept",)
    assert record.warnings == ("medtl_freeze_policies lacks @hookimpl, so it is never called",)


def test_a_broken_builtin_is_a_row_too(site, monkeypatch):
    monkeypatch.setattr("medtl_monai.builtin.heads.SPECS", ("not a spec",))
    host = site.host()
    assert host.plugin("medtl-monai/builtin").state == "broken"
    assert host.resolve("head", "early").build() is not None


def test_qualified_builtins_import_no_third_party(site):
    module = site.add("mmm-unneeded", HEALTHY)
    host = site.host()
    assert host.resolve("policy", "medtl-monai:rule:n=4").parameters["n"] == 4
    assert module not in sys.modules
    assert host.plugin("mmm-unneeded").state == "active"
    assert module in sys.modules


def test_loading_is_idempotent(site):
    site.add("mmm-failing", FAILURES["import-error"][0])
    module = site.add(
        "mmm-counting", "import builtins\nbuiltins.imports = getattr(builtins, 'imports', 0) + 1\n" + HEALTHY
    )
    first, second = site.host(), site.host()
    assert first.plugins == second.plugins == first.plugins
    assert first.entries("head") == second.entries("head")
    assert sys.modules[module].builtins.imports == 1
    del sys.modules[module].builtins.imports


@pytest.mark.parametrize("name", ["import-error", "misspelt-hook", "invalid-spec", "newer-contract", "duplicate-names"])
def test_strict_raises(name, site):
    site.add("mmm-failing", FAILURES[name][0])
    with pytest.raises(Exception) as caught:  # noqa: PT011
        site.host(MEDTL_STRICT="1")
    text = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "mmm-failing/plug is" in text
    assert site.host(MEDTL_STRICT="0").plugin("mmm-failing").state != "active"


def test_strict_raises_the_plugins_own_exception(site):
    site.add("mmm-failing", FAILURES["import-error"][0])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        site.host(MEDTL_STRICT="1")


def test_strict_never_lets_a_plugin_exit_with_success(site):
    site.add("mmm-failing", "raise SystemExit(0)")
    with pytest.raises(PluginError, match="mmm-failing/plug is broken") as caught:
        site.host(MEDTL_STRICT="1")
    assert isinstance(caught.value.__cause__, SystemExit)


def test_strict_accepts_what_is_healthy_or_blocked(site):
    site.add("mmm-failing", "raise SystemExit(0)")
    host = site.host(MEDTL_STRICT="1", MEDTL_BLOCK="mmm-failing")
    assert host.plugin("mmm-failing").state == "blocked"
    assert_the_others_work(host)


def test_hooks_may_be_methods_of_an_object(site):
    module = "fake_object_plugin"
    source = (
        PREAMBLE
        + "class Offers:\n    @hookimpl\n    def medtl_heads(self):\n        yield head('method')\nplugin = Offers()\n"
    )
    site.add("mmm-object", "", module=f"{module}:plugin", files={f"{module}.py": source})
    host = site.host()
    assert host.plugin("mmm-object").module == module
    assert type(host.resolve("head", "method").build()).__name__ == "Built"

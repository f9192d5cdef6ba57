import pytest

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.keys import best_dialect, common_prefix, map_key, map_keys, suggest_prefixes, wrapped_dialect

MODEL = [f"stages.{stage}.{layer}.{leaf}" for stage in "abc" for layer in (0, 1) for leaf in ("weight", "bias")]


@pytest.mark.parametrize(
    ("pairs", "mapped"),
    [
        ((), "module.net.a.weight"),
        ((("module.", ""),), "net.a.weight"),
        ((("module.", ""), ("net.", "stages.")), "stages.a.weight"),
        ((("net.", "stages."),), "module.net.a.weight"),
        ((("", "x."),), "x.module.net.a.weight"),
    ],
)
def test_prefixes_are_replaced_in_order(pairs, mapped):
    assert map_key("module.net.a.weight", pairs) == mapped


@pytest.mark.parametrize(
    ("pairs", "mapped"),
    [
        ((("re:^layer(\\d)\\.", r"stages.layer\1."),), "stages.layer2.0.conv1.weight"),
        ((("re:conv(\\d)", r"conv.\1"),), "layer2.0.conv.1.weight"),
        ((("re:^stem", "x"),), "layer2.0.conv1.weight"),
        ((("re:[a-z]", "y"),), "yayer2.0.conv1.weight"),
        ((("layer2.", "layer3."), ("re:^layer3", "deep")), "deep.0.conv1.weight"),
    ],
)
def test_patterns_replace_their_first_match(pairs, mapped):
    assert map_key("layer2.0.conv1.weight", pairs) == mapped


@pytest.mark.parametrize("pair", [("re:(", "x"), ("re:(a)", r"\2")])
def test_a_wrong_pattern_is_named(pair):
    with pytest.raises(WeightsError, match="the key map's pattern") as caught:
        map_key("a", (pair,))
    assert caught.value.mend


DIALECTS = {"one": (("re:^block(\\d)\\.", r"stages.\1."),), "two": (("features.", "stages."),)}


@pytest.mark.parametrize(
    ("keys", "dialect"),
    [
        (["block1.w", "block2.w", "fc.w"], "one"),
        (["features.1.w", "features.2.w"], "two"),
        (["stages.1.w", "stages.2.w"], ""),
        (["nothing.w"], ""),
        (["features.1.w", "stages.1.w"], ""),
    ],
)
def test_the_dialect_that_says_most_is_found(keys, dialect):
    name, mapped, hits = best_dialect(keys, ["stages.1.w", "stages.2.w"], DIALECTS)
    assert name == dialect
    assert hits == sum(key in ("stages.1.w", "stages.2.w") for key in mapped)
    assert sorted(mapped.values()) == sorted(keys)


def test_a_dialect_behind_a_prefix_is_found():
    keys = ["module.net.block1.w", "module.net.block2.w"]
    assert wrapped_dialect(keys, ["stages.1.w", "stages.2.w"], DIALECTS) == ("module.net.", "one", 2)
    assert wrapped_dialect(["a.b"], ["stages.1.w"], DIALECTS) is None


def test_mapping_remembers_the_files_keys():
    assert map_keys(["m.a", "b"], (("m.", ""),)) == {"a": "m.a", "b": "b"}


def test_two_keys_for_one_name_are_refused():
    with pytest.raises(WeightsError, match=r"'m\.a' and 'a' both map to 'a'") as caught:
        map_keys(["m.a", "a"], (("m.", ""),), source="file.pt")
    assert caught.value.where == "file.pt"


@pytest.mark.parametrize(("old", "new"), [("module.", ""), ("module.net.", ""), ("net.", "stages."), ("", "stages.")])
def test_the_missing_prefix_is_found(old, new):
    keys = [old + key.removeprefix(new) for key in MODEL]
    assert suggest_prefixes([*keys, "fc.weight", "fc.bias"], MODEL) == (old, new, len(MODEL))


def test_half_a_match_is_counted():
    keys = [f"module.{key}" for key in MODEL[:6]]
    assert suggest_prefixes(keys, MODEL) == ("module.", "", 6)


def test_nothing_in_common():
    assert suggest_prefixes(["x.kernel", "y.kernel"], MODEL) is None
    assert suggest_prefixes([], MODEL) is None


def test_common_prefix():
    assert common_prefix(["a.b.c.weight", "a.b.d.bias"]) == "a.b."
    assert common_prefix(["a.weight", "b.weight"]) == ""
    assert common_prefix(["weight"]) == ""
    assert common_prefix([]) == ""

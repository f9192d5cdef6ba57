import pytest

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.keys import common_prefix, map_key, map_keys, suggest_prefixes

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

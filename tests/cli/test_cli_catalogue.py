"""medtl backbones, heads, policies: filters, wildcards, one entry in full, JSON."""

from __future__ import annotations

import json

import pytest

from medtl_monai.cli import main

PLUGIN = """
from medtl_monai.plugin import *

@hookimpl
def medtl_backbones():
    yield BackboneSpec(
        name="zoo-ct", summary="A net for CT", build=":x", license="MIT",
        stages=(Stage(name="stem", channels=16, stride=(2, 2, 1)), Stage(name="deep", channels=32, stride=(4, 4, 2))),
        input=InputSpec(
            spatial_dims=3, modality=("CT",), spacing_mm=(1.0, 1.0, 2.5), orientation="RAS", divisible_by=(4, 4, 2),
            intensity=Intensity(unit="HU", clip=(-1000.0, 400.0), normalise="fixed", mean=(0.5,), std=(0.25,)),
        ),
        weights=(WeightsSpec(
            id="ssl", uris=("https://example.org/w",), sha256="a" * 64, bytes=12_500_000, license="CC-BY-4.0",
            citation="Doe 2024", method="masked-autoencoder", datasets=("lidc",),
        ),),
        parameters=(Parameter(name="width", default=16, help="Channels of the stem."),),
        citations=("Doe, A network, 2023",),
    )
    yield BackboneSpec(
        name="zoo-any", summary="A flat net", build=":x", license="MIT",
        stages=(Stage(name="only", channels=8, stride=(2, 2)),), input=InputSpec(spatial_dims=2),
    )
    yield BackboneSpec(
        name="zoo-mr", summary="A net for MR", build=":x", license="MIT",
        stages=(Stage(name="only", channels=8, stride=(2, 2, 2)),), input=InputSpec(spatial_dims=3, modality=("MR",)),
    )

@hookimpl
def medtl_heads():
    yield HeadSpec(name="zoo-cox", summary="Survival", build=":x", task="survival", target="number", license="MIT",
                   spatial_dims=(3,), min_stages=2)
    yield HeadSpec(name="classification", summary="Mine", build=":x", task="classification", target="class",
                   license="MIT")

@hookimpl
def medtl_freeze_policies():
    yield PolicySpec(name="zoo-thaw", summary="Slowly", build=":x", license="MIT",
                     parameters=(Parameter(name="k", default=3), Parameter(name="names", default=("a", "b"))))
"""


@pytest.fixture
def options(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setenv("MEDTL_PLUGINS", "")
    path = tmp_path / "zoo.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return ["--plugin", str(path)]


def names(capsys) -> list[str]:
    return [row["name"] for row in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["backbones", "zoo*"], ["zoo-any", "zoo-ct", "zoo-mr"]),
        (["backbones", "zoo.py:*"], ["zoo-any", "zoo-ct", "zoo-mr"]),
        (["backbones", "list", "zoo*"], ["zoo-any", "zoo-ct", "zoo-mr"]),
        (["backbones", "zoo-?t"], ["zoo-ct"]),
        (["backbones", "zoo-??"], ["zoo-ct", "zoo-mr"]),
        (["backbones", "zoo*", "--dims", "3"], ["zoo-ct", "zoo-mr"]),
        (["backbones", "zoo*", "--dims", "2"], ["zoo-any"]),
        (["backbones", "--modality", "ct", "zoo*"], ["zoo-any", "zoo-ct"]),
        (["backbones", "zoo*", "--modality", "CT", "--dims", "3"], ["zoo-ct"]),
        (["backbones", "nothing*"], []),
        (["heads", "zoo*"], ["zoo-cox"]),
        (["heads", "zoo*", "--dims", "2"], []),
        (["heads", "--task", "survival"], ["zoo-cox"]),
        (["heads", "--task", "list"], []),
        (["policies", "zoo-*"], ["zoo-thaw"]),
    ],
)
def test_filters(arguments, expected, options, capsys):
    assert main([*arguments, "--json", *options]) == 0
    assert names(capsys) == expected


@pytest.mark.parametrize("kind", ["backbones", "heads", "policies"])
def test_builtins_are_listed_first(kind, options, capsys):
    assert main([kind, "--json", *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    plugins = [row["plugin"] for row in rows]
    assert plugins == sorted(plugins, key=lambda name: name != "medtl-monai/builtin")
    assert set(plugins) == {"medtl-monai/builtin", "zoo.py"}
    for row in rows:
        assert row["qualified"] == f"{row['distribution']}:{row['name']}"
        assert {"kind", "version", "digest", "summary", "build", "license", "parameters", "citations"} <= set(row)


def test_the_table_qualifies_shared_names_only(options, capsys):
    assert main(["heads", *options]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "medtl-monai:classification" in first
    assert "zoo.py:classification" in first
    assert "zoo-cox" in first


def test_nothing_found_is_a_note(options, capsys):
    assert main(["backbones", "zoo-tc", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("note: no backbone matches. Did you mean 'zoo-ct'")


def test_show_backbone_tells_everything(options, capsys):
    assert main(["backbones", "show", "zoo-ct", *options]) == 0
    out = capsys.readouterr().out
    for text in (
        *("zoo.py:zoo-ct", "A net for CT", "CT", "1×1×2.5 mm", "RAS", "4×4×2", "unit HU", "-1000 … 400", "fixed"),
        *("stem", "16", "2×2×1", "deep", "4×4×2", "ssl", "masked-autoencoder", "lidc", "12.5 MB", "CC-BY-4.0"),
        *("Doe 2024", "Doe, A network, 2023", "width=16", "Channels of the stem.", "MIT"),
    ):
        assert text in out


def test_show_backbone_without_weights(options, capsys):
    assert main(["backbones", "show", "zoo-any", *options]) == 0
    assert "starts from scratch" in capsys.readouterr().out


def test_show_head_and_policy(options, capsys):
    assert main(["heads", "show", "zoo-cox", *options]) == 0
    out = capsys.readouterr().out
    for text in ("survival", "number", "at least 2", "none"):
        assert text in out
    assert main(["policies", "show", "zoo-thaw", *options]) == 0
    out = capsys.readouterr().out
    for text in ("Slowly", "k=3", "names=a+b"):
        assert text in out


def test_show_as_json_is_one_object(options, capsys):
    assert main(["backbones", "show", "zoo-ct", "--json", *options]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert main(["backbones", "zoo-ct", "--json", *options]) == 0
    assert [shown] == json.loads(capsys.readouterr().out)
    assert shown["stages"][1] == {"name": "deep", "channels": 32, "stride": [4, 4, 2]}


def test_show_an_ambiguous_or_unknown_name(options, capsys):
    assert main(["heads", "show", "classification", *options]) == 2
    assert "medtl-monai:classification, zoo.py:classification" in capsys.readouterr().err
    assert main(["heads", "show", "zoo-cxo", *options]) == 2
    assert "Did you mean 'zoo-cox'?" in capsys.readouterr().err


def test_help_of_the_list_is_what_help_shows(capsys):
    assert main(["backbones", "--help"]) == 0
    out = capsys.readouterr().out
    for text in ("--dims", "--modality", "show NAME"):
        assert text in out

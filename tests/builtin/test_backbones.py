"""The specs: what is offered, and that reading them costs nothing."""

import subprocess
import sys

import pytest
from helpers_backbones import BY_NAME, build

from medtl_monai.builtin.backbones import SPECS
from medtl_monai.errors import ConfigError

NAMES = {
    *(f"resnet{depth}-{dims}d" for depth in (10, 18, 34, 50) for dims in (2, 3)),
    *(
        f"{family}-{dims}d"
        for family in ("densenet121", "segresnet", "unet", "dynunet", "swinunetr")
        for dims in (2, 3)
    ),
    "efficientnet-b0-2d",
}
SMALL = ("resnet10-2d", "densenet121-2d", "efficientnet-b0-2d", "segresnet-2d", "unet-2d", "dynunet-2d", "swinunetr-2d")


def test_names():
    assert {spec.name for spec in SPECS} == NAMES
    assert len(SPECS) == len(NAMES)


def test_specs_import_nothing_heavy():
    code = (
        "import sys, medtl_monai.builtin.backbones\n"
        "heavy = {'torch', 'monai', 'numpy', 'pydicom', 'pandas', 'scipy', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), 'medtl_monai.builtin.backbones' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "[] True"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_spec_says_what_a_user_needs(spec):
    assert spec.license == "Apache-2.0"
    assert all(any(f" {year}" in citation for year in range(2015, 2027)) for citation in spec.citations)
    assert spec.citations
    assert spec.weights == ()
    assert spec.input.intensity.normalise == "zscore"
    assert spec.input.variable_channels
    assert f"{spec.input.spatial_dims}D" in spec.summary
    assert spec.parameters
    assert all(parameter.help for parameter in spec.parameters)
    deepest = spec.stages[-1].stride
    assert all(step % stride == 0 for step, stride in zip(spec.input.divisible_by, deepest, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_is_an_option_of_build(name):
    spec = BY_NAME[name]
    given = build(name, 1, **{p.name: p.default for p in spec.parameters})
    assert given.stage_specs == spec.stages
    assert given.input_spec == spec.input
    assert given.state_dict().keys() == build(name, 1).state_dict().keys()


@pytest.mark.parametrize("name", SMALL)
def test_unknown_option_is_refused_with_a_suggestion(name):
    with pytest.raises(ConfigError, match=r"unknown option 'nrom'|unknown option 'feature_sizes'") as caught:
        build(name, 1, **({"feature_sizes": 24} if name.startswith("swin") else {"nrom": "batch"}))
    assert "Did you mean" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("resnet18-3d", "norm", "layer"),
        ("resnet18-3d", "levels", 1),
        ("resnet18-3d", "levels", 6),
        ("resnet18-3d", "levels", True),
        ("resnet18-3d", "features", 12),
        ("resnet18-3d", "features", "64"),
        ("resnet18-3d", "shortcut_type", "C"),
        ("resnet18-3d", "conv1_t_stride", 3),
        ("resnet18-3d", "conv1_t_size", 4),
        ("densenet121-2d", "growth_rate", 12),
        ("densenet121-2d", "dropout", 1),
        ("efficientnet-b0-2d", "norm", "none"),
        ("segresnet-3d", "levels", 7),
        ("segresnet-3d", "init_filters", 0),
        ("unet-3d", "levels", ("5", "5")),
        ("unet-3d", "levels", ("1",)),
        ("unet-3d", "levels", ("five",)),
        ("unet-3d", "first_stride", 4),
        ("unet-3d", "num_res_units", -1),
        ("dynunet-3d", "levels", ("2",)),
        ("dynunet-3d", "max_features", 100),
        ("swinunetr-3d", "feature_size", 32),
        ("swinunetr-3d", "window_size", 1),
    ],
)
def test_option_that_makes_no_network_is_refused(name, option, value):
    with pytest.raises(ConfigError) as caught:
        build(name, 1, **{option: value})
    assert option in str(caught.value)
    assert caught.value.mend

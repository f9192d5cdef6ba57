import json

import pytest
import torch
from helpers_transfer import STAGES, TinyBackbone, TinyHead, equal, model, snapshot
from torch import nn

from medtl_monai.errors import WeightsError
from medtl_monai.modules import Backbone
from medtl_monai.transfer.adapt import adapt_input_channels
from medtl_monai.transfer.coverage import CoverageReport
from medtl_monai.transfer.model import TransferModel
from medtl_monai.transfer.stages import stage_infos
from medtl_monai.transfer.weights import load_into


def source(**options):
    return {k: v.clone() for k, v in model(seed=3, **options).state_dict().items()}


def backbone_only(state):
    return {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}


def load(net, state, **options):
    return load_into(net, state, source="weights.pt", **options)


def assert_refused(net, state, match, **options):
    before = snapshot(net)
    with pytest.raises(WeightsError, match=match) as caught:
        load(net, state, **options)
    assert equal(before, snapshot(net)), "a refused file has changed the model"
    assert caught.value.where == "weights.pt"
    return caught.value


def test_a_runs_file_fills_backbone_and_neck_but_not_the_head():
    net, state = model(neck=True), source(neck=True)
    head = net.head.out.weight.detach().clone()
    report = load(net, state, sha256="abc")
    loaded = net.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items() if not k.startswith("head.out"))
    assert torch.equal(net.head.out.weight, head)
    assert not torch.equal(state["head.out.weight"], head)
    assert report.pretrained == {**dict.fromkeys(STAGES, True), "decoder": True, "head": False}
    assert (report.loaded, report.total, report.coverage) == (24, 24, 1.0)
    assert report.unused == ("head.out.weight", "head.out.bias")
    assert report.sha256 == "abc"


def test_a_backbones_file_fills_the_backbone():
    net, state = model(neck=True), backbone_only(source())
    report = load(net, state)
    assert equal(net.backbone.state_dict(), state)
    assert report.pretrained == {**dict.fromkeys(STAGES, True), "decoder": False, "head": False}
    assert report.unused == ()


def test_a_backbone_alone_can_be_loaded():
    backbone = TinyBackbone()
    report = load(backbone, backbone_only(source()))
    assert report.coverage == 1
    assert [s.name for s in report.stages] == list(STAGES)


def test_pretrained_is_measured_for_each_stage():
    net, state = model(), source()
    del state["backbone.stages.mid.conv.bias"]
    state["backbone.stages.top.conv.weight"] = torch.randn(8, 8, 5, 5)
    report = load(net, state, min_coverage=0.9)
    assert report.pretrained == {"stem": True, "low": True, "mid": False, "top": False, "head": False}
    assert [i.pretrained for i in stage_infos(net.stages, report.pretrained)] == [True, True, False, False, False]
    by_name = {s.name: s for s in report.stages}
    assert by_name["mid"].missing == ("backbone.stages.mid.conv.bias",)
    assert by_name["top"].mismatched[0].file == (8, 8, 5, 5)
    assert by_name["top"].mismatched[0].model == (8, 8, 3, 3)
    assert report.coverage == 22 / 24
    assert report.rows()[2] == {
        "stage": "mid",
        "role": "backbone",
        "loaded": 5,
        "total": 6,
        "missing": 1,
        "mismatched": 0,
        "pretrained": False,
    }


def test_below_the_threshold_nothing_happens():
    state = source()
    del state["backbone.stages.mid.conv.bias"]
    error = assert_refused(model(), state, "23 of 24 backbone tensors were loaded")
    assert "1 missing, 0 of another shape), 100% are needed" in str(error)


@pytest.mark.parametrize("prefix", ["module.", "module.backbone.", "model.encoder."])
def test_a_wrong_prefix_names_the_key_map_that_helps(prefix):
    net = model()
    state = {prefix + k: v for k, v in backbone_only(source()).items()}
    error = assert_refused(net, state, "0 of 24 backbone tensors")
    assert f"The file's keys start with {prefix!r}" in error.mend
    assert f"key_map=(({prefix!r}, ''),) would match 24 tensors" in error.mend
    assert load(net, state, key_map=((prefix, ""),)).coverage == 1


def test_other_stage_names_are_mapped():
    net, state = model(), {k.replace("stages.", "layers."): v for k, v in backbone_only(source()).items()}
    error = assert_refused(net, state, "0 of 24")
    assert "key_map=(('layers.', 'stages.'),)" in error.mend
    assert load(net, state, key_map=(("layers.", "stages."),)).coverage == 1


def test_another_network_is_told_apart():
    state = {f"encoder.{i}.kernel": torch.randn(3) for i in range(5)}
    error = assert_refused(model(), state, "0 of 24")
    assert "The file's keys all start with 'encoder.'" in error.mend
    assert "'stages.stem.conv.weight'" in error.mend


def test_other_shapes_are_shown():
    state = {k: torch.cat([v, v]) if v.ndim else v for k, v in source().items()}
    error = assert_refused(model(), state, "0 of 24 .*0 missing, 24 of another shape")
    assert "stages.stem.conv.weight is (16, 1, 3, 3) in the file and (8, 1, 3, 3) in the model" in error.mend


def test_an_empty_state_is_refused():
    assert_refused(model(), {}, "0 of 24")


def test_even_a_low_threshold_wants_something():
    assert_refused(model(), {"x.y": torch.ones(1)}, "0 of 24", min_coverage=0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    state = source()
    state["backbone.stages.low.conv.weight"][0, 0, 0, 0] = bad
    assert_refused(model(), state, r"'backbone\.stages\.low\.conv\.weight' is not finite")


def test_broadcasting_is_no_fit():
    state = source()
    state["backbone.stages.low.norm.weight"] = torch.ones(1)
    assert_refused(model(), state, "23 of 24")


def test_integers_are_no_weights():
    state = source()
    state["backbone.stages.low.norm.weight"] = torch.ones(8, dtype=torch.int64)
    assert_refused(model(), state, "23 of 24")


def test_half_precision_is_widened_and_recorded():
    net = model()
    state = {k: v.half() if v.is_floating_point() else v for k, v in source().items()}
    report = load(net, state)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert report.adaptations[0] == "backbone.stages.stem.conv.weight: float16 to float32"
    assert torch.equal(net.backbone.stages["low"].conv.weight.half(), state["backbone.stages.low.conv.weight"])


def test_the_batch_counter_may_be_missing_and_is_loaded_if_not():
    net, state = model(), source()
    counters = [k for k in state if k.endswith("num_batches_tracked")]
    assert len(counters) == 4
    for key in counters:
        state[key] = torch.tensor(7)
    assert load(net, state).total == 24
    assert net.backbone.stages["low"].norm.num_batches_tracked == 7
    without = {k: v for k, v in state.items() if k not in counters}
    report = load(model(), without)
    assert report.coverage == 1
    assert all(report.pretrained[name] for name in STAGES)


def test_the_batch_counter_counts_where_the_statistics_need_it():
    net, state = model(), source()
    net.backbone.stages["low"].norm.momentum = None  # cumulative: a counter of 0 would overwrite what was loaded
    without = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    report = load(net, without, min_coverage=0.9)
    assert report.total == 25
    assert report.pretrained == {"stem": True, "low": False, "mid": True, "top": True, "head": False}


def test_half_a_neck_stays_as_it_was_built():
    net, state = model(neck=True), source(neck=True)
    before = snapshot(net)
    state["head.necks.decoder.1.weight"] = torch.ones(9)
    report = load(net, state)
    assert not report.pretrained["decoder"]
    assert report.coverage == 1
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items() if k.startswith("head."))
    assert {m.name for m in report.stages[-2].mismatched} == {"head.necks.decoder.1.weight"}
    assert "head.necks.decoder.0.weight" in report.unused


def test_input_channels_are_adapted_where_asked_and_recorded():
    net = TransferModel(TinyBackbone("group", in_channels=2), TinyHead())
    state = TransferModel(TinyBackbone("group", in_channels=3), TinyHead()).state_dict()
    assert_refused(net, state, "15 of 16")
    report = load(net, state, in_channels=2)
    kernel = state["backbone.stages.stem.conv.weight"]
    assert torch.equal(net.backbone.stages["stem"].conv.weight, adapt_input_channels(kernel, 2))
    assert report.adaptations == ("backbone.stages.stem.conv.weight: input channels 3 to 2 (cycled and scaled by 3/2)",)
    assert report.pretrained["stem"]


def test_three_channels_to_one_are_summed():
    net = TransferModel(TinyBackbone("group", in_channels=1), TinyHead())
    rgb = TransferModel(TinyBackbone("group", in_channels=3), TinyHead())
    report = load(net, rgb.state_dict(), in_channels=1)
    image = torch.randn(2, 1, 8, 8)
    for grey, colour in zip(net.backbone(image), rgb.backbone(image.expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(grey, colour, atol=1e-5)
    assert "(summed)" in report.adaptations[0]


def test_only_the_first_stage_is_adapted_to_the_input():
    net, state = model("group"), source(norm="group")
    state["backbone.stages.low.conv.weight"] = torch.randn(8, 3, 3, 3)
    assert_refused(net, state, "15 of 16", in_channels=8)


def test_2d_kernels_are_inflated_where_asked_and_recorded():
    flat, deep = model("group"), model("group", dims=3, seed=1)
    state = flat.state_dict()
    assert_refused(deep, state, "12 of 16 .*4 of another shape")
    report = load(deep, state, inflation="repeat")
    assert report.adaptations[0] == "backbone.stages.stem.conv.weight: 2D kernel inflated to (3, 3, 3) (repeat)"
    assert len(report.adaptations) == 4
    assert torch.allclose(
        deep.backbone.stages["low"].conv.weight.sum(-1), flat.backbone.stages["low"].conv.weight, atol=1e-6
    )


def test_a_tensor_under_two_names_is_one_tensor():
    class Twice(Backbone):
        def __init__(self):
            super().__init__()
            stage = nn.Module()
            stage.first = nn.Conv2d(1, 8, 1)
            stage.again = stage.first
            self.stages = nn.ModuleDict({"only": stage})

    net = TransferModel(Twice(), TinyHead())
    report = load(net, {"stages.only.again.weight": torch.ones(8, 1, 1, 1), "stages.only.again.bias": torch.ones(8)})
    assert (report.loaded, report.total) == (2, 2)
    assert net.backbone.stages["only"].first.weight.mean() == 1


def test_report_survives_json():
    net, state = model(neck=True), source(neck=True)
    del state["backbone.stages.mid.conv.bias"]
    state["backbone.stages.top.conv.weight"] = torch.randn(8, 8, 5, 5)
    report = load(net, state, min_coverage=0.5)
    value = json.loads(json.dumps(report.to_json()))
    assert CoverageReport.from_json(value) == report
    assert value["coverage"] == 22 / 24
    assert value["pretrained"]["stem"] is True

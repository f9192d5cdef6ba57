from __future__ import annotations

import math

import pytest
import torch
from helpers_heads import batch_of, context, round_trip, scores, stages, train
from monai.losses import DiceCELoss as MonaiDiceCE
from monai.metrics import compute_dice
from torch import Tensor
from torch.nn import functional

from medtl_monai.builtin.task_heads.decoder import plan_decoder, strided_size
from medtl_monai.builtin.task_heads.mask_loss import DiceCELoss
from medtl_monai.builtin.task_heads.mask_scores import StructureDice
from medtl_monai.builtin.task_heads.segmentation import SegmentationHead
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.modules import Prediction
from medtl_monai.specs import Stage, TargetInfo

MASK = TargetInfo(kind="mask", columns=("mask",), classes=("background", "anterior", "posterior"), cases=10)


def features_of(pyramid: tuple[Stage, ...], size: tuple[int, ...], count: int = 1, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [strided_size(size, stage.stride) for stage in pyramid]
    return [torch.randn(count, s.channels, *n, generator=generator) for s, n in zip(pyramid, sizes, strict=True)]


def cubes(count: int, size: int, dims: int, seed: int) -> Tensor:
    """Make masks with one box of each of two structures."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, *[size] * dims, dtype=torch.long)
    for mask in masks:
        for label, low in ((1, 0), (2, size // 2)):
            corner = torch.randint(low, low + size // 4, (dims,), generator=generator)
            mask[tuple(slice(int(c), int(c) + size // 4) for c in corner)] = label
    return masks


def informative(pyramid: tuple[Stage, ...], masks: Tensor, seed: int) -> list[Tensor]:
    """Make taps whose first channels hold the masks at their own resolution, plus noise."""
    shape = tuple(masks.shape[1:])
    one_hot = functional.one_hot(masks, 3).movedim(-1, 1).float()
    pool = functional.adaptive_avg_pool3d if masks.ndim == 4 else functional.adaptive_avg_pool2d
    features = [0.5 * feature for feature in features_of(pyramid, shape, len(masks), seed)]
    for feature in features:
        feature[:, :3] += pool(one_hot, feature.shape[2:])
    return features


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("up", ["interpolate", "transposed"])
def test_learns(dims: int, up: str) -> None:
    torch.manual_seed(0)
    pyramid = stages((1,) * dims, (2,) * dims, (4,) * dims, channels=(4, 8, 8))
    masks, unseen = cubes(4, 16, dims, 0), cubes(4, 16, dims, 1)
    head = SegmentationHead(context(MASK, pyramid), up=up, channels=16)
    size = (16,) * dims
    losses = train(head, informative(pyramid, masks, 0), batch_of(masks, size), steps=70, lr=0.03)
    found = scores(head, informative(pyramid, unseen, 1), batch_of(unseen, size))["dice"]
    assert losses[-1] < 0.5 * losses[0]
    assert found.shape == (2,)
    assert (found > 0.7).all()


PATTERNS = {
    "unet": (stages((1, 1, 1), (2, 2, 2), (4, 4, 4)), (35, 50, 36), 2),
    "anisotropic": (stages((1, 2, 2), (2, 4, 4), (4, 8, 8)), (17, 34, 29), 2),
    "slices-kept": (stages((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)), (5, 35, 33), 3),
    "patch-stem": (stages((4, 4, 4), (8, 8, 8)), (35, 50, 36), 2),
    "thirds": (stages((3, 3, 3), (6, 6, 6), (18, 18, 18)), (35, 50, 36), 3),
    "three-halves": (stages((2, 2, 2), (3, 3, 3)), (20, 13, 21), 1),
    "resnet": (stages((2, 2, 2), (2, 2, 2), (4, 4, 4), (8, 8, 8)), (35, 50, 36), 2),
    "vit": (stages((16, 16, 16), (16, 16, 16), (16, 16, 16)), (48, 32, 32), 3),
    "one-level": (stages((2, 2, 2)), (9, 11, 7), 0),
    "crossing": (stages((1, 2, 2), (2, 1, 2), (4, 4, 4)), (17, 16, 19), 2),
    "flat-32": (stages((2, 2), (4, 4), (8, 8), (16, 16), (32, 32)), (101, 67), 4),
    "flat-uneven": (stages((1, 2), (2, 6)), (23, 50), 1),
}


@pytest.mark.parametrize("up", ["interpolate", "transposed"])
@pytest.mark.parametrize("name", PATTERNS)
def test_output_has_the_size_of_the_image(name: str, up: str) -> None:
    pyramid, size, necks = PATTERNS[name]
    head = SegmentationHead(context(MASK, pyramid), up=up, channels=4)
    output = head(features_of(pyramid, size, 2), batch_of(None, size))
    assert output.shape == (2, 3, *size)
    assert list(head.necks) == [f"up{i}" for i in range(1, necks + 1)]
    output.square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in head.parameters())
    assert bool(head.project.weight.grad.any())  # type: ignore[union-attr]
    assert output.std() > 0


def test_taps_may_be_rounded_down() -> None:
    pyramid, size = stages((2, 2, 2), (4, 4, 4)), (35, 50, 36)
    features = [torch.randn(1, s.channels, *(n // t for n, t in zip(size, s.stride, strict=True))) for s in pyramid]
    assert SegmentationHead(context(MASK, pyramid))(features, batch_of(None, size)).shape == (1, 3, *size)


def test_every_resolution_has_a_say() -> None:
    pyramid, size = stages((1, 1, 1), (2, 2, 2), (4, 4, 4)), (12, 12, 12)
    head = SegmentationHead(context(MASK, pyramid)).eval()
    features = features_of(pyramid, size)
    output = head(features, batch_of(None, size))
    for level in range(3):
        changed = [f + (i == level) * torch.randn_like(f) for i, f in enumerate(features)]
        assert (head(changed, batch_of(None, size)) - output).abs().max() > 1e-3


def test_of_equal_strides_the_deepest_tap_is_used() -> None:
    pyramid = stages((2, 2, 2), (2, 2, 2), (4, 4, 4), (4, 4, 4), channels=(3, 5, 7, 9))
    plan = plan_decoder(pyramid)
    assert plan.start == 3
    assert [(s.tap, s.in_channels, s.skip_channels) for s in plan.steps] == [(1, 9, 5)]


def test_a_thin_tap_does_not_starve_its_step() -> None:
    thin = stages((1, 1, 1), (2, 2, 2), channels=(1, 64))
    assert plan_decoder(thin).out_channels == 16


def test_widths_double_from_the_finest_and_never_exceed_the_tap() -> None:
    wide = stages(*[(2**i,) * 3 for i in range(1, 6)], channels=(64, 256, 512, 1024, 2048))
    assert [s.out_channels for s in plan_decoder(wide).steps] == [128, 128, 64, 32]
    slim = stages(*[(2**i,) * 3 for i in range(4)], channels=(16, 32, 64, 128))
    assert [s.out_channels for s in plan_decoder(slim).steps] == [64, 32, 16]


def test_output_stride_one_decodes_at_full_size() -> None:
    pyramid, size = stages((2, 2, 2), (4, 4, 4)), (9, 10, 11)
    plan = plan_decoder(pyramid, output_stride=1)
    assert [s.stride for s in plan.steps] == [(2, 2, 2), (1, 1, 1)]
    assert plan.steps[-1].tap is None
    head = SegmentationHead(context(MASK, pyramid), output_stride=1)
    assert head(features_of(pyramid, size), batch_of(None, size)).shape == (1, 3, *size)


def test_only_the_last_convolution_is_outside_the_necks() -> None:
    head = SegmentationHead(context(MASK, PATTERNS["unet"][0]))
    outside = [n for n, _ in head.named_parameters() if not n.startswith("necks.")]
    assert outside == ["project.weight", "project.bias"]
    assert head.project.weight.shape == (3, 16, 1, 1, 1)


def test_a_step_of_one_voxel_is_refused_where_it_would_be_erased() -> None:
    pyramid = stages((8, 8), (16, 16), (32, 32))
    features, batch = features_of(pyramid, (16, 16)), batch_of(None, (16, 16))
    with pytest.raises(DataError, match="one voxel"):
        SegmentationHead(context(MASK, pyramid)).eval()(features, batch)
    head = SegmentationHead(context(MASK, pyramid), norm="group").eval()
    assert head(features, batch).std() > 0


def test_logits_are_float32_under_autocast() -> None:
    pyramid = stages((2, 2), (4, 4))
    head = SegmentationHead(context(MASK, pyramid))
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features_of(pyramid, (16, 12)), batch_of(None, (16, 12)))
    assert output.dtype == torch.float32
    assert output.std() > 0


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_norms(norm: str) -> None:
    pyramid = stages((1, 1), (2, 2), channels=(6, 12))
    head = SegmentationHead(context(MASK, pyramid), norm=norm)
    assert head(features_of(pyramid, (9, 8), 2), batch_of(None, (9, 8))).std() > 0
    kinds = {"instance": torch.nn.InstanceNorm2d, "batch": torch.nn.BatchNorm2d, "group": torch.nn.GroupNorm}
    assert sum(isinstance(m, kinds[norm]) for m in head.modules()) == 2


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 3.0)])
def test_loss_equals_monai_where_nothing_is_ignored(batch_dice: bool, weights: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, 8, generator=generator)
    target = torch.randint(0, 3, (2, 6, 7, 8), generator=generator)
    ours = DiceCELoss(3, batch_dice=batch_dice, class_weights=weights)(logits, target)
    options = {"include_background": False, "softmax": True, "to_onehot_y": True, "batch": batch_dice}
    dice = MonaiDiceCE(**options, lambda_ce=0.0)(logits, target[:, None])
    cross = functional.cross_entropy(logits, target, weight=torch.tensor(weights) if weights else None)
    torch.testing.assert_close(ours, dice + cross)
    assert dice > 0.3
    assert cross > 0.3


@pytest.mark.parametrize("ignore", [-1, 3, 255])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_ignored_voxels_have_exactly_zero_gradient(ignore: int, batch_dice: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, 8, generator=generator).mul(5).requires_grad_()
    target = torch.randint(0, 3, (2, 6, 7, 8), generator=generator)
    ignored = torch.rand(target.shape, generator=generator) < 0.4
    criterion = DiceCELoss(3, ignore=ignore, batch_dice=batch_dice, class_weights=(1, 2, 3))
    loss = criterion(logits, target.masked_fill(ignored, ignore))
    loss.backward()
    gradient = logits.grad.movedim(1, -1)  # type: ignore[union-attr]
    assert torch.equal(gradient[ignored], torch.zeros_like(gradient[ignored]))
    assert (gradient[~ignored] != 0).all()
    other = logits.detach().clone().movedim(1, -1)
    other[ignored] += 7 * torch.randn(other[ignored].shape, generator=generator)
    again = criterion(other.movedim(-1, 1), target.masked_fill(ignored, ignore))
    torch.testing.assert_close(again, loss.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_loss_over_the_valid_voxels_equals_monai_on_those_voxels(batch_dice: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 10, 8, generator=generator), torch.randint(0, 3, (2, 10, 8), generator=generator)
    cropped = MonaiDiceCE(include_background=False, softmax=True, to_onehot_y=True, batch=batch_dice)(
        logits[:, :, :6], target[:, None, :6]
    )
    target[:, 6:] = 255
    torch.testing.assert_close(DiceCELoss(3, ignore=255, batch_dice=batch_dice)(logits, target), cropped)


def test_a_batch_that_is_all_ignored_has_zero_loss_and_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = DiceCELoss(3, ignore=255)(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))  # type: ignore[arg-type]


def test_loss_parts_have_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(1, 3, 5, 5, generator=generator), torch.randint(0, 3, (1, 5, 5), generator=generator)
    dice, cross = (DiceCELoss(3, dice_weight=d, ce_weight=1 - d)(logits, target) for d in (1, 0))
    both = DiceCELoss(3, dice_weight=0.25, ce_weight=2.0)(logits, target)
    torch.testing.assert_close(both, 0.25 * dice + 2 * cross)
    assert abs(dice - cross) > 0.1


def test_a_label_value_without_a_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"values \[7\]"):
        DiceCELoss(3, ignore=255)(torch.randn(1, 3, 2, 2), torch.tensor([[[0, 7], [255, 1]]]))


def test_predicts_probabilities_and_mask() -> None:
    pyramid = stages((1, 1), (2, 2))
    head = SegmentationHead(context(MASK, pyramid))
    output = torch.randn(2, 3, 5, 6)
    prediction = head.predict(output, batch_of(None, (5, 6)))
    assert prediction.probabilities is not None
    torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(2, 5, 6))
    assert prediction.mask is not None
    assert torch.equal(prediction.mask.long(), output.argmax(1))
    assert prediction.mask.unique().numel() == 3


def one_hot(mask: Tensor) -> Tensor:
    return functional.one_hot(mask.long(), 3).movedim(-1, 1)


def test_dice_equals_monai_and_arithmetic_where_all_structures_are_present() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(0, 3, (4, 6, 7, 8), generator=generator) for _ in range(2))
    guess[:, :3] = truth[:, :3]
    metric = StructureDice(2)
    for part in torch.arange(4).chunk(2):
        metric(guess[part, None], truth[part, None])
    expected = compute_dice(one_hot(guess), one_hot(truth), include_background=False)
    torch.testing.assert_close(metric.aggregate(), expected.mean(0))
    by_hand = [
        2 * ((g == 1) & (t == 1)).sum() / ((g == 1).sum() + (t == 1).sum()) for g, t in zip(guess, truth, strict=True)
    ]
    assert metric.aggregate()[0].item() == pytest.approx(float(sum(by_hand)) / 4)
    assert 0.3 < metric.aggregate()[0] < 0.9


def test_dice_tells_absence_from_failure() -> None:
    truth = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])[:, None, None]
    guess = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])[:, None, None]
    metric = StructureDice(2)
    raw = metric(guess, truth)
    assert raw[:2, 0].tolist() == pytest.approx([2 / 3, 0])
    assert math.isnan(raw[2, 0])  # absent from both
    values = metric.aggregate()
    assert values[0].item() == pytest.approx(1 / 3)
    assert math.isnan(values[1])
    metric.reset()
    assert metric.aggregate().isnan().all()


@pytest.mark.parametrize("ignore", [-1, 255])
def test_dice_leaves_ignored_voxels_out(ignore: int) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, guess = (torch.randint(0, 3, (2, 1, 9, 8), generator=generator) for _ in range(2))
    cropped = StructureDice(2)
    cropped(guess[:, :, :5], truth[:, :, :5])
    truth[:, :, 5:] = ignore
    whole, naive = StructureDice(2, ignore=ignore), StructureDice(2)
    whole(guess, truth)
    naive(guess, truth)
    torch.testing.assert_close(whole.aggregate(), cropped.aggregate())
    assert (whole.aggregate() - naive.aggregate()).abs().min() > 0.01


def test_a_structure_only_predicted_under_ignored_voxels_is_absent() -> None:
    metric = StructureDice(2, ignore=255)
    metric(torch.tensor([[[[1, 2]]]]), torch.tensor([[[[1, 255]]]]))
    assert metric.aggregate()[0] == 1
    assert math.isnan(metric.aggregate()[1])


def test_metric_is_fed_from_prediction_and_batch() -> None:
    head = SegmentationHead(context(MASK, PATTERNS["unet"][0]))
    ((name, metric),) = head.metrics().items()
    masks = cubes(2, 8, 3, 0)
    metric.fn(*metric.inputs(Prediction(mask=masks.short()), batch_of(masks)))
    assert (name, metric.mode, metric.components) == ("dice", "max", ("anterior", "posterior"))
    assert metric.fn.aggregate().tolist() == [1, 1]


def test_state_dict_round_trip() -> None:
    pyramid, size = stages((1, 1), (2, 2)), (6, 5)
    head = SegmentationHead(context(MASK, pyramid), class_weights=("1", "2", "3"))
    other = SegmentationHead(context(MASK, pyramid))
    round_trip(lambda: other, head, features_of(pyramid, size), batch_of(None, size))
    assert other.criterion.class_weight.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (TargetInfo(kind="mask", columns=("mask",), classes=("background",)), "no structure"),
        (TargetInfo(kind="mask", columns=("mask",), classes=("background", "a"), ignore=1), "also the class 'a'"),
        (TargetInfo(kind="class", columns=("x",), classes=("a", "b"), counts=(1, 1)), "kind 'mask'"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(target: TargetInfo, part: str) -> None:
    with pytest.raises(DataError, match=part) as error:
        SegmentationHead(context(target))
    assert error.value.mend


@pytest.mark.parametrize(
    "options",
    [
        {"up": "bilinear"},
        {"norm": "layer"},
        {"channels": 0},
        {"output_stride": 0},
        {"dice_weight": -1.0},
        {"class_weights": ("1", "2")},
        {"class_weights": ("1", "x", "2")},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SegmentationHead(context(MASK), **options)  # type: ignore[arg-type]

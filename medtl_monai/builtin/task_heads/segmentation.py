"""One class a voxel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medtl_monai.builtin.task_heads.checks import name_of, require_kind, within
from medtl_monai.builtin.task_heads.decoder import UpStage, plan_decoder, resize, strided_size
from medtl_monai.builtin.task_heads.mask_loss import DiceCELoss
from medtl_monai.builtin.task_heads.mask_scores import StructureDice
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.modules import Batch, Head, Metric, Prediction
from medtl_monai.specs import HeadContext, TargetInfo


class SegmentationHead(Head):
    """A pyramid decoder: from the coarsest tap up, each step joins the next finer one; Dice plus cross-entropy.

    The steps ``up1`` (coarsest) to ``upN`` are necks, which may be pretrained and frozen; the last 1×1 convolution is
    the stage ``"head"``. The output has the size of the image, whatever the strides of the backbone.

    Args:
        context: What the host knows of backbone and labels.
        channels: Channels of the finest step; see :func:`~medtl_monai.builtin.task_heads.decoder.plan_decoder`.
        output_stride: Largest stride at which the decoder may stop; the rest is linear interpolation of the logits.
            1 convolves at full size: finer, and several times as dear.
        up: ``"interpolate"`` or ``"transposed"``.
        norm: ``"instance"``, ``"batch"`` or ``"group"``.
        batch_dice: Compute the Dice loss over the batch instead of image by image.
        dice_weight: Weight of the Dice loss.
        ce_weight: Weight of the cross-entropy.
        class_weights: Weights of the classes in the cross-entropy, background first; empty = all 1.

    Raises:
        DataError: If there is no structure to learn, or the ignored label is one of the classes.
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        context: HeadContext,
        *,
        channels: int = 32,
        output_stride: int = 2,
        up: str = "interpolate",
        norm: str = "instance",
        batch_dice: bool = True,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        class_weights: Sequence[str | float] = (),
    ) -> None:
        super().__init__()
        target = context.target
        _check_labels(target)
        self.structures = target.classes[1:]
        self.ignore = target.ignore
        self.plan = plan_decoder(context.stages, channels=channels, output_stride=output_stride)
        for number, step in enumerate(self.plan.steps, start=1):
            self.necks[f"up{number}"] = UpStage(step, spatial_dims=context.spatial_dims, up=up, norm=norm)
        last = nn.Conv2d if context.spatial_dims == 2 else nn.Conv3d
        self.project = last(self.plan.out_channels, len(target.classes), kernel_size=1)
        self.criterion = DiceCELoss(
            len(target.classes),
            ignore=target.ignore,
            batch_dice=batch_dice,
            dice_weight=within("dice_weight", dice_weight, 0),
            ce_weight=within("ce_weight", ce_weight, 0),
            class_weights=_numbers(class_weights, len(target.classes)),
        )

    def forward(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Map taps ``[B, C, *spatial]`` to logits ``[B, K, *batch.spatial_size]``."""
        x = features[self.plan.start]
        for step, stage in zip(self.plan.steps, self.necks.values(), strict=True):
            skip = None if step.tap is None else features[step.tap]
            size = strided_size(batch.spatial_size, step.stride) if skip is None else skip.shape[2:]
            x = stage(x, skip, size)
        # float32: windows are summed and structures compared at this precision.
        return resize(self.project(x).float(), batch.spatial_size)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return Dice plus cross-entropy against label indices ``[B, *spatial]``."""
        return self.criterion(output, batch.labels())

    def predict(self, output: Tensor, batch: Batch) -> Prediction:
        """Return the probabilities ``[B, K, *spatial]`` and the label indices ``[B, *spatial]`` (int16)."""
        probabilities = output.float().softmax(dim=1)
        return Prediction(probabilities=probabilities, mask=probabilities.argmax(dim=1).short())

    def metrics(self) -> dict[str, Metric]:
        """Return the mean Dice over structures, each structure a component."""
        dice = StructureDice(len(self.structures), ignore=self.ignore)
        return {"dice": Metric(fn=dice, inputs=_masks, components=self.structures)}


def _masks(prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
    if prediction.mask is None:
        raise ValueError("this prediction has no mask")
    return prediction.mask.unsqueeze(1), batch.labels().unsqueeze(1)


def _numbers(weights: Sequence[str | float], classes: int) -> list[float]:
    try:
        numbers = [float(weight) for weight in weights]
    except ValueError:
        numbers = [-1.0]
    if numbers and (len(numbers) != classes or min(numbers) < 0 or max(numbers) == 0):
        raise ConfigError(
            f"{'+'.join(map(str, weights))} are not {classes} weights",
            where="head option class_weights",
            mend="Give one number a class, background first, such as 0.5+1+2",
        )
    return numbers


def _check_labels(target: TargetInfo) -> None:
    require_kind(target, "mask", "segmentation")
    if len(target.classes) < 2:
        raise DataError(
            "the masks hold no structure besides the background",
            where=name_of(target),
            mend="Check the masks, and data.structures",
        )
    if target.ignore is not None and 0 <= target.ignore < len(target.classes):
        raise DataError(
            f"the ignored label {target.ignore} is also the class {target.classes[target.ignore]!r}",
            where=name_of(target),
            mend="Set data.ignore_label to a value that is no structure, or leave that structure out",
        )

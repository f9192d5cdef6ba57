"""The specs of the built-in heads. The code is in ``task_heads`` and imported on first use."""

from __future__ import annotations

from medtl_monai.specs import HeadSpec, Parameter

_POOLING = (
    Parameter(name="pool", default="avg", help="Global pooling: avg, max, or avgmax (both side by side)."),
    Parameter(name="stages", default=1, help="How many of the backbone's last taps are pooled."),
)
_DROPOUT_HELP = "Share of pooled features dropped in training."

_CLASSIFICATION = HeadSpec(
    name="classification",
    summary="One class a case, two or more classes: pooling and a linear layer, cross-entropy",
    build="medtl_monai.builtin.task_heads.classification:ClassificationHead",
    task="classification",
    target="class",
    license="Apache-2.0",
    parameters=(
        *_POOLING,
        Parameter(name="dropout", default=0.2, help=_DROPOUT_HELP),
        Parameter(name="class_weights", default="balanced", help="balanced (inverse class share) or none."),
        Parameter(name="label_smoothing", default=0.0, help="Share of the target spread evenly over all classes."),
    ),
)

_MULTILABEL = HeadSpec(
    name="multilabel",
    summary="Several yes-or-no labels a case, some may be missing: binary cross-entropy",
    build="medtl_monai.builtin.task_heads.multilabel:MultilabelHead",
    task="multilabel",
    target="classes",
    license="Apache-2.0",
    parameters=(
        *_POOLING,
        Parameter(name="dropout", default=0.2, help=_DROPOUT_HELP),
        Parameter(name="pos_weight", default="balanced", help="balanced (negative / positive cases) or none."),
    ),
)

_REGRESSION = HeadSpec(
    name="regression",
    summary="One or several numbers a case, learnt standardised, given in label units",
    build="medtl_monai.builtin.task_heads.regression:RegressionHead",
    task="regression",
    target="number",
    license="Apache-2.0",
    parameters=(
        *_POOLING,
        Parameter(name="dropout", default=0.0, help=_DROPOUT_HELP),
        Parameter(name="loss", default="smooth-l1", help="mse, l1 or smooth-l1, on standardised values."),
    ),
)

_SEGMENTATION = HeadSpec(
    name="segmentation",
    summary="One class a voxel: a U-Net decoder on any pyramid of taps, Dice plus cross-entropy",
    build="medtl_monai.builtin.task_heads.segmentation:SegmentationHead",
    task="segmentation",
    target="mask",
    license="Apache-2.0",
    parameters=(
        Parameter(name="channels", default=32, help="Channels of the finest step; coarser ones have up to four times."),
        Parameter(name="output_stride", default=2, help="Largest stride at which the decoder may stop."),
        Parameter(name="up", default="interpolate", help="Upsampling: interpolate or transposed."),
        Parameter(name="norm", default="instance", help="Normalisation: instance, batch or group."),
        Parameter(name="batch_dice", default=True, help="Dice loss over the batch instead of image by image."),
        Parameter(name="dice_weight", default=1.0, help="Weight of the Dice loss."),
        Parameter(name="ce_weight", default=1.0, help="Weight of the cross-entropy."),
        Parameter(name="class_weights", default=(), help="Cross-entropy weights, background first, such as 0.5+1+2."),
    ),
    citations=(
        "Ronneberger O, Fischer P, Brox T. U-Net: Convolutional Networks for Biomedical Image Segmentation. "
        "MICCAI 2015.",
        "Milletari F, Navab N, Ahmadi S-A. V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image "
        "Segmentation. 3DV 2016.",
        "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
        "learning-based biomedical image segmentation. Nature Methods 2021.",
    ),
)

SPECS: tuple[HeadSpec, ...] = (_CLASSIFICATION, _MULTILABEL, _REGRESSION, _SEGMENTATION)
"""Every built-in head."""

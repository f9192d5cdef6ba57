"""The built-in freeze policies, as specs."""

from __future__ import annotations

from medtl_monai.specs import Parameter, PolicySpec

_LR = "Learning-rate factor of stages that received weights."


def _spec(name: str, summary: str, *parameters: Parameter, cite: tuple[str, ...] = ()) -> PolicySpec:
    return PolicySpec(
        name=name,
        summary=summary,
        build=f"medtl_monai.builtin.freezing:{name.replace('-', '_')}",
        license="Apache-2.0",
        parameters=parameters,
        citations=cite,
    )


SPECS: tuple[PolicySpec, ...] = (
    _spec("full", "Everything trains", Parameter(name="lr", default=1.0, help=_LR)),
    _spec("linear-probe", "Only the head trains, on frozen features"),
    _spec(
        "last-n",
        "The last n stages train, and the head",
        Parameter(name="n", default=1, help="How many of the stages that received weights."),
        cite=("Yosinski et al. 2014, How transferable are features in deep neural networks? arXiv:1411.1792",),
    ),
    _spec(
        "gradual",
        "The head first, then one more stage from the top every few epochs",
        Parameter(name="every", default=3, help="Epochs before the next stage joins."),
        Parameter(name="lr", default=1.0, help=_LR),
        cite=("Howard and Ruder 2018, Universal Language Model Fine-tuning. arXiv:1801.06146",),
    ),
    _spec(
        "gradual-on-plateau",
        "The head first, then one more stage from the top whenever the validation metric stalls",
        Parameter(name="lr", default=1.0, help=_LR),
        cite=("Howard and Ruder 2018, Universal Language Model Fine-tuning. arXiv:1801.06146",),
    ),
    _spec(
        "lp-ft",
        "A linear probe first, then everything, features slowly",
        Parameter(name="probe", default=0.3, help="Share of the epochs given to the probe."),
        Parameter(name="lr", default=0.1, help=f"{_LR[:-1]}, after the probe."),
        Parameter(name="decay", default=1.0, help="Further factor a stage, from the top down (llrd); 1 is off."),
        cite=("Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features. arXiv:2202.10054",),
    ),
    _spec(
        "llrd",
        "Everything trains, lower stages ever more slowly (layer-wise learning-rate decay)",
        Parameter(name="decay", default=0.75, help="Learning-rate factor from each stage to the one below."),
        cite=("Bao et al. 2022, BEiT: BERT Pre-Training of Image Transformers. arXiv:2106.08254",),
    ),
    _spec(
        "norm-only",
        "Only normalisation layers train, and the head",
        cite=("Frankle et al. 2021, Training BatchNorm and Only BatchNorm. arXiv:2003.00152",),
    ),
    _spec(
        "bitfit",
        "Only biases train (those of normalisation layers too), and the head",
        cite=("Ben Zaken et al. 2022, BitFit. arXiv:2106.10199",),
    ),
    _spec(
        "l2-sp",
        "Everything trains, pulled towards the pretrained weights instead of towards zero",
        Parameter(name="anchor", default=0.01, help="Strength of the pull."),
        cite=("Li et al. 2018, Explicit Inductive Bias for Transfer Learning. arXiv:1802.01483",),
    ),
    _spec(
        "surgical",
        "Chosen stages train, and the head",
        Parameter(name="stages", default=(), help="Names of the stages, such as layer1+layer2."),
        cite=("Lee et al. 2023, Surgical Fine-Tuning Improves Adaptation to Distribution Shifts. arXiv:2210.11466",),
    ),
)
"""The freeze policies that come with medtl."""

"""Which images make a case: one, or several that become channels, and which series of a study each of them is."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Literal

from medtl_monai.config import DataConfig, InputConfig, SelectConfig
from medtl_monai.dicom import Series, Study
from medtl_monai.dicom.select import Rules, narrow
from medtl_monai.errors import ConfigError

MEND_SELECT = "Say which with data.select (modality, description, orientation, part, …), or keep one series a study"
MEND_INPUTS = "Change the rules of data.inputs (modality, description, orientation, part, …), or repair the study"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """One of the images of a case.

    Attributes:
        name: What it is called; empty for the only image.
        rules: Which series it is.
        column: Column of its NIfTI paths.
        missing: What a case without it means: an error, a filled channel, or that the case is left out.
        min_coverage: Share of the first image's field that it must cover.
        frame_of_reference: Whether it must share the first image's frame of reference.
    """

    name: str = ""
    rules: Rules = dataclasses.field(default_factory=Rules)
    column: str = "image"
    missing: Literal["error", "fill", "drop"] = "error"
    min_coverage: float = 0.5
    frame_of_reference: Literal["same", "ignore"] = "same"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The images of a case, in the order of the channels.

    Attributes:
        items: At least one; the first gives the grid.
        channels: Names of the channels of the only image, where it is a four-dimensional NIfTI file.
        flat_apart: Whether each of several two-dimensional images of a study (radiographs) is a case of its own.
    """

    items: tuple[Input, ...] = (Input(),)
    channels: tuple[str, ...] = ()
    flat_apart: bool = False

    @classmethod
    def one(cls, rules: Rules | None = None) -> Inputs:
        """Return what is needed for a single image."""
        return cls(items=(Input(rules=rules or Rules()),))

    @classmethod
    def of(cls, config: DataConfig) -> Inputs:
        """Read ``data.inputs``, or ``data.image`` with ``data.select`` and ``data.channels``."""
        if config.inputs:
            return cls(items=tuple(_input(name, item) for name, item in config.inputs.items()))
        if len(config.image) > 1:
            return cls(items=tuple(Input(name=column, column=column) for column in config.image))
        only = Input(rules=rules_of(config.select), column=config.image[0] if config.image else "image")
        # A folder gives its class to every image in it; a row of a table, to one.
        return cls(items=(only,), channels=tuple(config.channels), flat_apart=config.layout == "class-folders")

    @property
    def several(self) -> bool:
        """Whether a case has more than one image."""
        return len(self.items) > 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels; empty for a single image without a name."""
        return self.channels or tuple(item.name for item in self.items if item.name)

    def check(self, config: DataConfig, *, dicom: bool) -> None:
        """Refuse what does not go with the kind of images there are.

        Args:
            config: What the user has set.
            dicom: Whether the images are DICOM.

        Raises:
            ConfigError: If DICOM rules are given for NIfTI files, or NIfTI columns for DICOM.
        """
        if not dicom:
            for key, item in [("data.select", config.select), *((f"data.inputs.{n}", i) for n, i in _pairs(config))]:
                if rules_of(item) != Rules():
                    what = "rules choose among DICOM series, and there is no studies folder"
                    raise ConfigError(what, where=key, mend="Give DICOM with --studies, or take the rules out")
            return
        named = [f"data.inputs.{name}.column" for name, item in _pairs(config) if item.column is not None]
        if len(config.image) > 1 or self.channels:
            named.append("data.channels" if self.channels else "data.image")
        if named:
            what = "this is for NIfTI files, and there is a studies folder of DICOM"
            raise ConfigError(what, where=named[0], mend="Name the series with data.inputs, or leave out data.studies")


def _pairs(config: DataConfig) -> list[tuple[str, InputConfig]]:
    return list(config.inputs.items())


def _input(name: str, config: InputConfig) -> Input:
    return Input(
        name=name,
        rules=rules_of(config),
        column=config.column or name,
        missing=config.missing,
        min_coverage=config.min_coverage,
        frame_of_reference=config.frame_of_reference,
    )


def rules_of(config: SelectConfig) -> Rules:
    """Return the rules of ``data.select`` or of one of ``data.inputs``."""
    values = {name: getattr(config, name) for name in SelectConfig.model_fields}
    return Rules.of({name: value for name, value in values.items() if value is not None})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The series of a study that the rules leave, and those they do not.

    Attributes:
        left: Candidates, best first; the image is clear when there is one.
        dropped: Each other series with the reason.
        name: Of the input; empty for the only image.
    """

    left: tuple[Series, ...]
    dropped: tuple[tuple[Series, str], ...] = ()
    name: str = ""

    @property
    def clear(self) -> bool:
        """Whether exactly one is left."""
        return len(self.left) == 1

    def explain(self) -> str:
        """Say in one clause, without identifiers, why the image is not clear: what is left, and what went why."""
        could = _some([item.summary() for item in self.left])
        gone = _some([f"{item.summary()} ({reason})" for item, reason in self.dropped])
        image = self.name or "its image"
        what = f"the study has {len(self.left)} series that could be {image}"
        return what + (f": {could}" if could else "") + (f"; left out: {gone}" if gone else "")


def choose_series(study: Study, rules: Rules, name: str = "") -> Choice:
    """Apply rules, then the default preferences: no localizers, derived images or stubs beside others."""
    left, dropped = narrow(study.series, rules)
    for item, reason in dropped:
        _log.debug("%s left out%s: %s", item.summary(), f" of {name}" if name else "", reason)
    return Choice(left=tuple(left), dropped=tuple(dropped), name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyImages:
    """What each input is in a study.

    Attributes:
        choices: One an input.
        unclear: The first input that must be one series and is none or several; None if there is none.
        incomplete: Whether the study is to be left out: an input with ``missing: drop`` is not there.
        clashes: Pairs of inputs that are one series, and that series.
    """

    choices: tuple[Choice, ...]
    unclear: Choice | None = None
    incomplete: bool = False
    clashes: tuple[tuple[str, str, Series], ...] = ()

    @property
    def clear(self) -> bool:
        """Whether each input is a series of its own, or may be missing."""
        return self.unclear is None and not self.clashes

    def why_unclear(self) -> str:
        """Say in one clause, without identifiers, why the images are not clear."""
        if self.unclear is not None:
            return self.unclear.explain()
        first, second, series = self.clashes[0]
        return f"one series is both {first} and {second}: {series.summary()}"

    @property
    def sources(self) -> tuple[Series | None, ...]:
        """The series of each input; None where there is none, or more than one."""
        return tuple(choice.left[0] if choice.clear else None for choice in self.choices)

    @property
    def flat(self) -> tuple[Series, ...]:
        """The two-dimensional images, where a study has several of the only input and nothing else."""
        left = self.choices[0].left
        apart = len(self.choices) == 1 and len(left) > 1 and not any(series.volumetric for series in left)
        return left if apart else ()


def choose_inputs(study: Study, inputs: Inputs) -> StudyImages:
    """Find each input by its own rules.

    No series is two inputs, and none is chosen among several: both are problems.
    """
    choices = tuple(choose_series(study, item.rules, item.name) for item in inputs.items)
    pairs = list(zip(inputs.items, choices, strict=True))
    unclear = (c for item, c in pairs if len(c.left) > 1 or (not c.left and item.missing == "error"))
    incomplete = any(not choice.left and item.missing == "drop" for item, choice in pairs)
    return StudyImages(
        choices=choices, unclear=next(unclear, None), incomplete=incomplete, clashes=tuple(_clashes(choices))
    )


def _clashes(choices: Sequence[Choice]) -> list[tuple[str, str, Series]]:
    clear = [(choice.name, choice.left[0]) for choice in choices if choice.clear]
    return [
        (name, other, series)
        for n, (name, series) in enumerate(clear)
        for other, twin in clear[n + 1 :]
        if twin is series
    ]


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")

"""Choose one series among several by declared rules; say why each other one was left out."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from medtl_monai.dicom import sop, stack
from medtl_monai.dicom.series import Series
from medtl_monai.errors import ConfigError, DicomError, did_you_mean

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What a series must be like.

    Attributes:
        modality: Allowed Modality values; empty allows all.
        image_type: Values ImageType must all contain; ``!VALUE`` excludes one.
        description: Regular expression searched in SeriesDescription, ignoring case.
        orientation: ``"axial"``, ``"coronal"`` or ``"sagittal"``: the nearest to the slice normal.
        thickness_mm: Lowest and highest slice distance.
        min_slices: Fewest slices of a volume; 1 accepts a lone slice.
        sop_class: Name or UID of the SOP class.
        part: Text the part's name must contain, such as ``"EchoTime 20"``.
        run: Which run of a series with gaps, where it is split at them: its number along the normal, from 1, or
            ``"longest"``.
        derived: True takes derived images only, False never; None prefers originals.
        localizer: True takes localizers only, False never; None prefers others.
    """

    modality: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    description: str = ""
    orientation: str = ""
    thickness_mm: tuple[float, float] | None = None
    min_slices: int = 2
    sop_class: str = ""
    part: str = ""
    run: int | Literal["longest"] | None = None
    derived: bool | None = None
    localizer: bool | None = None

    @classmethod
    def of(cls, rules: Mapping[str, Any] | Rules | None) -> Rules:
        """Build rules from a mapping, such as a section of the configuration.

        Raises:
            ConfigError: An unknown rule, or a value of the wrong kind.
        """
        if isinstance(rules, Rules):
            return rules
        values: dict[str, Any] = dict(rules or {})
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ConfigError(f"{name!r} is not a rule", where="select", mend=did_you_mean(name, known))
        for name in ("modality", "image_type"):
            if isinstance(values.get(name), str):
                values[name] = (values[name],)
        settled: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settled)

    def __post_init__(self) -> None:
        if self.orientation not in ("", "axial", "coronal", "sagittal"):
            raise ConfigError(
                f"{self.orientation!r} is not an orientation",
                where="select.orientation",
                mend="Use axial, coronal or sagittal",
            )
        if self.run is not None and self.run != "longest" and not (type(self.run) is int and self.run >= 1):
            mend = "Use a number from 1, or 'longest'"
            raise ConfigError(f"{self.run!r} is not a run", where="select.run", mend=mend)
        try:
            re.compile(self.description)
        except re.error as error:
            mend = "Escape what is meant literally, such as \\( for a bracket"
            raise ConfigError(f"not a regular expression ({error})", where="select.description", mend=mend) from error

    def rejection(self, series: Series) -> str:
        """Return why a series does not fit, or an empty string."""
        first = series.slices[0].header
        checks = (
            (self.modality and series.modality not in self.modality, f"modality {series.modality or 'missing'}"),
            (not _type_fits(self.image_type, first.image_type), "ImageType"),
            (self.description and not re.search(self.description, series.description, re.I), "description"),
            (self.orientation and orientation_name(series) != self.orientation, "orientation"),
            (self.thickness_mm is not None and not self._thickness_fits(series), "slice distance"),
            (self.sop_class and self.sop_class not in (first.sop_class, sop.uid_name(first.sop_class)), "SOP class"),
            (self.part and self.part not in series.part, "part"),
            (self.derived is not None and series.derived != self.derived, "derived" if series.derived else "original"),
            (self.localizer is not None and series.localizer != self.localizer, "localizer"),
        )
        return ", ".join(reason for failed, reason in checks if failed)

    def _thickness_fits(self, series: Series) -> bool:
        low, high = self.thickness_mm or (0.0, float("inf"))
        return series.spacing_mm is not None and low <= series.spacing_mm[2] <= high


def _type_fits(rules: Sequence[str], image_type: Sequence[str]) -> bool:
    return all((rule[1:] not in image_type) if rule.startswith("!") else rule in image_type for rule in rules)


def orientation_name(series: Series) -> str:
    """Return axial, coronal or sagittal, whichever is nearest to the slice normal; empty where unknown."""
    item = series.slices[0]
    return stack.orientation_name(item) if stack.plane_of(item).orientation else ""


def narrow(series: Sequence[Series], rules: Rules) -> tuple[list[Series], list[tuple[Series, str]]]:
    """Apply rules, then the default preferences where they leave something.

    Returns:
        The series left, best (most slices) first, and those left out with the reason.
    """
    left, out = [], []
    for item in series:
        reason = rules.rejection(item)
        (out.append((item, reason)) if reason else left.append(item))
    preferences = (
        ("localizer", lambda s: s.localizer, rules.localizer is None),
        ("derived", lambda s: s.derived, rules.derived is None),
        ("fewer slices than min_slices", lambda s: is_stub(s, rules.min_slices), True),
    )
    for reason, unwanted, active in preferences:
        if active and any(not unwanted(item) for item in left):
            out.extend((item, reason) for item in left if unwanted(item))
            left = [item for item in left if not unwanted(item)]
    left.sort(key=lambda s: (s.problem is not None, -s.shape[2], -s.shape[0] * s.shape[1]))
    return left, out


def is_stub(series: Series, min_slices: int) -> bool:
    """Whether a volume has fewer slices than it must; two-dimensional images are never stubs."""
    return series.volumetric and series.problem is None and series.shape[2] < min_slices


def _with_note(series: Series, reasons: Sequence[str]) -> Series:
    if not reasons:
        return series
    shown = ", ".join(f"{n} ({reason})" for reason, n in Counter(reasons).items())
    return dataclasses.replace(series, notes=(*series.notes, f"other series left out: {shown}"))


def choose(series: Sequence[Series], rules: Rules, where: str) -> Series:
    """Return the one series that the rules leave.

    Raises:
        DicomError: None is left, or more than one; the message lists them without identifiers.
    """
    left, reasons = _left(series, rules, where)
    if len(left) > 1:
        raise _several(left, where)
    return _with_note(left[0], reasons)


def choose_parts(series: Sequence[Series], rules: Rules, where: str) -> list[Series]:
    """Return all parts that the rules leave, which must belong to one series, in their own order.

    Raises:
        DicomError: None is left, or parts of more than one series.
    """
    left, reasons = _left(series, rules, where)
    if len({item.group for item in left}) > 1:
        raise _several(left, where)
    return [_with_note(item, reasons) for item in series if any(item is kept for kept in left)]


def _left(series: Sequence[Series], rules: Rules, where: str) -> tuple[list[Series], list[str]]:
    left, out = narrow(series, rules)
    for item, reason in out:
        _log.info("%s left out: %s", item.summary(), reason)
    if not left:
        reasons = "; ".join(f"{item.summary()}: {reason}" for item, reason in out[:8])
        raise DicomError(f"no series fits ({reasons})", where=where, mend="Change the selection rules")
    return left, [reason for _, reason in out]


def _several(left: Sequence[Series], where: str) -> DicomError:
    shown = "; ".join(f"({n}) {item.summary()}, {item.first_file}" for n, item in enumerate(left[:8], 1))
    more = f" and {len(left) - 8} more" if len(left) > 8 else ""
    return DicomError(
        f"{len(left)} series fit: {shown}{more}",
        where=where,
        mend="Narrow the choice with select (modality, part, run, description, orientation, image_type, …)",
    )

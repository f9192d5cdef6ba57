"""The cases of a run, and how their images and targets are read."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtl_monai.data.case import Case
from medtl_monai.data.channels import name_channels, stack
from medtl_monai.data.inputs import MEND_SELECT, Input, Inputs
from medtl_monai.data.masks import Labels, MaskScheme, read_mask
from medtl_monai.data.nifti import nifti_grid, read_nifti
from medtl_monai.data.target_info import target_info
from medtl_monai.dicom import Volume, read_volume
from medtl_monai.dicom.description import Description, describe
from medtl_monai.dicom.geometry import ChannelInfo
from medtl_monai.errors import DataError, MedtlError
from medtl_monai.specs import TargetInfo, TargetKind

OnGap = Literal["error", "interpolate", "split"]
Units = str | Mapping[str, str | None] | None
"""A unit to convert to while reading, or one for each input by its name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseTable:
    """All cases, and how to read them.

    Attributes:
        cases: In the order of the table.
        kind: What the targets are.
        columns: The label columns.
        classes: Class or label names in index order; for masks the structures, background first; empty for numbers.
        scheme: How mask values become labels.
        inputs: Which images a case has; the rules also say how few slices a volume may have.
        notes: What the user should know about how the table was read.
    """

    cases: tuple[Case, ...]
    kind: TargetKind
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    scheme: MaskScheme | None = dataclasses.field(default=None, repr=False)
    inputs: Inputs = dataclasses.field(default_factory=Inputs, repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        try:
            return self._by_id[case_id]
        except KeyError:
            mend = "Check that the table and MEDTL_ID_KEY are those of the run"
            raise DataError("there is no such case", where=f"case {case_id}", mend=mend) from None

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.case_id: case for case in self.cases}

    @property
    def ids(self) -> tuple[str, ...]:
        """All case ids, in the order of the table."""
        return tuple(case.case_id for case in self.cases)

    @property
    def ignore(self) -> int | None:
        """Mask value that the loss leaves out."""
        return self.scheme.ignore if self.scheme else None

    def info(self, case_ids: Iterable[str]) -> TargetInfo:
        """Describe the targets of the given (training) cases.

        Raises:
            DataError: If a class, label or structure is in none of them, or a number does not vary.
        """
        cases = [self[case_id] for case_id in case_ids]
        return target_info(
            self.kind,
            self.columns,
            self.classes,
            [case.target for case in cases],
            present=[case.present for case in cases],
            ignore=self.ignore,
        )

    @property
    def filled(self) -> dict[str, tuple[str, ...]]:
        """Input → the cases in which it is missing and is filled; inputs that are always there are left out."""
        found = {
            item.name: tuple(case.case_id for case in self.cases if not case.problem and case.sources[n] is None)
            for n, item in enumerate(self.inputs.items)
        }
        return {name: ids for name, ids in found.items() if ids}

    def read_volume(self, case: Case, *, on_gap: OnGap = "error", units: Units = None) -> Volume:
        """Read the image of a case; of several, all on the grid of the first.

        Args:
            case: One of the cases.
            on_gap: What to do with a series that misses slices.
            units: Unit to convert to while reading, such as ``"suvbw"``; by the name of the input where they differ.

        Returns:
            ``[i, j, k]``; ``[c, i, j, k]`` for colour and for several images, see
            :func:`medtl_monai.data.channels.stack`.

        Raises:
            DataError: If a NIfTI image cannot be used, or the images of a case do not go together.
            DicomError: If a series does not make a volume.
        """
        with _named(case):
            if case.problem is not None:
                raise case.problem
            volumes = [self._read(case, n, on_gap, units) for n in range(len(self.inputs.items))]
            if self.inputs.several:
                return stack(volumes, self.inputs.items)
            (volume,) = volumes
            if volume is None:
                raise DataError("the case has no image", mend=MEND_SELECT)
            return name_channels(volume, self.inputs.names)

    def _read(self, case: Case, n: int, on_gap: OnGap, units: Units) -> Volume | None:
        source, item = case.sources[n], self.inputs.items[n]
        if source is None:
            return None
        if isinstance(source, Path):
            return read_nifti(source, where=item.name or "image", channels=len(self.inputs.channels) or 1)
        with _at(item.name):
            return read_volume(source, select=item.rules, on_gap=on_gap, units=_unit(units, item))

    def describe_image(self, case: Case, *, on_gap: OnGap = "error", units: Units = None) -> Description:
        """Say what :meth:`read_volume` would return, from headers alone; whether images fit each other is not checked.

        Raises:
            DataError: If a NIfTI image cannot be used.
            DicomError: If a series does not make a volume, as far as headers tell.
        """
        with _named(case):
            if case.problem is not None:
                raise case.problem
            described = [self._describe(case, n, on_gap, units) for n in range(len(self.inputs.items))]
        first = described[0]
        if first is None:
            raise DataError("the case has no image", where=f"case {case.case_id}", mend=MEND_SELECT)
        names = self.inputs.names
        sources = described if self.inputs.several else [first] * len(names)
        if len(names) != (len(described) if self.inputs.several else first.channels):
            return first
        info = tuple(
            ChannelInfo(name=name, filled=True)
            if source is None
            else ChannelInfo(name=name, modality=source.modality, unit=source.unit)
            for name, source in zip(names, sources, strict=True)
        )
        return dataclasses.replace(first, channels=len(info), channel_info=info)

    def _describe(self, case: Case, n: int, on_gap: OnGap, units: Units) -> Description | None:
        source, item = case.sources[n], self.inputs.items[n]
        if source is None:
            return None
        if isinstance(source, Path):
            channels = len(self.inputs.channels) or 1
            shape, affine = nifti_grid(source, where=item.name or "image", channels=channels)
            return Description(shape=shape, affine=affine, channels=channels)
        with _at(item.name):
            return describe(source, select=item.rules, on_gap=on_gap, units=_unit(units, item))

    def read_target(
        self, case: Case, volume: Volume, notes: list[str] | None = None
    ) -> int | NDArray[np.float32] | Labels | None:
        """Return the target of a case.

        Args:
            case: One of the cases.
            volume: Its image.
            notes: Takes what was done beyond plain reading.

        Returns:
            The class index; float32 ``[L]`` for label sets and numbers (NaN = not labelled); int16 ``[i, j, k]`` on
            the volume's grid for masks; None without a target.

        Raises:
            DataError: If a mask does not fit its image or holds unknown values.
            DicomError: If a DICOM SEG or RTSTRUCT cannot be placed on the image.
        """
        if not isinstance(case.target, Path):
            return self.label(case)
        with _named(case):
            scheme = self.scheme or MaskScheme(structures=())
            return read_mask(case.target, volume, scheme, where="mask", notes=notes)

    def label(self, case: Case) -> int | NDArray[np.float32] | None:
        """Return the target of a case that is no mask, see :meth:`read_target`; None for a mask."""
        if isinstance(case.target, tuple):
            return np.asarray(case.target, np.float32)
        return None if isinstance(case.target, Path) else case.target


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """Put a place in front of that of an error raised inside; nothing if it is empty."""
    try:
        yield
    except MedtlError as error:
        if not place:
            raise
        where = f"{place}, {error.where}" if error.where else place
        raise type(error)(error.what, where=where, mend=error.mend) from error


def _named(case: Case) -> contextlib.AbstractContextManager[None]:
    return _at(f"case {case.case_id}")


def _unit(units: Units, item: Input) -> str | None:
    return units if units is None or isinstance(units, str) else units.get(item.name)

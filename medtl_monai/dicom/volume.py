"""Assemble one series into a volume: exact geometry, or a typed error."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medtl_monai.dicom import sop, stack
from medtl_monai.dicom.geometry import FloatArray, Volume
from medtl_monai.dicom.header import Header
from medtl_monai.dicom.index import scan
from medtl_monai.dicom.pixels import FrameReader, modality_values
from medtl_monai.dicom.runs import one_run, split_at_gaps
from medtl_monai.dicom.select import Rules, choose, choose_parts, is_stub
from medtl_monai.dicom.series import Series, Slice, StudyIndex
from medtl_monai.dicom.stack import Stack
from medtl_monai.dicom.suv import suv_factor
from medtl_monai.dicom.voi import apply_voi
from medtl_monai.errors import ConfigError, DicomError, MedtlError

_log = logging.getLogger(__name__)

OnGap = Literal["error", "interpolate", "split"]
MAX_VOLUME_BYTES = 2**35
"""Largest volume that is assembled, as float32."""
_AIR_HU = -1024.0
_MOST_MADE_UP = 4
"""Largest ratio of slices after to slices before interpolation."""


def read_volume(
    path: Path | str | Series,
    *,
    select: Mapping[str, Any] | Rules | None = None,
    on_gap: OnGap = "error",
    units: str | None = None,
    voi: bool = False,
) -> Volume:
    """Read one series into a volume.

    Slices are ordered by their position along the slice normal only. Stored values become modality values with each
    slice's own rescale; nothing else is done to them unless asked, and what is done is in ``Volume.notes``.

    Args:
        path: A :class:`Series` of a scan, a folder, a zip archive, or one file. A path must hold exactly one candidate.
        select: Rules that narrow a path down to one candidate, see :class:`medtl_monai.dicom.select.Rules`;
            ``{"min_slices": 1}`` accepts a lone slice of a volume.
        on_gap: What to do about missing or uneven slices: ``"error"`` names them; ``"interpolate"`` fills in between
            the neighbours, linearly, to the smallest distance; ``"split"`` makes the runs of slices at equal distances
            candidates of their own, of which ``select`` must leave one: ``{"run": "longest"}``, ``{"run": 1}``.
        units: Unit the values must be in, such as ``"HU"``; ``"SUVbw"`` converts PET. None takes what there is.
        voi: Apply the file's display window to 0 … 1. Two-dimensional display images only.

    Returns:
        float32 ``[i, j, k]`` (``[3, i, j, k]`` for colour) with its affine to RAS millimetres. The array is a view in
        slice order, contiguous along i.

    Raises:
        DicomError: Whatever would make the volume wrong; names file and attribute.
        ConfigError: ``select`` or ``on_gap`` is not valid.

    Example:
        >>> volume = read_volume("studies/case1/T1")                 # doctest: +SKIP
        >>> volume.shape, volume.spacing_mm, volume.unit             # doctest: +SKIP
        ((256, 256, 176), (1.0, 1.0, 1.0), 'any')
    """
    rules = Rules.of(select)
    if isinstance(path, Series):
        return _read(one_run(path, rules) if on_gap == "split" else path, rules, on_gap, units, voi)
    with scan(path) as index:
        name = Path(path).name
        return _read(choose(_candidates(index, name, rules, on_gap), rules, name), rules, on_gap, units, voi)


def read_volumes(
    path: Path | str | Series,
    *,
    select: Mapping[str, Any] | Rules | None = None,
    on_gap: OnGap = "error",
    units: str | None = None,
    voi: bool = False,
) -> list[Volume]:
    """Read a series that holds several volumes: echoes, phases, b-values, runs, or the frames of a cine in their order.

    Args:
        path: As for :func:`read_volume`; a path must hold one series, which may have several parts.
        select: As for :func:`read_volume`.
        on_gap: As for :func:`read_volume`; with ``"split"``, every run is a volume, unless ``select`` names one.
        units: As for :func:`read_volume`.
        voi: As for :func:`read_volume`.

    Returns:
        One volume a part, in the order of the attribute that tells them apart; ``Volume.notes`` names it.

    Raises:
        DicomError: As for :func:`read_volume`, or the path holds more than one series.
    """
    rules = Rules.of(select)
    if isinstance(path, Series):
        runs = split_at_gaps(path, rules) if on_gap == "split" else [path]
        return [_read_part(frame, rules, on_gap, units, voi) for run in runs for frame in _frames(run)]
    with scan(path) as index:
        name = Path(path).name
        parts = choose_parts(_candidates(index, name, rules, on_gap), rules, name)
        return [_read_part(frame, rules, on_gap, units, voi) for part in parts for frame in _frames(part)]


def _read_part(part: Series, rules: Rules, on_gap: OnGap, units: str | None, voi: bool) -> Volume:
    volume = _read(part, rules, on_gap, units, voi)
    return volume.replace(notes=(*volume.notes, f"part {part.part}")) if part.part else volume


def _frames(series: Series) -> list[Series]:
    """Take a cine apart; leave anything else whole."""
    first = series.slices[0].header
    if not _is_cine(series):
        return [series]
    return [
        dataclasses.replace(series, slices=(Slice(first, n),), part=f"{series.part} frame {n + 1}".strip())
        for n in range(first.frames)
    ]


def _is_cine(series: Series) -> bool:
    return not series.volumetric and series.slices[0].header.frames > 1


def _read(series: Series, rules: Rules, on_gap: OnGap, units: str | None, voi: bool) -> Volume:
    require_readable(series, rules, on_gap)
    volume = Assembly(series, on_gap, voi).volume()
    return _in_units(volume, series, units)


def require_readable(series: Series, rules: Rules, on_gap: OnGap) -> None:
    """Refuse a series that is no single volume.

    Raises:
        DicomError: Naming the file.
        ConfigError: ``on_gap`` is not known.
    """
    if on_gap not in get_args(OnGap):
        mend = "Use 'error', 'interpolate' or 'split'"
        raise ConfigError(f"{on_gap!r} is not known", where="on_gap", mend=mend)
    problem = problem_of(series, rules)
    if problem is not None:
        raise problem


def refusal(series: Series, *, select: Mapping[str, Any] | Rules | None = None, on_gap: OnGap = "error") -> str:
    """Return why reading a series would be refused, as far as headers tell; empty if they tell nothing.

    Args:
        series: A series of a scan.
        select: As for :func:`read_volume`.
        on_gap: As for :func:`read_volume`.

    Returns:
        The error's text, which names files relative to the data root.
    """
    rules = Rules.of(select)
    problem = problem_of(series, rules)
    if problem is None:
        try:
            problem = _gap(series, rules, on_gap)
        except DicomError as error:
            problem = error
    return "" if problem is None else str(problem)


def _gap(series: Series, rules: Rules, on_gap: OnGap) -> DicomError | None:
    """Return, or raise, what the geometry of a series has against reading it."""
    if series.volumetric and len(series.slices) == 1:
        # A lone slice is measured when it is asked for: most are refused as stubs.
        stack.build_stack(series.slices)
    if series.gap is None or on_gap == "interpolate":
        return None
    return one_run(series, rules).gap if on_gap == "split" else series.gap


def problem_of(series: Series, rules: Rules) -> MedtlError | None:
    """Return why a series cannot be read as one volume, before its geometry is looked at; None if nothing is wrong."""
    if series.problem is not None:
        return _again(series.problem)
    if is_stub(series, rules.min_slices):
        return DicomError(
            f"only {series.shape[2]} slice(s) of a volume",
            where=series.first_file,
            mend="Export the whole series, or select with min_slices: 1",
        )
    if _is_cine(series) and "frame" not in series.part:
        return DicomError(
            f"a cine of {series.slices[0].header.frames} frames is no single image",
            where=f"{series.first_file}, NumberOfFrames",
            mend="Read it with read_volumes, one volume a frame, or export the frames you need",
        )
    return None


def _candidates(index: StudyIndex, name: str, rules: Rules, on_gap: OnGap) -> list[Series]:
    if not index.series and index.damaged:
        raise _again(next(iter(index.damaged.values())))
    if not index.series and index.segmentations:
        raise DicomError("a segmentation, not an image", where=name, mend="Read it with read_seg")
    if not index.series:
        found = {**index.skipped, "RT Structure Set": len(index.structure_sets)}
        counts = ", ".join(f"{n} × {reason}" for reason, n in found.items() if n)
        what = f"no image series found ({counts or 'the folder is empty'})"
        raise DicomError(what, where=name, mend="Check the path")
    if on_gap == "split":
        return [run for series in index.series for run in split_at_gaps(series, rules)]
    return index.series


def _again(error: MedtlError) -> MedtlError:
    """Copy an error that may be raised more than once, so that tracebacks do not pile up."""
    return type(error)(error.what, where=error.where, mend=error.mend)


@dataclasses.dataclass
class Assembly:
    """The making of one volume."""

    series: Series
    on_gap: OnGap
    voi: bool

    def volume(self) -> Volume:
        """Decode all slices into their places."""
        first = self.series.slices[0].header
        built, shape = self.plan()
        array = self._decode(built, first, shape)
        return Volume(
            array=array,
            affine=built.affine,
            modality=self.series.modality,
            unit="any" if self.voi else unit_of(first),
            geometry=built.geometry,
            spacing_known=self.spacing_known,
            notes=tuple(self.notes),
            series_uid=self.series.series_instance_uid,
            frame_of_reference=first.frame_of_reference,
        )

    @property
    def spacing_known(self) -> bool:
        """Whether the file tells the pixel spacing."""
        return self.series.volumetric or stack.plane_of(self.series.slices[0]).spacing is not None

    def plan(self) -> tuple[Stack, tuple[int, ...]]:
        """Find the grid, from headers alone.

        Returns:
            The grid, and the shape of the array that is filled: (k, j, i), for colour with the channels in front.

        Raises:
            DicomError: Slices are missing, do not lie on one line, or are too many for one array.
        """
        first = self.series.slices[0].header
        self.notes = list(self.series.notes)
        if self.series.derived:
            self.notes.append("derived images")
        built = self._stack(first)
        form = first.format
        colour = form.samples > 1 or form.photometric == "PALETTE COLOR"
        shape = (3, built.count, form.rows, form.columns) if colour else (built.count, form.rows, form.columns)
        if 4 * np.prod([float(n) for n in shape]) > MAX_VOLUME_BYTES:
            raise DicomError(
                f"the volume {shape} is larger than {MAX_VOLUME_BYTES / 2**30:.0f} GiB",
                where=first.path,
                mend="Split the series",
            )
        return built, shape

    def _stack(self, first: Header) -> Stack:
        if not self.series.volumetric:
            return self._planar(first)
        built = stack.build_stack(self.series.slices)
        self.notes.extend(built.notes)
        if built.gap is not None:
            if self.on_gap != "interpolate":
                raise built.gap
            if built.count > _MOST_MADE_UP * len(built.slices):
                what = f"{built.gap.what}: too many to interpolate"
                raise DicomError(
                    what, where=built.gap.where, mend="Export the missing slices, or set on_gap to 'split'"
                )
            self.notes.append(f"{built.count - len(built.slices)} slice(s) interpolated: {len(built.slices)} were read")
        return built

    def _planar(self, first: Header) -> Stack:
        plane = first.planes[0]
        step = np.array([0.0, 0.0, 1.0]) if plane.orientation is None else stack.normal(plane.orientation)
        if plane.spacing is None:
            self.notes.append("the pixel spacing is unknown")
        affine = stack.plane_affine(plane, step)
        return Stack(slices=tuple(self.series.slices), places=np.zeros(1), count=1, affine=affine)

    def _decode(self, built: Stack, first: Header, shape: tuple[int, ...]) -> FloatArray:
        array = np.empty(shape, np.float32)
        self._fill(array, built, first)
        return array.swapaxes(-1, -3)

    def _fill(self, array: FloatArray, built: Stack, first: Header) -> None:
        reader = FrameReader(self.series.root)
        invert = self._inverts(first)
        whole = bool((built.places == np.round(built.places)).all())
        padding = _Padding(unit_of(first))
        places = np.round(built.places).astype(int) if whole else np.arange(len(built.slices))
        target = array if whole else np.empty((*array.shape[:-3], len(places), *array.shape[-2:]), np.float32)
        for place, item in zip(places, built.slices, strict=True):
            out = target[..., place, :, :]
            mask = modality_values(reader, item.header, item.frame, out, invert and not self.voi)
            if self.voi:
                apply_voi(out, reader.dataset(item.header), item.header, invert)
            elif mask is not None:
                padding.mark(out, mask)
        padding.settle(target, self.notes)
        if not whole:
            _interpolate(target, built.places, array, np.arange(built.count))
        elif built.count > len(places):
            lost = np.setdiff1d(np.arange(built.count), places)
            _interpolate(target[..., places, :, :], built.places, array, lost)

    def _inverts(self, first: Header) -> bool:
        if self.voi and first.modality not in sop.DISPLAY:
            raise DicomError(
                f"a display window makes {first.modality} values meaningless",
                where=first.path,
                mend="Read it without voi",
            )
        if first.format.photometric != "MONOCHROME1":
            return False
        if first.modality in sop.DISPLAY:
            self.notes.append("MONOCHROME1: dark and bright were exchanged, so that high values are bright")
            return True
        self.notes.append(f"MONOCHROME1 of {first.modality} values: not inverted")
        return False


def unit_of(header: Header) -> str:
    """Return the unit of a file's modality values: HU, the Units of a PET image, or ``"any"``."""
    plane = header.planes[0]
    if header.modality == "CT" and plane.rescaled and plane.rescale_type in ("", "HU") and not header.lut:
        return "HU"
    if header.modality == "PT" and header.units:
        return header.units
    return "any"


class _Padding:
    """Replaces padding pixels: by air in CT, by the lowest value that is no padding elsewhere."""

    def __init__(self, unit: str) -> None:
        self.fill = _AIR_HU if unit == "HU" else np.nan
        self.count = 0

    def mark(self, out: FloatArray, mask: NDArray[np.bool_]) -> None:
        """Fill the padding of one slice."""
        out[mask] = self.fill
        self.count += int(mask.sum())

    def settle(self, array: FloatArray, notes: list[str]) -> None:
        """Finish once all slices are there, and note what was done."""
        if not self.count:
            return
        share = self.count / array.size
        fill = self.fill
        if np.isnan(fill):
            fill = 0.0 if self.count == array.size else float(np.nanmin(array))
            np.nan_to_num(array, copy=False, nan=fill)
        notes.append(f"padding pixels ({share:.2%}) set to {fill:g}")


def _interpolate(known: FloatArray, places: NDArray[np.float64], array: FloatArray, wanted: NDArray[np.int64]) -> None:
    """Fill ``array[..., wanted, :, :]`` linearly between the known slices at ``places``."""
    for k in wanted:
        above = int(np.clip(np.searchsorted(places, k), 1, len(places) - 1))
        low, high = places[above - 1], places[above]
        weight = np.float32((k - low) / (high - low))
        array[..., k, :, :] = known[..., above - 1, :, :] * (1 - weight) + known[..., above, :, :] * weight


def _in_units(volume: Volume, series: Series, units: str | None) -> Volume:
    """Convert to, or insist on, the wanted unit.

    Raises:
        DicomError: The volume is in another unit.
    """
    reader = FrameReader(series.root)
    factor = unit_factor(volume.unit, series, units, reader.dataset)
    if factor is None:
        return volume
    note = f"converted from {volume.unit} to SUVbw, factor {factor:.6g}"
    return volume.replace(array=volume.array * np.float32(factor), unit="SUVbw", notes=(*volume.notes, note))


def unit_factor(unit: str, series: Series, units: str | None, read: Callable[[Header], Dataset]) -> float | None:
    """Return the factor that converts values to ``units``, which is SUVbw; None if they are in it already.

    Args:
        unit: The unit of the values.
        series: The series they are of.
        units: The unit they are wanted in; None takes what there is.
        read: Reads the attributes of a file, which SUV needs.

    Raises:
        DicomError: They are in another unit, or what the conversion needs is missing.
    """
    if units is None or units == "any" or units.lower() == unit.lower():
        return None
    first = series.slices[0].header
    if units.lower() == "suvbw" and series.modality == "PT":
        return suv_factor(read(first), first)
    raise DicomError(
        f"the values are in {unit}, not {units}",
        where=f"{first.path}, {'Units' if series.modality == 'PT' else 'RescaleType'}",
        mend="Choose a series in that unit, or change the unit that is asked for",
    )

"""Several images of a case as the channels of one volume: on the grid of the first, or a typed error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medtl_monai.data.grid import Grid, coincidence, move
from medtl_monai.data.inputs import Input
from medtl_monai.dicom.geometry import ChannelInfo, FloatArray, Volume
from medtl_monai.errors import DataError

_LATTICE = 64
"""Voxels along each axis at which coverage is measured: all of small images, a regular subset of larger ones."""

_EDGE = 1e-3
"""Rounding, in voxels, that does not count at the border of a field."""


def name_channels(volume: Volume, names: Sequence[str]) -> Volume:
    """Return a volume whose channels bear these names; without names, or where they do not fit, as it is."""
    if len(names) != volume.channels:
        return volume
    info = tuple(ChannelInfo(name=name, modality=volume.modality, unit=volume.unit) for name in names)
    return volume.replace(channel_info=info)


def stack(volumes: Sequence[Volume | None], inputs: Sequence[Input]) -> Volume:
    """Put images together as channels ``[c, i, j, k]`` on the grid of the first.

    An image whose voxels coincide with the first's is taken as it is, however its axes run; any other is resampled
    linearly, once. Where it does not reach, its channel has the image's own lowest value: 0 would be water in a CT.
    A missing image becomes a channel of zeros that is marked as filled. Everything done is in ``Volume.notes``.

    Args:
        volumes: One an input; None where the image is missing. The first is there.
        inputs: Names, and what is asked of them.

    Raises:
        DataError: If an image is in colour or has no place in the patient, is in another frame of reference
            (PS3.3 C.7.4.1: positions are then not comparable), or covers too little of the first's field.
    """
    first = volumes[0]
    if first is None:
        raise DataError("the first image is missing", where=inputs[0].name, mend="It gives the grid: add it")
    array = np.zeros((len(volumes), *first.shape), np.float32)
    notes: list[str] = []
    info = []
    for n, (volume, item) in enumerate(zip(volumes, inputs, strict=True)):
        if volume is None:
            notes.append(f"{item.name} is missing and was filled")
            info.append(ChannelInfo(name=item.name, filled=True))
            continue
        notes += [f"{item.name}: {note}" for note in volume.notes]
        _check_kind(volume, item)
        if volume is not first:
            notes += _check_frame(volume, first, item, inputs[0])
            notes += _check_coverage(volume, first, item, inputs[0])
        array[n] = volume.array if volume is first else _on_grid(volume, first)
        info.append(ChannelInfo(name=item.name, modality=volume.modality, unit=volume.unit))
    return first.replace(array=array, notes=tuple(notes), channel_info=tuple(info))


def covered(reference: Grid, moving: Grid) -> float:
    """Return the share of the reference's voxel centres that lie in the voxels of the other, 0 to 1."""
    axes = [np.unique(np.rint(np.linspace(0, n - 1, min(n, _LATTICE)))) for n in reference.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    way = np.linalg.solve(moving.affine, reference.affine)
    there = index @ way[:3, :3].T + way[:3, 3]
    inside = (there > -0.5 - _EDGE) & (there < np.array(moving.shape) - 0.5 + _EDGE)
    return float(inside.all(axis=1).mean())


def _check_kind(volume: Volume, item: Input) -> None:
    if volume.channels > 1:
        what = f"the image has {volume.channels} channels of its own"
        raise DataError(what, where=item.name, mend="Use grey images as inputs, or a colour image alone")
    if volume.series_uid and not volume.frame_of_reference and volume.shape[2] == 1:
        what = "the image has no place in the patient, so that it cannot be laid over another"
        raise DataError(what, where=item.name, mend="Use slices or volumes as inputs, or one such image alone")


def _check_frame(volume: Volume, first: Volume, item: Input, reference: Input) -> list[str]:
    """Refuse positions that are not comparable; note where that is not known."""
    if not (volume.series_uid and first.series_uid):
        return []
    if not (volume.frame_of_reference and first.frame_of_reference):
        return [f"{item.name}: whether it is in the frame of reference of {reference.name} is not known"]
    if volume.frame_of_reference == first.frame_of_reference:
        return []
    if item.frame_of_reference == "ignore":
        return [f"{item.name} is in another frame of reference than {reference.name}: positions were taken as they are"]
    raise DataError(
        f"the image is in another frame of reference than {reference.name}, so that positions are not comparable",
        where=f"{item.name}, FrameOfReferenceUID",
        mend=f"Register them first; if they are, set data.inputs.{item.name}.frame_of_reference=ignore",
    )


def _check_coverage(volume: Volume, first: Volume, item: Input, reference: Input) -> list[str]:
    share = covered(Grid.of(first), Grid.of(volume))
    if share == 0:
        what = f"the image lies outside the field of {reference.name}"
        raise DataError(what, where=item.name, mend="Check that they show the same region, in the same coordinates")
    if share < item.min_coverage:
        what = f"the image covers {share:.0%} of the field of {reference.name}, and {item.min_coverage:.0%} are asked"
        mend = f"Check that they show the same region, or lower data.inputs.{item.name}.min_coverage"
        raise DataError(what, where=item.name, mend=mend)
    notes = []
    if coincidence(Grid.of(volume), Grid.of(first)) is None:
        notes.append(f"{item.name} was resampled to the grid of {reference.name}")
    if share < 1:
        notes.append(f"{item.name} does not reach everywhere in {reference.name}: the rest has its lowest value")
    return notes


def _on_grid(volume: Volume, first: Volume) -> FloatArray:
    return move(volume.array[None], Grid.of(volume), Grid.of(first), [float(volume.array.min())])[0]

"""nnU-Net raw data sets: one file a channel (``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, …), label maps beside them.

Version 2 names channels and labels in ``dataset.json`` and finds the cases by their file names, or takes them from its
``dataset``; version 1 lists them in ``training`` as the Decathlon does, without the channel's number.
Isensee et al., "nnU-Net", Nature Methods 18, 203 (2021).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtl_monai.config import DataConfig
from medtl_monai.data.layouts import decathlon
from medtl_monai.data.layouts.layout import IMAGE, LABEL, SPLIT, Layout, Listing, Named, Profile, made_table
from medtl_monai.data.layouts.manifest import NAME, Manifest, files_in, stem
from medtl_monai.data.table import Table, listing
from medtl_monai.errors import DataError

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_SHOWN = 5
_MEND = "Complete the download, or take the case out"

Images = dict[str, dict[int, str]]
"""Case to channel number to file."""


def profile(root: Path, config: DataConfig) -> Profile:
    """Return what ``dataset.json`` says.

    Raises:
        ConfigError: If the user's structures or value to ignore contradict it.
        DataError: If it cannot be used, or images are not NIfTI.
    """
    manifest = Manifest.read(root)
    manifest.ending()
    settings: dict[str, Any] = {"target": [LABEL], **manifest.labels().settings(config)}
    columns = image_columns(manifest)
    if len(columns) > 1 and not config.inputs:
        settings["image"] = list(columns)
    if _files(manifest, "labelsTs"):
        settings["split"] = SPLIT
    return Profile(kind="mask", settings=settings, fixed=frozenset({"target"}))


def image_columns(manifest: Manifest) -> tuple[str, ...]:
    """Return the table's image columns: the channels' names; ``image`` where there is one channel.

    Raises:
        DataError: If no channels are declared, or two have one name.
    """
    channels = manifest.channels()
    if not channels:
        raise DataError("it declares no channels", where=NAME, mend="Add 'channel_names'")
    if len(channels) == 1:
        return (IMAGE,)
    names = tuple(f"{name} image" if name in (LABEL, SPLIT) else name for name in channels)
    if len(set(names)) < len(names):
        what = f"two channels have one name: {', '.join(channels)}"
        raise DataError(what, where=NAME, mend="Give each its own")
    return names


def read(root: Path, config: DataConfig) -> Listing:
    """List the training cases; test cases too if ``labelsTs`` has their labels.

    Raises:
        DataError: If channels or labels are absent, are not NIfTI or lie elsewhere, or the number of cases is not the
            one declared.
    """
    manifest = Manifest.read(root)
    columns = image_columns(manifest)
    images, labels = _training(manifest, len(columns))
    manifest.count(len(labels), "training cases are there")
    _complete(images, labels, len(columns), "imagesTr")
    test_images, test_labels = _channels(_files(manifest, "imagesTs")), _labels(manifest, "labelsTs")
    _complete(test_images, test_labels, len(columns), "imagesTs")
    rows = _rows(columns, images, labels, "train") + _rows(columns, test_images, test_labels, "test")
    notes = [decathlon.NO_PATIENTS]
    extra = len(set(images) - set(labels))
    if extra:
        notes.append(f"{extra} cases in imagesTr without a label were left out")
    unlabelled = len(set(test_images) - set(test_labels))
    if unlabelled:
        notes.append(f"{unlabelled} test cases have no labels: medtl predict RUN DATASET predicts them")
    parts = f" and {len(test_labels)} for testing" if test_labels else ""
    names = ", ".join(manifest.channels())
    return Listing(
        table=made_table(root / NAME, (*columns, LABEL, *((SPLIT,) if test_labels else ())), rows),
        found=f"{len(labels)} labelled cases{parts} ({names}), labels {', '.join(config.structures)}",
        notes=tuple(notes),
    )


def tests(root: Path) -> Table:
    """Return the cases of ``imagesTs``.

    Raises:
        DataError: If there are none, or one has not exactly the channels declared.
    """
    manifest = Manifest.read(root)
    columns = image_columns(manifest)
    images = _channels(_files(manifest, "imagesTs"))
    if not images:
        raise DataError("the data set has no test images", where=root.name, mend="Give a folder of images")
    _complete(images, dict.fromkeys(images, ""), len(columns), "imagesTs")
    return made_table(root / NAME, columns, [(case, _cells(columns, own)) for case, own in images.items()])


def is_version_1(manifest: Manifest) -> bool:
    """Whether ``training`` lists images that are there with a channel's number only."""
    entries = decathlon.training(manifest)
    if not entries or not isinstance(entries[0], dict) or not isinstance(entries[0].get("image"), str):
        return False
    image = manifest.inside(entries[0]["image"])
    first = image[: -len(_ending(image))] + "_0000" + _ending(image)
    return not manifest.has(image) and manifest.has(first)


def _ending(file: str) -> str:
    name = file.rpartition("/")[2]
    return name[len(stem(name)) :]


def _training(manifest: Manifest, channels: int) -> tuple[Images, dict[str, str]]:
    explicit = manifest.mapping("dataset")
    if not explicit:
        return _channels(_files(manifest, "imagesTr")), _labels(manifest, "labelsTr")
    images: Images = {}
    labels = {}
    for case, entry in explicit.items():
        files = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(files, list) or len(files) != channels or "label" not in entry:
            what = f"'dataset' does not give case {case!r} {channels} images and a label"
            raise DataError(what, where=NAME, mend="Write it as {images: […], label}")
        images[case] = {n: manifest.inside(file) for n, file in enumerate(files)}
        labels[case] = manifest.inside(entry["label"])
    manifest.need([file for case in labels for file in (*images[case].values(), labels[case])])
    return images, labels


def _channels(files: Sequence[str]) -> Images:
    found: Images = defaultdict(dict)
    odd = []
    for file in files:
        match = _CHANNEL.fullmatch(stem(file))
        if match is None:
            odd.append(file)
        else:
            found[match[1]][int(match[2])] = file
    if odd:
        what = f"images have no channel number such as _0000: {listing('file', odd, _SHOWN)}"
        raise DataError(what, where=NAME, mend="Name them CASE_0000.nii.gz")
    return dict(found)


def _labels(manifest: Manifest, folder: str) -> dict[str, str]:
    return {stem(file): file for file in _files(manifest, folder)}


def _files(manifest: Manifest, folder: str) -> list[str]:
    ending = manifest.ending()
    return [file for file in files_in(manifest.root, folder) if file.lower().endswith(ending)]


def _complete(images: Images, labels: Mapping[str, str], channels: int, folder: str) -> None:
    """Refuse labels without images, and cases that have not exactly the channels declared."""
    lost = [case for case in labels if case not in images]
    if lost:
        what = f"labels have no images in {folder}: {listing('case', lost, _SHOWN)}"
        raise DataError(what, where=NAME, mend=_MEND)
    wrong = [case for case in labels if sorted(images[case]) != list(range(channels))]
    if wrong:
        have = ", ".join(f"{n:04d}" for n in sorted(images[wrong[0]]))
        what = f"{channels} channels are declared, and others are there: {listing('case', wrong, _SHOWN)} ({have})"
        raise DataError(what, where=NAME, mend=_MEND)
    if not labels and folder == "imagesTr":
        raise DataError("labelsTr holds no label maps", where=NAME, mend="Complete the download")


def _rows(columns: Sequence[str], images: Images, labels: Mapping[str, str], part: str) -> list[Named]:
    return [(case, {**_cells(columns, images[case]), LABEL: labels[case], SPLIT: part}) for case in labels]


def _cells(columns: Sequence[str], images: Mapping[int, str]) -> dict[str, str]:
    return {column: images[channel] for channel, column in enumerate(columns)}


LAYOUT = Layout(name="nnunet", title="nnU-Net's raw layout", profile=profile, read=read, tests=tests)

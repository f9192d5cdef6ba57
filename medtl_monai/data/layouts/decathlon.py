"""The Medical Segmentation Decathlon: ``dataset.json`` lists an image and a label map for each training case.

Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 4128 (2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtl_monai.config import DataConfig
from medtl_monai.data.layouts.layout import IMAGE, LABEL, Layout, Listing, Profile, made_table
from medtl_monai.data.layouts.manifest import NAME, Manifest, files_in
from medtl_monai.data.table import Table, listing
from medtl_monai.errors import DataError

NO_PATIENTS = (
    "each case is taken for one patient: the layout has no list of patients. Where patients have several cases, train "
    "from a labels table with a patient column (--labels) in place of --dataset"
)


def profile(root: Path, config: DataConfig) -> Profile:
    """Return what ``dataset.json`` says.

    Raises:
        ConfigError: If the user's structures or value to ignore contradict it.
        DataError: If it cannot be used.
    """
    manifest = Manifest.read(root)
    settings: dict[str, Any] = {"target": [LABEL], **manifest.labels().settings(config)}
    channels = manifest.channels()
    if len(channels) > 1:
        settings["channels"] = list(channels)
    return Profile(kind="mask", settings=settings, fixed=frozenset({"target", "channels"}))


def read(root: Path, config: DataConfig) -> Listing:
    """List the training cases, and the test images, which have no labels.

    Raises:
        DataError: If files are absent, are not NIfTI or lie elsewhere, or their number is not the one declared.
    """
    manifest = Manifest.read(root)
    pairs = [(manifest.inside(image), manifest.inside(label)) for image, label in _pairs(manifest)]
    manifest.need([file for pair in pairs for file in pair])
    manifest.count(len(pairs), "training cases are listed")
    rows = [(image, {IMAGE: image, LABEL: label}) for image, label in pairs]
    listed = _tests(manifest)
    there = [file for file in listed if manifest.has(file)]
    folders = sorted({image.rpartition("/")[0] for image, _ in pairs})
    extra = {file for folder in folders for file in files_in(root, folder)} - {image for image, _ in pairs}
    notes = [NO_PATIENTS]
    if extra - set(listed):
        notes.append(f"{len(extra - set(listed))} images that dataset.json does not list were left out")
    if listed:
        notes.append(_tests_note(len(there), len(listed)))
    channels = manifest.channels()
    found = f"{len(rows)} labelled cases" + (f" ({', '.join(channels)})" if channels else "")
    return Listing(
        table=made_table(root / NAME, (IMAGE, LABEL), rows),
        found=f"{found}, labels {', '.join(config.structures)}",
        notes=tuple(notes),
    )


def tests(root: Path) -> Table:
    """Return the test images that are there.

    Raises:
        DataError: If there are none.
    """
    manifest = Manifest.read(root)
    there = [file for file in _tests(manifest) if manifest.has(file)]
    if not there:
        raise DataError("the data set has no test images", where=root.name, mend="Give a folder of images")
    return made_table(root / NAME, (IMAGE,), [(file, {IMAGE: file}) for file in there])


def training(manifest: Manifest) -> list[Any]:
    """Return the entries of ``training``; empty if there is no such list."""
    value = manifest.content.get("training")
    return value if isinstance(value, list) else []


def _pairs(manifest: Manifest) -> list[tuple[Any, Any]]:
    entries = training(manifest)
    if not entries:
        raise DataError("it lists no training cases", where=NAME, mend="Add 'training', or choose data.layout")
    bad = [n for n, entry in enumerate(entries, 1) if not isinstance(entry, dict) or not {"image", "label"} <= {*entry}]
    if bad:
        what = f"'training' has entries that do not name an image and a label: {listing('entry', bad)}"
        raise DataError(what, where=NAME, mend="Write them as {image, label}")
    return [(entry["image"], entry["label"]) for entry in entries]


def _tests(manifest: Manifest) -> list[str]:
    entries = manifest.content.get("test") or []
    if not isinstance(entries, list):
        raise DataError("'test' is not a list", where=NAME, mend="See the layout's description")
    return [manifest.inside(entry.get("image") if isinstance(entry, dict) else entry) for entry in entries]


def _tests_note(there: int, listed: int) -> str:
    if not there:
        return f"none of its {listed} test images is there"
    lost = f" (of {listed} listed)" if there < listed else ""
    return f"{there} test images{lost} have no labels: medtl predict RUN DATASET predicts them"


LAYOUT = Layout(
    name="decathlon", title="the Medical Segmentation Decathlon's layout", profile=profile, read=read, tests=tests
)

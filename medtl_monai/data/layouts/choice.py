"""Which layout a folder has, and the configuration that follows from it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medtl_monai.config import DataConfig, validate
from medtl_monai.data.layouts import class_folders, decathlon, nnunet
from medtl_monai.data.layouts.class_files import holds_images, subfolders
from medtl_monai.data.layouts.layout import Layout, Listing
from medtl_monai.data.layouts.manifest import NAME, Manifest
from medtl_monai.errors import ConfigError, DataError
from medtl_monai.specs import TargetKind

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (decathlon.LAYOUT, nnunet.LAYOUT, class_folders.LAYOUT)
}
"""All layouts by name."""

_EXCLUDED = ("studies", "labels", "key")
_KNOWN = "Known are dataset.json of the Medical Segmentation Decathlon and of nnU-Net, and one folder a class"
_OWN = "Leave that key out, or use --labels (with --studies for DICOM) in place of --dataset"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A data set, opened.

    Attributes:
        config: The configuration, completed by what the layout says.
        listing: Its cases.
        notes: What it was taken for and what was found, first.
    """

    config: DataConfig
    listing: Listing
    notes: tuple[str, ...]


def detect(root: Path) -> Layout:
    """Say by its content which layout a folder has.

    Raises:
        DataError: If it has none of them.
    """
    with _readable(root):
        return _detect(root)


def _detect(root: Path) -> Layout:
    if not root.is_dir():
        what = "the data set is not a folder" if root.exists() else "no such data set folder"
        mend = "Unpack it, and give its folder" if root.exists() else "Check data.dataset"
        raise DataError(what, where=root.name, mend=mend)
    if (root / NAME).is_file():
        found = with_manifest(root)
        if found is None:
            raise DataError("dataset.json is neither the Decathlon's nor nnU-Net's", where=root.name, mend=_KNOWN)
        return found
    names = subfolders(root)
    nested = [name for name in names if (root / name / NAME).is_file()]
    if nested:
        shown = ", ".join(nested[:5]) + (", …" if len(nested) > 5 else "")
        raise DataError("data sets lie in its folders", where=root.name, mend=f"Give one of them: {shown}")
    if class_folders.looks_like_masks(names):
        what = f"its folders ({', '.join(names[:5])}) look like images and masks, and there is no dataset.json"
        raise DataError(what, where=root.name, mend="Add dataset.json, or name images and masks in a table (--labels)")
    if holds_images(root):
        return class_folders.LAYOUT
    raise DataError("the folder has no known layout", where=root.name, mend=_KNOWN)


def with_manifest(root: Path) -> Layout | None:
    """Return the layout that a folder's ``dataset.json`` is of; None if there is none, or it means something else.

    Raises:
        DataError: If the file cannot be read.
    """
    if not (root / NAME).is_file():
        return None
    manifest = Manifest.read(root)
    if {"channel_names", "file_ending"} & set(manifest.content) or nnunet.is_version_1(manifest):
        return nnunet.LAYOUT
    return decathlon.LAYOUT if isinstance(manifest.content.get("training"), list) else None


def settle(config: DataConfig) -> DataConfig:
    """Complete a configuration by what the layout of its data set says; without a data set it stays as it is.

    What the user has set wins. Settling twice changes nothing, so a run stores the completed configuration.

    Raises:
        ConfigError: If keys contradict the layout, or a layout is named and no data set.
        DataError: If the folder cannot be used.
    """
    if config.dataset is None:
        if config.layout != "auto":
            what = f"layout {config.layout!r} is named, and no data set"
            raise ConfigError(what, where="data.layout", mend="Give its folder with --dataset")
        return config
    for key in _EXCLUDED:
        if getattr(config, key) is not None:
            raise ConfigError(f"data.{key} and data.dataset exclude each other", mend=_OWN)
    layout = _layout(config)
    with _readable(config.dataset):
        profile = layout.profile(config.dataset, config)
    update: dict[str, Any] = {"layout": layout.name}
    for key, value in profile.settings.items():
        own = getattr(config, key)
        if own == _default(key):
            update[key] = value
        elif own != value and key in profile.fixed:
            what = f"data.{key} is {_shown(own)}, and {layout.title} gives {_shown(value)}"
            raise ConfigError(what, mend=_OWN)
    # Again as a whole: what the layout gives must go with what the user has set.
    return validate({"data": {**config.model_dump(), **update}}).data


def dataset_kind(config: DataConfig) -> TargetKind:
    """Return what the labels of the data set are.

    Raises:
        ConfigError: If no data set is named.
        DataError: If the folder cannot be used.
    """
    if config.dataset is None:
        raise ConfigError("no data set is named", where="data.dataset", mend="Give its folder with --dataset")
    with _readable(config.dataset):
        return _layout(config).profile(config.dataset, config).kind


def open_dataset(config: DataConfig, kind: TargetKind) -> Opened | None:
    """List the cases of the data set that a configuration names; None if it names none.

    Args:
        config: The configuration, settled or not.
        kind: What the head learns.

    Raises:
        ConfigError: As :func:`settle` does.
        DataError: If the folder cannot be used, or its labels are of another kind.
    """
    settled = settle(config)
    if settled.dataset is None:
        return None
    layout = _layout(settled)
    offered = dataset_kind(settled)
    if offered != kind:
        what = f"the head learns from {_WORDS[kind]}, and {layout.title} holds {_WORDS[offered]}"
        raise DataError(what, where=settled.dataset.name, mend="Leave --head out, or name labels in a table (--labels)")
    with _readable(settled.dataset):
        listing = layout.read(settled.dataset, settled)
    note = f"taken for {layout.title}: {listing.found}"
    return Opened(config=settled, listing=listing, notes=(note, *listing.notes))


_WORDS: Mapping[TargetKind, str] = {"class": "classes", "classes": "label sets", "number": "numbers", "mask": "masks"}


@contextlib.contextmanager
def _readable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Only the type: texts of these errors hold absolute paths.
        what = f"the data set cannot be read ({type(error).__name__})"
        raise DataError(
            what, where=root.name, mend="Check its permissions and that its links lead somewhere"
        ) from error


def _layout(config: DataConfig) -> Layout:
    if config.dataset is not None and not config.dataset.is_dir():
        return detect(config.dataset)
    return LAYOUTS[config.layout] if config.layout != "auto" else detect(config.dataset or Path())


def _default(key: str) -> Any:
    return DataConfig.model_fields[key].get_default(call_default_factory=True)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""``dataset.json``, as the Medical Segmentation Decathlon and nnU-Net write it: read as data of unknown origin."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medtl_monai.config import DataConfig
from medtl_monai.data.nifti import SUFFIXES
from medtl_monai.data.table import listing
from medtl_monai.errors import ConfigError, DataError

NAME = "dataset.json"
"""The file's name."""

_SHOWN = 5
_CONVERT = "Convert images and masks to .nii.gz, for example with SimpleITK, and correct dataset.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What mask values mean.

    Attributes:
        structures: Names of the values 1, 2, …; empty where regions are given that no single value stands for.
        ignore: Value that counts for nothing.
        highest: Highest value that is a structure.
        regions: Names of labels that stand for several values.
    """

    structures: tuple[str, ...]
    ignore: int | None
    highest: int
    regions: tuple[str, ...] = ()

    def settings(self, config: DataConfig) -> dict[str, Any]:
        """Return what the labels set in ``data``, checked against what the user has set.

        Raises:
            ConfigError: If ``data.structures`` names another number of values, or ``data.ignore_label`` is another one.
            DataError: If there are regions and the user has not named the values.
        """
        given = config.structures
        if self.regions and not given:
            example = ",".join(f"name-{n}" for n in range(1, self.highest + 1))
            what = f"labels overlap ({', '.join(map(repr, self.regions))} stand for several values of a mask)"
            mend = f"A voxel has one label here: name the values 1 to {self.highest}, --set data.structures=[{example}]"
            raise DataError(what, where=NAME, mend=mend)
        if given and len(given) != self.highest:
            what = f"data.structures has {len(given)} names, and dataset.json declares {self.highest} labels"
            names = f" ({', '.join(self.structures)})" if self.structures else ""
            raise ConfigError(what, where="data.structures", mend=f"Name each of them{names}, or leave it out")
        if self.ignore is None:
            return {"structures": list(given or self.structures)}
        if config.ignore_label not in (None, self.ignore):
            what = f"data.ignore_label is {config.ignore_label}, and dataset.json ignores {self.ignore}"
            raise ConfigError(what, where="data.ignore_label", mend="Leave it out")
        return {"structures": list(given or self.structures), "ignore_label": self.ignore}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A ``dataset.json``.

    Attributes:
        root: The folder it is in.
        content: What it says.
    """

    root: Path = dataclasses.field(repr=False)
    content: Mapping[str, Any] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Read the file of a folder.

        Raises:
            DataError: If it cannot be read or is not a JSON object.
        """
        try:
            content = json.loads((root / NAME).read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise DataError("there is no dataset.json", where=root.name, mend="Check data.dataset") from None
        except (OSError, ValueError, RecursionError) as error:
            problem = f"not readable JSON ({type(error).__name__})"
            raise DataError(problem, where=NAME, mend="Unpack the data set again") from None
        if not isinstance(content, dict):
            raise DataError("not a JSON object", where=NAME, mend="Unpack the data set again")
        return cls(root=root, content=content)

    def mapping(self, *keys: str) -> dict[str, Any]:
        """Return the object under the first of the keys that there is; empty if there is none.

        Raises:
            DataError: If it is not an object.
        """
        for key in keys:
            if key in self.content:
                value = self.content[key]
                if not isinstance(value, dict):
                    raise DataError(f"{key!r} is not an object", where=NAME, mend="See the layout's description")
                return value
        return {}

    def channels(self) -> tuple[str, ...]:
        """Return the names of the image channels, in order; empty if none are declared.

        Raises:
            DataError: If they are not numbered 0, 1, …
        """
        named = self.mapping("channel_names", "modality")
        numbers = sorted(int(key) for key in named if str(key).isdecimal())
        if len(numbers) != len(named) or numbers != list(range(len(named))):
            what = f"channels are not numbered 0, 1, … but {', '.join(map(str, named))}"
            raise DataError(what, where=NAME, mend="Number them from 0 on")
        names = {int(key): _text(value, "a channel's name") for key, value in named.items()}
        return tuple(names[n] for n in numbers)

    def labels(self) -> Labels:
        """Return what mask values mean; both ``{"1": "liver"}`` and ``{"liver": 1}`` are understood.

        Raises:
            DataError: If there are none, or values are not 0, 1, 2, …
        """
        given = self.mapping("labels")
        if not given:
            raise DataError("it declares no labels", where=NAME, mend="Add 'labels'")
        if all(str(key).isdecimal() for key in given) and all(isinstance(v, str) for v in given.values()):
            pairs: dict[str, Any] = {}
            for key, name in given.items():
                if pairs.setdefault(name, int(key)) != int(key):
                    raise DataError(f"two labels are called {name!r}", where=NAME, mend="Give each its own name")
        else:
            pairs = given
        return _labels_of(pairs)

    def count(self, found: int, what: str) -> None:
        """Compare ``numTraining`` with what was found.

        Raises:
            DataError: If they differ.
        """
        declared = self.content.get("numTraining")
        if declared is not None and declared != found:
            text = f"numTraining is {declared!r}, and {found} {what}"
            raise DataError(text, where=NAME, mend="Complete the download, or correct numTraining")

    def inside(self, text: object) -> str:
        """Return a path of the file relative to its folder, with forward slashes.

        Links are followed (data sets are often linked together), but what the text says must stay inside: the file
        comes from elsewhere.

        Raises:
            DataError: If it is no text, absolute, or leads out of the folder.
        """
        path = PurePosixPath(_text(text, "a path").replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
            raise DataError(f"the path {path.name!r} leads out of the folder", where=NAME, mend="Use relative paths")
        return path.as_posix()

    def has(self, file: str) -> bool:
        """Whether a file of the folder is there."""
        try:
            return (self.root / file).is_file()
        except OSError:
            # A name may be too long to be one.
            return False

    def need(self, files: Sequence[str]) -> None:
        """Check that files are there and are NIfTI.

        Raises:
            DataError: That lists them.
        """
        other = [file for file in files if not file.lower().endswith(SUFFIXES)]
        if other:
            what = f"not NIfTI: {listing('file', other, _SHOWN)}"
            raise DataError(what, where=NAME, mend=_CONVERT)
        absent = [file for file in files if not self.has(file)]
        if absent:
            what = f"files are listed that are not there: {listing('file', absent, _SHOWN)}"
            raise DataError(what, where=NAME, mend="Complete the download, or take them out of dataset.json")

    def ending(self) -> str:
        """Return ``file_ending`` in lower case, ``.nii.gz`` by default.

        Raises:
            DataError: If it is not NIfTI's.
        """
        ending = _text(self.content.get("file_ending", ".nii.gz"), "file_ending").lower()
        if ending not in SUFFIXES:
            raise DataError(f"its images are {ending} files, and only NIfTI is read", where=NAME, mend=_CONVERT)
        return ending


def hidden(name: str) -> bool:
    """Whether a file is not data: macOS writes ``._x.nii.gz`` beside ``x.nii.gz`` on other file systems."""
    return name.startswith(".")


def is_nifti_name(name: str) -> bool:
    """Whether a file name is that of a NIfTI image, and not of macOS junk beside one."""
    return not hidden(name) and name.lower().endswith(SUFFIXES)


def files_in(root: Path, folder: str) -> list[str]:
    """Return the NIfTI files of a folder below ``root``, relative and sorted; none if there is no such folder."""
    place = root / folder
    if not place.is_dir():
        return []
    found = sorted(path for path in place.iterdir() if is_nifti_name(path.name))
    for path in found:
        refuse_lost_link(path, f"{folder}/{path.name}")
    return [f"{folder}/{path.name}" for path in found if path.is_file()]


def refuse_lost_link(path: Path, name: str) -> None:
    """Refuse a link that leads nowhere, which else would be a case less without a word.

    Raises:
        DataError: That names it.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"the link {name} leads nowhere", where="data.dataset", mend="Restore the file, or remove it")


def stem(file: str) -> str:
    """Return a file's name without folder and NIfTI ending."""
    name = PurePosixPath(file).name
    ending = next((e for e in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise DataError(f"{what} is not a text but {value!r}", where=NAME, mend="See the layout's description")
    return value.strip()


def _labels_of(pairs: Mapping[str, Any]) -> Labels:
    single: dict[int, str] = {}
    regions: dict[str, list[int]] = {}
    for key, value in pairs.items():
        name, values = _text(key, "a label's name"), value if isinstance(value, list) else [value]
        if not values or not all(type(v) is int and v >= 0 for v in values):
            what = f"label {name!r} has the value {value!r}"
            raise DataError(what, where=NAME, mend="Use whole numbers from 0 on")
        if len(values) > 1:
            regions[name] = values
        elif single.setdefault(values[0], name) != name:
            what = f"labels {single[values[0]]!r} and {name!r} have one value"
            raise DataError(what, where=NAME, mend="Give each its own")
    ignore = next((value for value, name in single.items() if name.casefold() == "ignore" and value > 0), None)
    values = sorted({*single, *(v for own in regions.values() for v in own)} - {ignore})
    if ignore is not None and values and ignore < values[-1]:
        what = f"the label to ignore has the value {ignore}, between others"
        raise DataError(what, where=NAME, mend="Give it the highest value")
    if values[:1] != [0] or values != list(range(len(values))) or len(values) < 2:
        what = f"its {listing('label value', values)} are not 0 (background), 1, 2, …"
        raise DataError(what, where=NAME, mend="Renumber labels and masks without gaps")
    highest = values[-1]
    structures = () if regions else tuple(single[n] for n in range(1, highest + 1))
    return Labels(structures=structures, ignore=ignore, highest=highest, regions=tuple(regions))

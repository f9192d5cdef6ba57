"""Preprocessed cases from the cache; made and stored where it has none."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medtl_monai.config import CacheConfig
from medtl_monai.data.cache.entry import Damaged, Entry
from medtl_monai.data.cache.features import FeatureCache
from medtl_monai.data.cache.key import entry_key
from medtl_monai.data.cache.places import STAMPS, choose_folder, make_folder
from medtl_monai.data.cache.sources import has_problem, source_facts, source_files
from medtl_monai.data.cache.stamps import Snapshot, Stamps
from medtl_monai.data.cache.store import Store
from medtl_monai.data.cases import Case, CaseTable
from medtl_monai.data.grid import Grid
from medtl_monai.data.identity import load_key
from medtl_monai.data.pipeline import Preprocessing
from medtl_monai.data.prepared import Prepared
from medtl_monai.dicom.description import Description
from medtl_monai.dicom.geometry import ChannelInfo
from medtl_monai.errors import DataError, StorageError

_TRIES = 2


class CaseCache:
    """Preprocessed cases by what they are made from.

    An entry is used only if every file of the case still has the size, times and inode it had when its bytes were
    hashed, and hashes, parameters and versions are those of the entry. Whatever hinders the cache itself (a full disk,
    no permission) is said once in :meth:`notes`, and cases are made without it.

    Args:
        store: The entries.
        stamps: What files hold.
        secret: The key of pseudonyms, which entries are named with.
    """

    def __init__(self, store: Store, stamps: Stamps, secret: bytes) -> None:
        self._store = store
        self._stamps = stamps
        self._secret = secret
        self.hits = 0
        """Cases that were found."""
        self.made = 0
        """Cases that were made because they were not found."""

    @classmethod
    def open(cls, config: CacheConfig) -> tuple[Self | None, str]:
        """Return the cache that a configuration asks for, or None; and a note if it cannot be used.

        Raises:
            StorageError: The folder named is no cache and not empty, or another user's.
        """
        folder = choose_folder(config)
        if folder is None:
            return None, ""
        try:
            make_folder(folder)
        except OSError as error:
            return None, _unusable(os.strerror(error.errno) if error.errno else type(error).__name__)
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError) or "disk is full" in error.what:
                return None, _unusable(error.what)
            raise
        secret = load_key()
        store = Store(folder, int(config.max_gib * 2**30))
        return cls(store, Stamps(folder / STAMPS, secret), secret), ""

    def fetch(
        self, table: CaseTable, case: Case, preprocessing: Preprocessing, make: Callable[[], Prepared]
    ) -> tuple[Prepared, str]:
        """Return a case and the key it is stored under.

        Args:
            table: The case's table.
            case: The case.
            preprocessing: What is done to it.
            make: Reads and preprocesses it, where the cache does not have it.

        Returns:
            The case; and its key, empty where it is not in the cache.

        Raises:
            DataError: A file changes again and again while it is read, or what ``make`` raises.
            DicomError: What ``make`` raises.
        """
        if has_problem(case):
            return make(), ""
        for _ in range(_TRIES):
            snapshot = self._snapshot(case)
            if snapshot is None:
                # It cannot be read: reading says it best.
                return make(), ""
            key = entry_key(self._secret, snapshot.hashes, source_facts(table, case), preprocessing)
            found = self.reopen(key, preprocessing)
            if found is not None:
                self.hits += 1
                return found, key
            prepared = make()
            if snapshot.holds():
                self.made += 1
                entry = self._store.put(key, *_pack(prepared, preprocessing))
                stored = None if entry is None else _load(entry, preprocessing)
                return (prepared, "") if stored is None else (stored, key)
        raise DataError(
            "its files changed while they were being read",
            where=f"case {case.case_id}",
            mend="Wait until they are written, and start again",
        )

    def reopen(self, key: str, preprocessing: Preprocessing) -> Prepared | None:
        """Return a case by its key; None if it is gone or damaged."""
        entry = self._store.find(key)
        return None if entry is None else _load(entry, preprocessing)

    def features(self) -> FeatureCache:
        """Return what keeps features in the same folder, under the same bound."""
        return FeatureCache(self._store, self._secret)

    def touch(self, key: str) -> None:
        """Note that a case is in use."""
        self._store.touch(key)

    def notes(self) -> list[str]:
        """Return what a user should know of how the cache did."""
        notes = []
        if self._store.trouble:
            notes.append(_unusable(self._store.trouble))
        if self._store.crowded_out:
            notes.append(
                f"{self._store.crowded_out} cases do not fit in the cache (cache.max_gib, or half of the free disk) "
                "beside the others of this run"
            )
        return notes

    def _snapshot(self, case: Case) -> Snapshot | None:
        try:
            return self._stamps.snapshot(source_files(case))
        except OSError:
            return None


def _unusable(why: str) -> str:
    return f"the cache of preprocessed images cannot be written ({why}): going on without it"


def _pack(prepared: Prepared, preprocessing: Preprocessing) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    # Repeated channels are equal: one is enough.
    image = prepared.image[:1] if preprocessing.repeat_channels else prepared.image
    arrays: dict[str, NDArray[Any]] = {"image": image}
    if prepared.mask is not None:
        arrays["target"] = prepared.mask
    labels = sorted(prepared.foreground)
    if labels:
        arrays["foreground"] = np.concatenate([prepared.foreground[label] for label in labels])
    original = prepared.original
    return arrays, {
        "background": list(prepared.background),
        "foreground": [[label, len(prepared.foreground[label])] for label in labels],
        "grid": {"shape": list(prepared.grid.shape), "affine": np.asarray(prepared.grid.affine).tolist()},
        "original": {**dataclasses.asdict(original), "affine": np.asarray(original.affine).tolist()},
        "contents": list(prepared.contents),
        "notes": list(prepared.notes),
    }


def _load(entry: Entry, preprocessing: Preprocessing) -> Prepared | None:
    try:
        image = entry.open("image")
        mask = entry.open("target") if "target" in entry.names else None
        voxels = np.array(entry.open("foreground")) if "foreground" in entry.names else np.empty((0, 0), np.int32)
    except Damaged:
        return None
    facts = entry.facts
    if preprocessing.repeat_channels:
        image = np.broadcast_to(image, (preprocessing.channels, *image.shape[1:]))
    foreground, start = {}, 0
    for label, count in facts["foreground"]:
        foreground[label] = voxels[start : start + count]
        start += count
    original = {
        **facts["original"],
        "affine": np.array(facts["original"]["affine"]),
        "channel_info": tuple(ChannelInfo(**info) for info in facts["original"]["channel_info"]),
    }
    return Prepared(
        image=image,
        mask=mask,
        background=tuple(facts["background"]),
        foreground=foreground,
        grid=Grid(tuple(facts["grid"]["shape"]), np.array(facts["grid"]["affine"])),
        original=Description(**{**original, "shape": tuple(original["shape"])}),
        contents=tuple(facts["contents"]),
        notes=tuple(facts["notes"]),
        kept=True,
    )

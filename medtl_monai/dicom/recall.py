"""What an index knows of a tree, as :class:`StudyIndex`: small, with the rest fetched when it is looked at."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections import Counter
from functools import partial
from pathlib import PurePosixPath

from medtl_monai.dicom import records
from medtl_monai.dicom.deferred import Deferred
from medtl_monai.dicom.found import Damage, lost_images, place_of, study_index, with_damage
from medtl_monai.dicom.header import ObjectHeader
from medtl_monai.dicom.parse import Damaged, Skipped
from medtl_monai.dicom.series import Series, StudyIndex
from medtl_monai.dicom.store import Store
from medtl_monai.notices import tell


def recall(store: Store) -> StudyIndex:
    """Return what a store knows of its tree.

    Raises:
        DamagedIndexError: A record cannot be opened.
        StorageError: The index cannot be read.
    """
    with store.reading() as base:
        objects, damaged, blank = _notable(store, base)
        lost = lost_images(blank, _places(store, base, blank))
        series = _series(store, base)
        damage = Damage([*damaged, *lost], {item.series_instance_uid for _, item in series})
        errors = _folder_errors(store, base, damage)
        reasons: Counter[str] = Counter()
        for (text,) in base.execute("SELECT skipped FROM groups WHERE skipped IS NOT NULL"):
            reasons.update(json.loads(text))
        gone = frozenset(item.path for item in lost)
        reasons.subtract(item.reason for item in blank if item.path in gone)
    return study_index(
        store.root,
        [with_damage(item, damage.of(item.series_instance_uid, errors.get(key, ()))) for key, item in series],
        objects,
        {reason: Deferred(n, partial(_skipped, store, reason, gone)) for reason, n in sorted(reasons.items()) if n},
        damage,
    )


def _notable(store: Store, base: sqlite3.Connection) -> tuple[list[ObjectHeader], list[Damaged], list[Skipped]]:
    """Return the files that are neither images nor mere junk."""
    objects: list[ObjectHeader] = []
    damaged: list[Damaged] = []
    blank: list[Skipped] = []
    for (sealed,) in base.execute("SELECT sealed FROM groups WHERE notable"):
        folder, files = store.open(sealed)
        for name, _, record in files:
            item = records.unpack(record, f"{folder}/{name}" if folder else name)
            if isinstance(item, ObjectHeader):
                objects.append(item)
            elif isinstance(item, Damaged):
                damaged.append(item)
            elif isinstance(item, Skipped) and item.blank:
                blank.append(item)
    return objects, damaged, blank


def _images_beside(store: Store, base: sqlite3.Connection, folders: set[str]) -> list[tuple[bytes, str, list[str]]]:
    """Return series, folder and names of the images in some folders."""
    query = "SELECT series, sealed FROM groups JOIN folders ON folder = folders.id WHERE place = ? AND series NOT NULL"
    found = []
    for folder in sorted(folders):
        for key, sealed in base.execute(query, (store.seal.name("" if folder == "." else folder),)):
            found.append((key, folder, [name for name, _, _ in store.open(sealed)[1]]))
    return found


def _places(store: Store, base: sqlite3.Connection, blank: list[Skipped]) -> set[tuple[str, str]]:
    folders = {str(PurePosixPath(item.path).parent) for item in blank}
    beside = _images_beside(store, base, folders)
    return {place_of(f"{folder}/{name}") for _, folder, names in beside for name in names}


def _folder_errors(store: Store, base: sqlite3.Connection, damage: Damage) -> dict[bytes, list[str]]:
    """Return the folders with stray damaged files that series have images in."""
    found: dict[bytes, list[str]] = {}
    for key, folder, _ in _images_beside(store, base, set(damage.folders)):
        found.setdefault(key, []).append(folder)
    return found


def _series(store: Store, base: sqlite3.Connection) -> list[tuple[bytes, Series]]:
    """Return all series in the order of their first files, parts in their own."""
    found = []
    for key, part, version, count, summary in base.execute("SELECT key, part, version, count, summary FROM series"):
        path, told, record = store.open(summary)
        # Whoever looks at the tree should know each time, not only when its files were read.
        for text in told:
            tell(text)
        series, first = records.unpack_series(record, store.root)
        slices = Deferred(count, partial(store.slices, key, part, version), first)
        found.append(((path, key, part), dataclasses.replace(series, slices=slices)))
    found.sort(key=lambda entry: entry[0])
    return [(key, series) for (_, key, _), series in found]


def _skipped(store: Store, reason: str, gone: frozenset[str]) -> list[str]:
    """Return the files that were skipped for one reason."""
    found = []
    with store.reading() as base:
        for (sealed,) in base.execute("SELECT sealed FROM groups WHERE skipped IS NOT NULL"):
            folder, files = store.open(sealed)
            paths = [(f"{folder}/{name}" if folder else name, record) for name, _, record in files]
            found += [path for path, record in paths if record[:2] == ["S", reason] and path not in gone]
    return sorted(found)

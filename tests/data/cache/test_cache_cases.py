"""A hit decodes nothing, nothing stale is served, and items are what they are without a cache."""

import dataclasses
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cache import classes, dataset, masks, open_cache, ran, series
from helpers_data import nifti_study, noise, write_csv, write_nifti
from helpers_dicom import instance, put_pixels, save
from pydicom.uid import generate_uid

from medtl_monai.data import dataset as dataset_module
from medtl_monai.data.cache import usage
from medtl_monai.data.cases import CaseTable
from medtl_monai.data.dataset import Draw
from medtl_monai.dicom.pixels import FrameReader
from medtl_monai.errors import DataError
from medtl_monai.specs import InputSpec

SPEC_2D = InputSpec(spatial_dims=2, divisible_by=(4, 4))


def equal(first, second):
    for name in ("image", "target"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert one.numpy().tobytes() == other.numpy().tobytes()
    assert first.background == second.background
    assert first.case_id == second.case_id


def colour(folder, count=4):
    """Write colour photographs, and a table that joins them."""
    rows = []
    for n in range(count):
        ds = instance("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1", generate_uid(), generate_uid(), f"P{n}")
        ds.Modality, ds.ImageType = "XC", ["ORIGINAL", "PRIMARY"]
        put_pixels(ds, np.random.default_rng(n).integers(0, 255, (20, 16, 3)), 8, 8, colour=True)
        (folder / f"studies/p{n}").mkdir(parents=True)
        save(ds, folder / f"studies/p{n}/image")
        rows.append({"StudyInstanceUID": ds.StudyInstanceUID, "y": "ab"[n % 2]})
    return write_csv(folder / "labels.csv", rows)


def grey(folder):
    return nifti_study(folder, [{"y": y} for y in "abab"], (20, 16, 1))


def numbers(folder):
    return nifti_study(folder, [{"y": y} for y in ("1", "2.5", "4", "3")])


WAYS = {
    "class": (classes, "class", {}),
    "dicom": (series, "class", {}),
    "number": (numbers, "number", {}),
    "mask": (masks, "mask", {}),
    "patches": (masks, "mask", {"patch_size": [8, 8, 12]}),
    "colour": (colour, "class", {"spec": SPEC_2D}),
    "repeated": (
        grey,
        "class",
        {"spec": dataclasses.replace(SPEC_2D, channels=("r", "g", "b"), variable_channels=False)},
    ),
}


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_items_are_bitwise_what_they_are_without_a_cache(way, augment, tmp_path):
    write, kind, more = WAYS[way]
    labels = write(tmp_path / "d")
    plain = dataset(labels, None, kind, augment=augment, **more)
    built = dataset(labels, open_cache(tmp_path / "c"), kind, augment=augment, **more)
    assert ran(built) == (0, len(built))
    found = dataset(labels, open_cache(tmp_path / "c"), kind, augment=augment, **more)
    assert ran(found) == (len(found), 0)
    assert found.notes == built.notes
    different = set()
    for n in range(len(plain)):
        for draw in (n, Draw(n, 1), Draw(n, 2), Draw(n, 7)):
            equal(plain[draw], built[draw])
            equal(plain[draw], found[draw])
            different.add(plain[draw].image.numpy().tobytes())
    assert len(different) >= len(plain)
    if way == "patches":
        assert found[Draw(0, 1)].image.shape == (1, 8, 8, 12)
        assert len(different) == 4 * len(plain)
    if way in ("colour", "repeated"):
        assert found[0].image.shape[0] == 3
        stored = usage.entries(tmp_path / "c")[0].path / "image.npy"
        assert np.load(stored).shape[0] == (3 if way == "colour" else 1)
    assert plain.contents == found.contents


def test_a_hit_decodes_nothing_and_writes_nothing(tmp_path, monkeypatch):
    labels = series(tmp_path / "d")
    ran(dataset(labels, open_cache(tmp_path / "c")))

    def refuse(*_, **__):
        raise AssertionError("a pixel was decoded")

    for module in ("medtl_monai.data.case_table.read_volume", "medtl_monai.data.case_table.read_nifti"):
        monkeypatch.setattr(module, refuse)
    for method in ("stored", "dataset"):
        monkeypatch.setattr(FrameReader, method, refuse)
    monkeypatch.setattr("medtl_monai.data.cache.store.write_entry", refuse)
    assert ran(dataset(labels, open_cache(tmp_path / "c"))) == (4, 0)
    with pytest.raises(AssertionError, match="decoded"):
        ran(dataset(labels, open_cache(tmp_path / "other")))


def test_each_series_is_decoded_once_in_a_run(tmp_path, monkeypatch):
    labels = series(tmp_path / "d")
    reads = []
    original = FrameReader.stored
    monkeypatch.setattr(FrameReader, "stored", lambda s, h, f=0: reads.append(h.path) or original(s, h, f))
    data = dataset(labels, open_cache(tmp_path / "c"))
    assert reads == []
    data.prepare()
    [data[Draw(n, 3)] for n in range(4)]
    assert len(reads) == len(set(reads)) == 24


def test_affine_and_metadata_survive(tmp_path):
    labels = series(tmp_path / "d")
    ran(dataset(labels, open_cache(tmp_path / "c"), spacing_mm=[1.0, 1.0, 2.0]))
    found = dataset(labels, open_cache(tmp_path / "c"), spacing_mm=[1.0, 1.0, 2.0])
    assert ran(found) == (4, 0)
    for n, case in enumerate(found.cases):
        volume, kept = found.volume(case), found._mapped[n]
        assert kept.kept
        said = {f.name: getattr(kept.original, f.name) for f in dataclasses.fields(kept.original)}
        affine = said.pop("affine")
        assert affine.tobytes() == np.asarray(volume.affine).tobytes()
        assert said == {name: getattr(volume, name) for name in said}
        assert (said["unit"], said["modality"]) == ("HU", "CT")
        grid = found.preprocessing.grid(volume)
        assert kept.grid.shape == grid.shape == tuple(kept.image.shape[1:])
        assert np.asarray(kept.grid.affine).tobytes() == np.asarray(grid.affine).tobytes()
        assert not np.array_equal(kept.grid.affine, affine)
        assert kept.notes == volume.notes


def test_notes_of_reading_survive(tmp_path):
    labels = series(tmp_path / "d")
    file = sorted((tmp_path / "d/studies/s0").iterdir())[2]
    file.unlink()
    config = {"on_gap": "interpolate"}
    first = dataset(labels, open_cache(tmp_path / "c"), **config)
    ran(first)
    again = dataset(labels, open_cache(tmp_path / "c"), **config)
    assert ran(again) == (4, 0)
    assert again.notes == first.notes
    assert "interpolated" in again.notes[0]


def rewrite(path, data):
    """Change bytes, keeping size, inode and the time that can be kept."""
    status = path.stat()
    assert len(data) == status.st_size
    assert data != path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def test_a_changed_file_under_the_same_name_size_and_time_is_read_again(tmp_path, settled):
    labels = series(tmp_path / "d")
    ran(dataset(labels, open_cache(tmp_path / "c")))
    assert ran(dataset(labels, open_cache(tmp_path / "c"))) == (4, 0)
    file = sorted((tmp_path / "d/studies/s1").iterdir())[0]
    data = file.read_bytes()
    rewrite(file, data[:-2] + bytes([data[-2] ^ 1, data[-1]]))
    now = dataset(labels, open_cache(tmp_path / "c"))
    assert ran(now) == (3, 1)
    plain = dataset(labels, None)
    for n in range(4):
        equal(now[n], plain[n])
    rewrite(file, data)
    assert ran(dataset(labels, open_cache(tmp_path / "c"))) == (4, 0), "the old bytes are known"


def test_a_changed_mask_is_read_again(tmp_path, settled):
    labels = masks(tmp_path / "d")
    ran(dataset(labels, open_cache(tmp_path / "c"), "mask"))
    mask = (noise(1, (24, 20, 22)) > 110).astype(np.uint8) + (noise(1, (24, 20, 22)) > 140)
    write_nifti(tmp_path / "d/m1.nii", mask)
    now = dataset(labels, open_cache(tmp_path / "c"), "mask")
    assert ran(now) == (2, 1)
    equal(now[1], dataset(labels, None, "mask")[1])


def test_a_known_problem_is_raised_even_if_the_voxels_are_there(tmp_path):
    labels = classes(tmp_path / "d")
    cache = open_cache(tmp_path / "c")
    data = dataset(labels, cache)
    ran(data)
    cases = tuple(dataclasses.replace(case, problem=DataError("two series could be it")) for case in data.table)
    table = CaseTable(cases=cases, kind="class")
    with pytest.raises(DataError, match="two series could be it"):
        dataset_module.CaseDataset(table, table.ids, data.preprocessing, disk=cache)[0]


def test_a_file_that_changes_while_it_is_read(tmp_path):
    labels = classes(tmp_path / "d")
    data = dataset(labels, open_cache(tmp_path / "c"))
    original, reads = data.volume, []

    def volume(case):
        found = original(case)
        reads.append(case.case_id)
        if len(reads) <= changes:
            time.sleep(0.01)
            write_nifti(case.image, noise(90 + len(reads)))
        return found

    data.volume, changes = volume, 1
    image = data[0].image
    assert len(reads) == 2
    equal(data[0], dataset(labels, None)[0])
    assert image.std() > 0
    changes = 99
    with pytest.raises(DataError, match=rf"case {data.cases[1].case_id}: its files changed while they were being read"):
        data[1]
    assert len(reads) == 4
    assert len(usage.entries(tmp_path / "c")) == 1


@pytest.mark.parametrize("how", ["truncate", "flip", "gone"])
def test_a_damaged_entry_is_made_again(how, tmp_path):
    labels = masks(tmp_path / "d")
    ran(dataset(labels, open_cache(tmp_path / "c"), "mask"))
    file = usage.entries(tmp_path / "c")[0].path / "image.npy"
    data = file.read_bytes()
    time.sleep(0.01)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if how == "truncate" else data[:-1] + bytes([data[-1] ^ 1]))
    now = dataset(labels, open_cache(tmp_path / "c"), "mask")
    assert ran(now) == (2, 1)
    plain = dataset(labels, None, "mask")
    for n in range(3):
        equal(now[n], plain[n])
    assert ran(dataset(labels, open_cache(tmp_path / "c"), "mask")) == (3, 0)


def test_an_entry_that_was_evicted_meanwhile_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "MAPPED", 1)
    labels = classes(tmp_path / "d")
    data = dataset(labels, open_cache(tmp_path / "c"))
    ran(data)
    held = data[3].image
    assert len(data._mapped) == 1
    usage.clear(tmp_path / "c")
    assert usage.entries(tmp_path / "c") == []
    plain = dataset(labels, None)
    for n in (3, 0, 1):
        equal(data[n], plain[n])
    assert torch.equal(held, plain[3].image)
    assert len(usage.entries(tmp_path / "c")) == 2


def test_the_number_of_open_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "MAPPED", 2)
    data = dataset(classes(tmp_path / "d"), open_cache(tmp_path / "c"))
    ran(data)
    before = [data[n].image for n in range(4)]
    assert len(data._mapped) == 2
    assert all(torch.equal(data[n].image, before[n]) for n in range(4))
    assert data._disk.hits == 0


def test_what_is_handed_out_may_be_written_to(tmp_path):
    data = dataset(masks(tmp_path / "d"), open_cache(tmp_path / "c"), "mask")
    ran(data)
    sample = data[0]
    before = sample.image.clone()
    sample.image.zero_()
    sample.target.fill_(9)
    assert torch.equal(data[0].image, before)
    assert data[0].target.max() <= 2


def test_a_pickled_data_set_maps_for_itself(tmp_path):
    data = dataset(masks(tmp_path / "d"), open_cache(tmp_path / "c"), "mask", patch_size=[8, 8, 8])
    ran(data)
    raw = pickle.dumps(data)
    assert len(raw) < 3 * data._mapped[0].image.nbytes
    other = pickle.loads(raw)
    equal(other[Draw(1, 5)], data[Draw(1, 5)])
    assert other._mapped[1].kept


def test_memory_is_used_where_the_disk_has_no_room(tmp_path, monkeypatch):
    labels = classes(tmp_path / "d", shape=(24, 20, 24))
    cache = open_cache(tmp_path / "c", max_gib=2.6 * (4096 + 24 * 20 * 24 * 4) / 2**30)
    data = dataset(labels, cache)
    assert ran(data) == (0, 4)
    assert len(data._keys) == len(data._cache) == 2
    assert cache.notes() == [
        "2 cases do not fit in the cache (cache.max_gib, or half of the free disk) beside the others of this run"
    ]
    assert data.bytes_in_memory == 2 * 24 * 20 * 24 * 4
    plain = dataset(labels, None)
    for n in range(4):
        equal(data[n], plain[n])


def test_a_full_disk_is_survived_with_one_note(tmp_path, monkeypatch):
    labels = classes(tmp_path / "d")
    cache = open_cache(tmp_path / "c")

    def refuse(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr("medtl_monai.data.cache.store.write_entry", refuse)
    data = dataset(labels, cache)
    ran(data)
    plain = dataset(labels, None)
    for n in range(4):
        equal(data[n], plain[n])
    assert cache.notes() == [
        "the cache of preprocessed images cannot be written (the disk is full): going on without it"
    ]


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers_cache import dataset, open_cache, ran
labels, folder, go = map(Path, sys.argv[2:5])
data = dataset(labels, open_cache(folder))
Path(sys.argv[5]).touch()
while not go.exists():
    time.sleep(0.005)
ran(data)
print(hash(0), data._disk.hits + data._disk.made, data[0].image.sum().item(), len(data._keys))
"""


@pytest.mark.slow
def test_two_processes_share_what_they_make(tmp_path):
    labels = series(tmp_path / "d", 6)
    go = tmp_path / "go"
    helpers = Path(__file__).parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, helpers, labels, tmp_path / "c", go, tmp_path / f"ready{n}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready{n}").exists() for n in range(2)) and time.monotonic() < deadline:
        time.sleep(0.01)
    go.touch()
    said = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    assert said[0][1::2] == ["6", "6"]
    left = list((tmp_path / "c/entries").iterdir())
    assert len(left) == 6
    data = dataset(labels, open_cache(tmp_path / "c"))
    assert ran(data) == (6, 0)
    plain = dataset(labels, None)
    for n in range(6):
        equal(data[n], plain[n])

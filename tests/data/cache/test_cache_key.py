"""Whatever decides an entry, changed, is another entry; what does not, is not."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers_cache import classes, dataset, masks, open_cache, ran, series
from helpers_data import write_csv
from helpers_dicom import Recipe, write_enhanced
from pydicom.uid import generate_uid

from medtl_monai.data.cache import key as key_module
from medtl_monai.data.cache.sources import source_facts, source_files
from medtl_monai.data.inputs import Inputs
from medtl_monai.dicom import scan
from medtl_monai.dicom.select import Rules

PARAMETERS = [
    {"spacing_mm": [1.0, 1.0, 2.5]},
    {"size": [16, 16, 16]},
    {"clip": [-900, 500]},
    {"normalise": "minmax"},
    {"orientation": "LPS"},
    {"on_gap": "interpolate"},
]


@pytest.mark.parametrize("change", PARAMETERS, ids=lambda c: next(iter(c)))
def test_a_changed_parameter_is_a_miss(change, tmp_path):
    labels = series(tmp_path / "d")
    cache = open_cache(tmp_path / "c")
    assert ran(dataset(labels, cache)) == (0, 4)
    assert ran(dataset(labels, cache, **change)) == (0, 4)
    assert ran(dataset(labels, cache)) == (4, 0)
    assert ran(dataset(labels, cache, **change)) == (4, 0)


def test_the_unit_that_is_converted_to_is_a_parameter(tmp_path):
    data = dataset(series(tmp_path / "d"), None)
    plan = data.preprocessing
    other = dataclasses.replace(plan, intensity=dataclasses.replace(plan.intensity, unit="SUVbw"))
    assert key_module.parameters(plan) != key_module.parameters(other)


def test_structures_and_ignored_label_are_parameters(tmp_path):
    labels = masks(tmp_path / "d")
    cache = open_cache(tmp_path / "c")
    data = dataset(labels, cache, "mask", patch_size=[8, 8, 8])
    assert ran(data) == (0, 3)
    for change in ({"ignore": 2}, {"structures": ("x", "y", "z")}, {"segments": {"x": 1}}):
        scheme = dataclasses.replace(data.table.scheme, **change)
        data.table = dataclasses.replace(data.table, scheme=scheme)
        data._keys, data._read = {}, set()
        data._mapped.clear()
        assert ran(data) == (0, 3), change


def test_notes_and_kind_of_target_are_no_parameters(tmp_path):
    cache = open_cache(tmp_path / "c")
    labels = classes(tmp_path / "d")
    assert ran(dataset(labels, cache)) == (0, 4)
    write_csv(labels, [{"image": f"img/{n}.nii.gz", "y": y} for n, y in enumerate("1234")])
    data = dataset(labels, cache, "number")
    data.preprocessing = dataclasses.replace(data.preprocessing, notes=("another remark",))
    assert ran(data) == (4, 0)
    assert data[2].target.tolist() == [3.0]


@pytest.mark.parametrize("what", ["versions", "code_fingerprint", "LAYOUT"])
def test_another_version_is_a_miss(what, tmp_path, monkeypatch):
    labels = classes(tmp_path / "d")
    ran(dataset(labels, open_cache(tmp_path / "c")))
    assert ran(dataset(labels, open_cache(tmp_path / "c"))) == (4, 0)
    other = {"versions": lambda: {"torch": "other"}, "code_fingerprint": lambda: "other", "LAYOUT": 2}[what]
    monkeypatch.setattr(key_module, what, other)
    assert ran(dataset(labels, open_cache(tmp_path / "c"))) == (0, 4)


def test_versions_name_what_touches_voxels():
    found = key_module.versions()
    assert found["torch"] == torch.__version__
    assert {"medtl-monai", "monai", "numpy", "pydicom", "nibabel", "scipy", "python-gdcm", "pyjpegls"} <= set(found)
    assert len(key_module.code_fingerprint()) == 64


def parts_of(folder):
    """Write one series of two echoes; return a table with a case for each."""
    study, uid = generate_uid(), generate_uid()
    for n in range(2):
        Recipe(
            study=study, series=uid, prefix=f"e{n}", slices=6, rows=12, columns=10, offset=7 * n,
            edit=lambda ds, _, n=n: setattr(ds, "EchoTime", 10 * n + 5),
        ).write(folder / "s")  # fmt: skip
    return scan(folder / "s").series


def test_parts_and_frames_of_one_set_of_files_are_different_entries(tmp_path):
    first, second = parts_of(tmp_path)
    data = dataset(series(tmp_path / "d"), None)
    case = data.cases[0]
    facts = [
        source_facts(data.table, dataclasses.replace(case, image=image))
        for image in (
            first,
            second,
            dataclasses.replace(first, slices=first.slices[:-1]),
            dataclasses.replace(first, slices=tuple(reversed(first.slices))),
            dataclasses.replace(first, notes=("1 localizer was left out",)),
            dataclasses.replace(first, derived=True),
        )
    ]
    keys = {key_module.entry_key(b"secret", ["same"] * 6, each, data.preprocessing) for each in facts}
    assert len(keys) == len(facts)


def test_frames_of_one_file_are_different_entries(tmp_path):
    write_enhanced(tmp_path / "s", Recipe(), [3, 0, 5, 1, 4, 2])
    (image,) = scan(tmp_path / "s").series
    data = dataset(series(tmp_path / "d"), None)
    chosen = (image.slices, image.slices[:3], image.slices[3:], tuple(reversed(image.slices)))
    facts = [
        repr(source_facts(data.table, dataclasses.replace(data.cases[0], image=dataclasses.replace(image, slices=s))))
        for s in chosen
    ]
    assert len(set(facts)) == 4
    assert {item.header.path for item in image.slices} == {"enhanced"}


def test_two_echoes_of_the_same_files_folder_are_never_mixed_up(tmp_path):
    rows = []
    for n in range(4):
        study, uid = generate_uid(), generate_uid()
        for echo in range(2):
            Recipe(
                study=study, series=uid, prefix=f"e{echo}", slices=6, rows=12, columns=10, patient=f"P{n}",
                edit=lambda ds, k, n=n, echo=echo: (
                    setattr(ds, "EchoTime", 10 * echo + 5),
                    setattr(ds, "PixelData", np.random.default_rng([n, echo, k]).bytes(240)),
                ),
            ).write(tmp_path / f"d/studies/s{n}")  # fmt: skip
        rows.append({"StudyInstanceUID": study, "y": "ab"[n % 2]})
    labels = write_csv(tmp_path / "d/labels.csv", rows)
    cache = open_cache(tmp_path / "c")
    images = {}
    for part in ("EchoTime 5", "EchoTime 15"):
        data = dataset(labels, cache, select={"part": part})
        assert ran(data) == (0, 4)
        again = dataset(labels, cache, select={"part": part})
        assert ran(again) == (4, 0)
        images[part] = again[0].image
        assert torch.equal(images[part], dataset(labels, None, select={"part": part})[0].image)
    assert not torch.equal(*images.values())


def test_a_scan_older_than_the_bytes_does_not_lend_them_its_geometry(tmp_path):
    """Headers were scanned, then the file changed: old geometry with new bytes must not become anybody's entry."""
    data = dataset(series(tmp_path / "d"), None)
    case = data.cases[0]
    item = case.image.slices[0]
    plane = dataclasses.replace(item.header.planes[0], slope=2.0)
    for change in ({"planes": (plane,)}, {"padding": (1, 1)}, {"units": "BQML"}):
        other = dataclasses.replace(item, header=dataclasses.replace(item.header, **change))
        image = dataclasses.replace(case.image, slices=(other, *case.image.slices[1:]))
        changed = dataclasses.replace(case, image=image)
        assert source_facts(data.table, changed) != source_facts(data.table, case), change


def test_moved_and_renamed_files_are_hits(tmp_path):
    cache = open_cache(tmp_path / "c")
    labels = series(tmp_path / "d")
    assert ran(dataset(labels, cache)) == (0, 4)
    (tmp_path / "d/studies/s2").rename(tmp_path / "d/studies/moved")
    assert ran(dataset(labels, cache)) == (4, 0)


def test_facts_hold_neither_names_nor_identifiers(tmp_path):
    data = dataset(series(tmp_path / "d"), None)
    case = data.cases[0]
    text = repr(source_facts(data.table, case))
    image = case.image
    for secret in (image.study_instance_uid, image.series_instance_uid, image.patient_id, image.files[0]):
        assert secret
        assert secret not in text
    assert len(source_files(case)) == 6


def test_a_rule_that_refuses_the_series_now_is_heard(tmp_path):
    recipe = Recipe(modality="CT", slope=1.0, intercept=0.0, slices=1, rows=9, columns=9).write(tmp_path / "s")
    assert recipe.slices == 1
    data = dataset(series(tmp_path / "d"), None)
    case = data.cases[0]
    few = dataclasses.replace(data.table, inputs=Inputs.one(Rules(min_slices=1)))
    assert source_facts(few, case) != source_facts(data.table, case)

"""Masks from DICOM SEG and RTSTRUCT in one table: chosen by name, in order, and never by a misspelt name."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers_dicom import Frame, Recipe, frames_of, write_seg
from helpers_rtstruct import Drawn, box, write_rtstruct

from medtl_monai.config import DataConfig, PreprocessingConfig
from medtl_monai.data.cases import load_cases
from medtl_monai.data.dataset import CaseDataset
from medtl_monai.data.image_info import image_info
from medtl_monai.data.mask_survey import survey_masks
from medtl_monai.data.masks import read_mask
from medtl_monai.data.preprocessing import plan_preprocessing
from medtl_monai.dicom import read_volume
from medtl_monai.errors import DataError, DicomError
from medtl_monai.specs import InputSpec

RECIPE = {"columns": 11, "rows": 9, "slices": 6}
LIVER, LESION, BODY = box(1.5, 2.5, 6.5, 4.5), box(6.5, 2.5, 8.5, 4.5), box(0.5, 0.5, 9.5, 7.5)


def truth(liver: int = 1, lesion: int = 2) -> np.ndarray:
    labels = np.zeros((11, 9, 6), np.int16)
    labels[2:7, 3:5, 1:3], labels[7:9, 3:5, 1:3] = liver, lesion
    return labels


def regions(**names: np.ndarray) -> dict[str, list[Drawn]]:
    return {name: [Drawn(points=points, k=k) for k in (1, 2)] for name, points in names.items()}


def rtstruct(path: Path, recipe: Recipe, **names: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_rtstruct(path, regions(**names), recipe)


def seg(path: Path, recipe: Recipe, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_seg(path, frames_of(truth(), recipe), recipe, names=names)


@pytest.fixture
def recipes(tmp_path: Path) -> list[Recipe]:
    return [Recipe(**RECIPE, patient=f"P{n}").write(tmp_path / "studies" / str(n)) for n in range(4)]


def volume(tmp_path: Path, n: int):
    return read_volume(tmp_path / "studies" / str(n))


def test_a_file_is_judged_by_its_class_and_not_by_its_name(tmp_path, recipes):
    path = rtstruct(tmp_path / "seg.nii.dcm", recipes[0], Liver=LIVER, Lesion=LESION)
    scheme = survey_masks({2: path}, (), None, "labels.csv")
    assert (scheme.structures, scheme.present) == (("Liver", "Lesion"), {path: (1, 2)})
    assert np.array_equal(read_mask(path, volume(tmp_path, 0), scheme), truth())


def test_names_choose_and_order(tmp_path, recipes):
    paths = {
        2: rtstruct(tmp_path / "a", recipes[0], BODY=BODY, Lesion=LESION, Liver=LIVER),
        3: seg(tmp_path / "b", recipes[1], "Liver", "Lesion"),
        4: rtstruct(tmp_path / "c", recipes[2], Liver=LIVER, Spleen=BODY),
    }
    scheme = survey_masks(paths, ["Lesion", "Liver"], None, "labels.csv")
    assert scheme.structures == ("Lesion", "Liver")
    assert dict(scheme.segments) == {"BODY": 0, "Spleen": 0, "Lesion": 1, "Liver": 2}
    assert scheme.present == {paths[2]: (1, 2), paths[3]: (1, 2), paths[4]: (2,)}
    assert scheme.notes == (
        "segments left out as background: BODY, Spleen",
        "1 of 3 DICOM masks have no 'Lesion'; it is absent there",
    )
    for n, (row, expected) in enumerate({2: truth(2, 1), 3: truth(2, 1), 4: truth(2, 0)}.items()):
        assert np.array_equal(read_mask(paths[row], volume(tmp_path, n), scheme), expected)


def test_seg_and_rtstruct_of_equal_names_need_no_choice(tmp_path, recipes):
    paths = {
        2: rtstruct(tmp_path / "a", recipes[0], Liver=LIVER, Lesion=LESION),
        3: seg(tmp_path / "b", recipes[1], "Lesion", "Liver"),
    }
    scheme = survey_masks(paths, (), None, "labels.csv")
    assert scheme.structures == ("Liver", "Lesion")
    assert np.array_equal(read_mask(paths[2], volume(tmp_path, 0), scheme), truth(1, 2))
    assert np.array_equal(read_mask(paths[3], volume(tmp_path, 1), scheme), truth(2, 1))


def test_a_seg_is_still_renamed_by_position(tmp_path, recipes):
    paths = {2: seg(tmp_path / "b", recipes[0], "part one", "part two")}
    scheme = survey_masks(paths, ["liver", "lesion"], None, "labels.csv")
    assert scheme.structures == ("liver", "lesion")
    assert np.array_equal(read_mask(paths[2], volume(tmp_path, 0), scheme), truth())


def test_choosing_segments_resolves_overlap(tmp_path, recipes):
    frames = frames_of(truth(), recipes[0])
    frames += [Frame(mask=np.ones((9, 11)), position=recipes[0].position(k), segment=3) for k in (1, 2)]
    path = write_seg(tmp_path / "s", frames, recipes[0], names=["Liver", "Lesion", "Body"])
    scheme = survey_masks({2: path}, (), None, "labels.csv")
    with pytest.raises(DicomError, match=r"segments overlap: 'Liver' and 'Body' in 20 voxels.*data\.structures"):
        read_mask(path, volume(tmp_path, 0), scheme)
    chosen = survey_masks({2: path}, ["Lesion", "Liver"], None, "labels.csv")
    assert np.array_equal(read_mask(path, volume(tmp_path, 0), chosen), truth(2, 1))


REFUSED = {
    "disagree": ([{"Liver": LIVER}, {"Liver": LIVER, "GTV": LESION}, {"Spleen": LIVER}], (), r"disagree.*row 4"),
    "by-position": ([{"Liver": LIVER}], ["liver"], "does not fit the segments"),
    "misspelt": ([{"Liver": LIVER, "Lesion": LESION}], ["Liver", "Lesoin"], r"no mask has 'Lesoin'.*'Lesion'"),
    "spelt-otherwise": (
        [{"GTV_1": LIVER, "Liver": LESION}, {"gtv 1": LIVER, "Liver": LESION}],
        ["Liver", "GTV_1"],
        r"row 3: the mask has 'gtv 1', and data.structures has 'GTV_1'",
    ),
    "none": ([{"Liver": LIVER}, {"Spleen": LIVER}], ["Liver"], r"none of data.structures: row 3"),
    "empty": ([{}], (), "StructureSetROISequence"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_doubtful_names_are_refused(name, tmp_path, recipes):
    sets, structures, says = REFUSED[name]
    paths = {n: rtstruct(tmp_path / str(n), recipes[n - 2], **own) for n, own in enumerate(sets, 2)}
    with pytest.raises((DataError, DicomError), match=says):
        survey_masks(paths, structures, None, "labels.csv")


def test_a_structure_set_without_areas(tmp_path, recipes):
    path = write_rtstruct(tmp_path / "a", {"Liver": None}, recipes[0])
    with pytest.raises(DataError, match="row 2: the structure set has no region"):
        survey_masks({2: path}, (), None, "labels.csv")


def table(tmp_path: Path, recipes: list[Recipe], masks: list[str]) -> Path:
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["StudyInstanceUID", "mask"])
        writer.writerows(zip([r.study for r in recipes], masks, strict=True))
    return path


def test_a_table_of_structure_sets(tmp_path, recipes):
    for n, recipe in enumerate(recipes):
        rois = {"BODY": BODY, "Liver": LIVER, "Lesion": LESION}
        rtstruct(tmp_path / "studies" / f"{n}" / "rs", recipe, **rois)
    labels = table(tmp_path, recipes, [f"{n}/rs" for n in range(4)])
    config = {"studies": tmp_path / "studies", "labels": labels, "target": ["mask"]}
    found = load_cases(DataConfig(**config, structures=["Liver", "Lesion"]), "mask")
    assert found.classes == ("background", "Liver", "Lesion")
    assert found.notes == ("segments left out as background: BODY",)
    for case in found:
        assert np.array_equal(found.read_target(case, found.read_volume(case)), truth())
    every = load_cases(DataConfig(**config), "mask")
    case = every.cases[0]
    with pytest.raises(DicomError, match=f"case {case.case_id}, .*regions overlap: 'BODY' and 'Liver' in 20 voxels"):
        every.read_target(case, every.read_volume(case))


def test_notes_of_masks_are_counted_by_case(tmp_path, recipes):
    for n, recipe in enumerate(recipes):
        slices = (1, 2) if n == 0 else (0, 1, 3 + n // 2)
        drawn = [Drawn(points=LIVER, k=k) for k in slices]
        write_rtstruct(tmp_path / "studies" / f"{n}" / "rs", {"Liver": drawn}, recipe)
    labels = table(tmp_path, recipes, [f"{n}/rs" for n in range(4)])
    found = load_cases(DataConfig(studies=tmp_path / "studies", labels=labels, target=["mask"]), "mask")
    config = PreprocessingConfig(normalise="none", patch_size="none")
    images = [image_info(found, case, config) for case in found]
    dataset = CaseDataset(found, found.ids, plan_preprocessing(InputSpec(spatial_dims=3), config, "mask", images))
    dataset.prepare()
    note = "region 'Liver' has no contour in slices between others; it is absent there (3 of 4 cases)"
    assert note in dataset.notes

from pathlib import Path

import numpy as np
import pytest
from helpers_data import affine_of, nifti_study, noise, rotation, volume_of, write_nifti

from medtl_monai.config import DataConfig
from medtl_monai.data.cases import load_cases
from medtl_monai.data.mask_survey import survey_masks
from medtl_monai.data.masks import MaskScheme, read_mask
from medtl_monai.errors import DataError

AFFINE = affine_of(rotation(5, 0, 10), (1, 1, 3))
TWO = MaskScheme(structures=("a", "b"))


def mask(values=(0, 1, 2), dtype=np.uint8):
    array = np.zeros((8, 9, 7), dtype)
    for n, value in enumerate(values):
        array[n] = value
    return array


def test_a_mask_on_its_grid(tmp_path):
    path = write_nifti(tmp_path / "m.nii.gz", mask(), AFFINE)
    labels = read_mask(path, volume_of(noise(0), AFFINE), TWO)
    assert labels.dtype == np.int16
    assert np.array_equal(labels, mask())
    floats = write_nifti(tmp_path / "f.nii.gz", mask().astype(np.float32), AFFINE)
    assert np.array_equal(read_mask(floats, volume_of(noise(0), AFFINE), TWO), mask())


@pytest.mark.parametrize("change", ["shape", "shift", "along-k", "spacing", "half"])
def test_another_grid_is_refused_with_both(tmp_path, change):
    array, affine = mask(), AFFINE.copy()
    if change == "shape":
        array = array[:-1]
    elif change == "shift":
        affine[0, 3] += 0.01
    elif change == "along-k":
        affine[:3, 3] += affine[:3, 2] / 3 * 0.002
    elif change == "half":
        affine[:3, 3] += affine[:3, 1] / 2
    else:
        affine[:3, 2] *= 1.001
    path = write_nifti(tmp_path / "m.nii.gz", array, affine)
    with pytest.raises(DataError, match=r"another grid.*voxels of.*voxels of.*Resample"):
        read_mask(path, volume_of(noise(0), AFFINE), TWO, where="case 1")


def test_a_mask_shifted_by_a_whole_voxel_is_refused(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 3] += affine[:3, 0]
    path = write_nifti(tmp_path / "m.nii.gz", mask(), affine)
    with pytest.raises(DataError, match="another grid"):
        read_mask(path, volume_of(noise(0), AFFINE), TWO)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (mask((0, 1.5), np.float32), "not whole"),
        (mask((0, -1), np.int16), "from -1"),
        (mask((0, 5000), np.int16), "to 5000"),
        (mask((0, 1, 3, 4)), r"values 3, 4, and labels go from 0 to 2"),
    ],
)
def test_wrong_values_are_refused(tmp_path, array, says):
    path = write_nifti(tmp_path / "m.nii.gz", array, AFFINE)
    with pytest.raises(DataError, match=says):
        read_mask(path, volume_of(noise(0), AFFINE), TWO, where="case 1")


def test_the_ignore_label_stays(tmp_path):
    path = write_nifti(tmp_path / "m.nii.gz", mask((0, 1, 255)), AFFINE)
    labels = read_mask(path, volume_of(noise(0), AFFINE), MaskScheme(structures=("a",), ignore=255))
    assert set(np.unique(labels)) == {0, 1, 255}


def _survey(tmp_path, *values, structures=(), ignore=None):
    paths = {n: write_nifti(tmp_path / f"{n}.nii", mask(v)) for n, v in enumerate(values, 2)}
    return survey_masks(paths, structures, ignore, "labels.csv"), paths


def test_values_become_structures(tmp_path):
    scheme, paths = _survey(tmp_path, (0, 1), (0, 1, 2), (0,))
    assert scheme.structures == ("label-1", "label-2")
    assert scheme.present == {paths[2]: (1,), paths[3]: (1, 2), paths[4]: ()}
    assert _survey(tmp_path, (0, 1, 7), ignore=7)[0].structures == ("label-1",)
    assert _survey(tmp_path, (0, 255), structures=["x"])[0].structures == ("x",)


@pytest.mark.parametrize(
    ("values", "says"), [((0, 255), "value 255, with gaps"), ((0, 2), "gaps"), ((0,), "every mask is empty")]
)
def test_doubtful_values_are_refused(tmp_path, values, says):
    with pytest.raises(DataError, match=says):
        _survey(tmp_path, values)


def test_what_is_no_mask_is_listed(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(bytes(200))
    with pytest.raises(DataError, match="rows 2, 3"):
        survey_masks({2: tmp_path / "a.png", 3: tmp_path / "b.png"}, (), None, "labels.csv")


def test_a_table_of_masks(tmp_path):
    path = nifti_study(tmp_path, [{"mask": f"m/{n}.nii.gz"} for n in range(3)])
    for n, values in enumerate([(0, 1, 2), (0, 1), (0, 2)]):
        write_nifti(tmp_path / f"m/{n}.nii.gz", mask(values))
    table = load_cases(DataConfig(labels=path, target=["mask"]), "mask")
    assert table.classes == ("background", "label-1", "label-2")
    assert [case.present for case in table] == [(1, 2), (1,), (2,)]
    assert isinstance(table.cases[0].target, Path)
    info = table.info(table.ids[:1])
    assert (info.kind, info.classes, info.cases) == ("mask", table.classes, 1)
    with pytest.raises(DataError, match="no training case has structure 'label-2'"):
        table.info(table.ids[1:2])
    case = table.cases[1]
    assert np.array_equal(table.read_target(case, table.read_volume(case)), mask((0, 1)))
    write_nifti(tmp_path / "m/1.nii.gz", mask((0, 5)))
    with pytest.raises(DataError, match=f"case {case.case_id}, mask: .*value 5"):
        table.read_target(case, table.read_volume(case))

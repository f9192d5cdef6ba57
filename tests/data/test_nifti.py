import gzip

import nibabel as nib
import numpy as np
import pytest
from helpers_data import affine_of, noise, rotation, write_nifti

from medtl_monai.data.nifti import nifti_grid, read_nifti
from medtl_monai.errors import DataError


def test_array_affine_and_defaults(tmp_path):
    affine = affine_of(rotation(10, 20, 30), (0.8, 0.9, 3))
    path = write_nifti(tmp_path / "a.nii.gz", noise(1), affine)
    volume = read_nifti(path)
    assert np.array_equal(volume.array, noise(1))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert (volume.unit, volume.modality, volume.geometry) == ("any", "", "regular")
    shape, header_affine = nifti_grid(path)
    assert shape == volume.shape
    assert np.array_equal(header_affine, volume.affine)


def test_scaling_is_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    nib.save(image, tmp_path / "a.nii")
    raw = np.asarray(nib.load(tmp_path / "a.nii").dataobj.get_unscaled())
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, raw * 2.0 - 1000)
    assert volume.array.min() == -1000


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 1)])
def test_two_dimensions_and_trailing_ones(tmp_path, shape):
    volume = read_nifti(write_nifti(tmp_path / "a.nii", np.random.default_rng(0).random(shape, np.float32)))
    assert volume.shape == ((6, 5, 1) if len(shape) < 4 else (6, 5, 4))


def test_sheared_affines_are_told(tmp_path):
    affine = np.eye(4)
    affine[1, 2] = 0.3
    assert read_nifti(write_nifti(tmp_path / "a.nii", noise(0), affine)).geometry == "sheared"


def _broken(tmp_path, case):
    path = tmp_path / "a.nii.gz"
    if case == "4d":
        write_nifti(path, np.zeros((3, 4, 5, 6), np.float32))
    elif case == "complex":
        write_nifti(path, np.ones((3, 4, 5), np.complex64))
    elif case == "nan":
        array = noise(0)
        array[0, 0, 0] = np.nan
        write_nifti(path, array)
    elif case == "no affine":
        image = nib.Nifti1Image(noise(0), None)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nib.save(image, path)
    elif case == "singular":
        data = bytearray(write_nifti(tmp_path / "b.nii", noise(0)).read_bytes())
        data[312:328] = bytes(16)  # srow_z
        path.write_bytes(gzip.compress(data))
    elif case == "truncated":
        write_nifti(tmp_path / "b.nii", noise(0))
        path.write_bytes(gzip.compress((tmp_path / "b.nii").read_bytes()[:1000]))
    elif case == "cut gzip":
        write_nifti(path, noise(0))
        path.write_bytes(path.read_bytes()[:-200])
    elif case == "junk":
        path.write_bytes(b"junk")
    return path


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("4d", "4 dimensions"),
        ("complex", "complex"),
        ("nan", "1 of 504 voxels"),
        ("no affine", "no usable affine"),
        ("singular", "singular"),
        ("truncated", "cannot be read"),
        ("cut gzip", "cannot be read"),
        ("junk", "cannot be read"),
        ("absent", "no such file"),
    ],
)
def test_unusable_files_are_refused(tmp_path, case, says):
    with pytest.raises(DataError, match=says) as caught:
        read_nifti(_broken(tmp_path, case), where="case 1")
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.mend


def test_disagreeing_forms_are_noted(tmp_path):
    image = nib.Nifti1Image(noise(0), np.eye(4))
    image.set_sform(affine_of(rotation(0, 0, 40)), 4)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert "disagree" in volume.notes[0]
    np.testing.assert_allclose(volume.affine, affine_of(rotation(0, 0, 40)), atol=1e-6)


def test_an_image_larger_than_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii", noise(0))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 100})())
    with pytest.raises(DataError, match="GiB"):
        read_nifti(path)

"""RTSTRUCT beside plastimatch (Debian package plastimatch), an independent rasteriser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from helpers_dicom import Recipe
from helpers_rtstruct import Drawn, circle, inside, write_rtstruct
from pydicom.uid import generate_uid

from medtl_monai.dicom import Volume, read_rtstruct, read_volume
from medtl_monai.dicom.structures import open_structures

DATA = Path(os.environ.get("MEDTL_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
RT_UTILS = DATA / "dicom" / "rtutils_rtstruct"
TOOL = shutil.which("plastimatch")
needs_tool = pytest.mark.skipif(TOOL is None, reason="plastimatch is not installed (Debian package plastimatch)")
needs_data = [pytest.mark.real, pytest.mark.skipif(not RT_UTILS.is_dir(), reason=f"no real data in {DATA.name}")]


def plastimatch(structures: Path, image: Path, names: list[str], out: Path) -> dict[str, np.ndarray]:
    """Return the masks plastimatch makes, on the image's grid, with contours combined by exclusive disjunction."""
    command = [str(TOOL), "convert", "--input", str(structures), "--referenced-ct", str(image), "--xor-contours"]
    command += ["--output-prefix", str(out), "--prefix-format", "nii.gz"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return {name: np.asarray(nib.load(out / f"{name}.nii.gz").dataobj) > 0 for name in names}


def outlines(path: Path, name: str, volume: Volume) -> dict[int, list[np.ndarray]]:
    """Return slice to contours in voxel indices."""
    (roi,) = [roi for roi in open_structures(path, path.name).rois if roi.name == name]
    found: dict[int, list[np.ndarray]] = {}
    for contour in roi.contours():
        ras = np.column_stack([contour.points * (-1, -1, 1), np.ones(len(contour.points))])
        indices = np.linalg.solve(volume.affine, ras.T)[:3].T
        found.setdefault(round(float(indices[0, 2])), []).append(indices[:, :2])
    return found


def assert_alike(ours: np.ndarray, theirs: np.ndarray, drawn: dict[int, list[np.ndarray]]) -> None:
    """Dice of at least 0.99, and no voxel in dispute whose centre is half a voxel or more from every contour."""
    assert ours.shape == theirs.shape
    assert ours.any()
    assert 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs)) >= 0.99
    for i, j, k in np.argwhere(ours != theirs):
        assert min(distance(np.array([i, j]), outline) for outline in drawn[int(k)]) < 0.5


def distance(point: np.ndarray, outline: np.ndarray) -> float:
    sides = np.roll(outline, -1, axis=0) - outline
    along = ((point - outline) * sides).sum(1) / np.maximum((sides**2).sum(1), 1e-12)
    nearest = outline + np.clip(along, 0, 1)[:, None] * sides
    return float(np.linalg.norm(nearest - point, axis=1).min())


@needs_tool
@pytest.mark.parametrize("spacing", [(0.9, 0.9), (0.9, 1.7)])
def test_wavy_outlines_and_rings(spacing: tuple[float, float], tmp_path: Path) -> None:
    recipe = Recipe(modality="CT", slope=1, intercept=-9000, columns=90, rows=70, slices=6, spacing=spacing)
    volume = read_volume((recipe.write(tmp_path / "image"), tmp_path / "image")[1])
    rng = np.random.default_rng(4)
    wavy = [Drawn(points=circle((41.3, 33.2), (30, 25), 90) + rng.normal(0, 0.5, (90, 2)), k=k) for k in range(1, 5)]
    ring = [Drawn(points=p, k=k) for k in (2, 3, 4) for p in (circle((60, 40.5), 27.2), circle((60.7, 40.1), 19.9))]
    path = write_rtstruct(tmp_path / "rs.dcm", {"Wavy": wavy, "Ring": ring}, recipe)
    theirs = plastimatch(path, tmp_path / "image", ["Wavy", "Ring"], tmp_path / "out")
    for name in theirs:
        ours = read_rtstruct(path, volume, rois=[name]).labels > 0
        assert_alike(ours, theirs[name], outlines(path, name, volume))


class TestReal:
    pytestmark = needs_data

    def image(self, folder: Path) -> Volume:
        """The two CT slices, and a third one above, which the structures reach but the data lack."""
        for name in ("ct_1.dcm", "ct_2.dcm"):
            shutil.copy(RT_UTILS / "mock_data" / name, folder / name)
        above = pydicom.dcmread(folder / "ct_2.dcm")
        above.ImagePositionPatient[2] += 5
        above.SOPInstanceUID = above.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        above.save_as(folder / "ct_3.dcm")
        return read_volume(folder)

    @needs_tool
    def test_clinical_contours(self, tmp_path: Path) -> None:
        (tmp_path / "image").mkdir()
        volume = self.image(tmp_path / "image")
        path = RT_UTILS / "mock_data" / "invalid_reference_rt.dcm"
        names = [f"ROI-{n}" for n in (1, 2, 3, 4)]
        theirs = plastimatch(path, tmp_path / "image", names, tmp_path / "out")
        for name in names:
            mask = read_rtstruct(path, volume, rois=[name])
            assert mask.notes == ()
            assert_alike(mask.labels > 0, theirs[name], outlines(path, name, volume))

    def test_clinical_contours_by_brute_force(self, tmp_path: Path) -> None:
        volume = self.image(tmp_path)
        path = RT_UTILS / "mock_data" / "non_existent_reference_rt.dcm"
        mask = read_rtstruct(path, volume)
        assert mask.names == ("ROI-1", "ROI-2", "ROI-3", "ROI-4")
        assert "names no series" in mask.notes[0]
        for value, name in enumerate(mask.names, 1):
            for k, contours in outlines(path, name, volume).items():
                low = np.floor(np.concatenate(contours).min(axis=0)).astype(int) - 1
                size = np.ptp(np.concatenate(contours), axis=0).astype(int) + 4
                window = mask.labels[low[0] : low[0] + size[0], low[1] : low[1] + size[1], k] == value
                assert np.array_equal(window, inside([c - low for c in contours], tuple(size)))
                assert np.count_nonzero(mask.labels[:, :, k] == value) == window.sum() > 0

    def test_a_square_with_a_hole(self, tmp_path: Path) -> None:
        """What rt-utils wrote: a square of 24 mm with a hole of 15 mm whose corners are cut by 1 mm."""
        mask = read_rtstruct(RT_UTILS / "mock_data" / "rt.dcm", self.image(tmp_path))
        area = np.count_nonzero(mask.labels[:, :, 0]) * 0.488281**2
        assert abs(area - (24**2 - 15**2 + 2)) < 0.03 * area
        assert not mask.labels[:, :, 1:].any()

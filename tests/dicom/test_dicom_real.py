"""Real scanners' files against references made by other programs."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from fuzz_oracle import judge_bytes
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_rescale

from medtl_monai.dicom import Volume, read_seg, read_volume, read_volumes, scan
from medtl_monai.errors import DicomError

DATA = Path(os.environ.get("MEDTL_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = [pytest.mark.real, pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA.name}")]

D2N = DATA / "dicom" / "dicom2nifti_tests"
REFERENCES = [
    "anatomical/001",
    "anatomical/001_implicit",
    "failing/slicecount/001",
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
]
SECOND_OPINION = [
    "dicom2nifti_tests/siemens/anatomical/001",
    "dicom2nifti_tests/philips/anatomical/001",
    "dicom2nifti_tests/hitachi/anatomical/001",
    "dicom2nifti_tests/siemens_multiframe/anatomical/001",
    "dicom2nifti_tests/philips_enhanced/anatomical/001",
    "dicom2nifti_tests/hyperfine/anatomical/001",
    "dicom2nifti_tests/failing/gantrytilting/001",
    "dcmqi_seg_pm_sr/segmentations/ct-3slice",
    "dcmqi_seg_pm_sr/segmentations/24x38x3/multiframe",
    "rtutils_rtstruct/mock_data",
    "udacity_hippo_studies/Study1/13_HCropVolume",
    "udacity_hippo_studies/Study2/14_HCropVolume",
]
CASES = ["001", "039", "132", "204", "308", "350", "386"]


def canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    return np.asarray(image.dataobj), image.affine


def assert_equal_to_nifti(volume: Volume, path: Path, atol: float = 1e-4) -> None:
    image = nib.load(path)
    ours, our_affine = canonical(np.asarray(volume.array), volume.affine)
    theirs, their_affine = canonical(image.get_fdata(dtype=np.float32), image.affine)
    assert ours.std() > 0
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= atol
    assert np.abs(our_affine - their_affine).max() < 1e-3


class TestReal:
    pytestmark = needs_data

    @pytest.mark.parametrize("name", REFERENCES)
    def test_equals_dicom2nifti(self, name: str) -> None:
        assert_equal_to_nifti(read_volume(D2N / name), D2N / f"{name}_ground_truth.nii.gz")

    @pytest.mark.parametrize("name", SECOND_OPINION)
    def test_equals_a_second_opinion(self, name: str) -> None:
        folder = DATA / "dicom" / name
        volume = read_volume(folder)
        known = judge_bytes({p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
        verdicts = [one.judge(volume.array, volume.affine, rtol=1e-4) for one in known]
        assert any(verdict.right for verdict in verdicts), [verdict.why for verdict in verdicts]
        assert volume.array.std() > 0

    def test_enhanced_time_series(self) -> None:
        volumes = read_volumes(DATA / "dicom" / "mr_enhanced" / "Siemens" / "XA10")
        files = sorted((DATA / "dicom" / "mr_enhanced" / "Siemens" / "XA10").iterdir())
        known = [one for path in files for one in judge_bytes({path.name: path.read_bytes()})]
        assert len(volumes) == len(known) == 4
        for volume in volumes:
            assert sum(one.judge(volume.array, volume.affine, rtol=1e-4).right for one in known) == 1

    def test_enhanced_echoes(self) -> None:
        first, second = read_volumes(DATA / "dicom" / "mr_enhanced" / "Philips")
        assert first.same_grid(second)
        assert "EchoTime" in first.notes[-1]
        assert not np.array_equal(first.array, second.array)

    @pytest.mark.parametrize(("name", "shapes"), [("sliceincrement/001", [3]), ("sliceincrement/002", [3])])
    def test_series_with_gaps_in_runs(self, name: str, shapes: list[int]) -> None:
        volumes = read_volumes(D2N / "failing" / name, on_gap="split")
        assert [volume.shape[2] for volume in volumes] == shapes

    def test_radiograph_with_a_grid_spacing(self) -> None:
        path = DATA / "dicom" / "highdicom_test_files" / "dx_image.dcm"
        volume = read_volume(path)
        (expected,) = judge_bytes({path.name: path.read_bytes()})
        assert np.array_equal(volume.array, expected.array)
        assert volume.spacing_known

    def test_colour_stack(self) -> None:
        volume = read_volume(D2N / "generic" / "rgb" / "001")
        image = nib.load(D2N / "generic" / "rgb" / "001_ground_truth.nii.gz")
        reference = np.asarray(image.dataobj)
        for channel, name in enumerate("RGB"):
            ours, _ = canonical(np.asarray(volume.array[channel]), volume.affine)
            theirs, _ = canonical(reference[name].astype(np.float32), image.affine)
            assert ours.std() > 0
            assert np.array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("failing/sliceincrement/001", "1 slice.s. missing: gap 10 mm = 2×5 mm"),
            ("failing/sliceincrement/002", "1 slice.s. missing"),
            ("failing/sliceorientation/001", "2 series fit.*sagittal.*axial|2 series fit.*axial.*sagittal"),
            ("failing/notavolume/001", "4 series fit.*AcquisitionNumber"),
            ("siemens/fmri_classic/001", "2 series fit.*AcquisitionNumber 1"),
            ("ge/anatomical/001_single_slice", "only 1 slice"),
            ("../mr_transfer_syntaxes/In", "mosaic"),
            ("../mr_enhanced/Philips", "2 series fit.*EchoTime"),
            ("../rtutils_rtstruct/oriented_data", "(SliceThickness is missing|series fit|same position|slice)"),
        ],
    )
    def test_refuses(self, name: str, words: str) -> None:
        with pytest.raises(DicomError, match=words):
            read_volume((D2N / name).resolve())

    def test_tilted_ct_keeps_its_shear(self) -> None:
        volume = read_volume(D2N / "failing" / "gantrytilting" / "001")
        assert volume.geometry == "sheared"
        assert volume.unit == "HU"
        assert np.allclose(volume.affine[:3, 2], (0, 0, 5), atol=1e-6)

    @pytest.mark.parametrize("name", ["siemens_multiframe", "philips_enhanced", "hyperfine"])
    def test_enhanced_equals_highdicom_rules(self, name: str) -> None:
        folder = D2N / name / "anatomical" / "001"
        volume = read_volume(folder)
        (file,) = [f for f in folder.iterdir() if f.is_file()]
        dataset = pydicom.dcmread(file)
        for frame, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
            index = np.linalg.inv(volume.affine) @ [*position, 1]
            assert np.abs(index[:2]).max() < 0.01
            k = round(index[2])
            assert abs(index[2] - k) < 0.01
            raw = dataset.pixel_array[frame].T.astype(np.float32)
            ours = volume.array[:, :, k]
            assert np.corrcoef(raw.ravel(), ours.ravel())[0, 1] > 0.999999

    @pytest.mark.parametrize("case", CASES)
    def test_hippocampus_equals_its_nifti(self, case: str) -> None:
        folder = DATA / "hippocampus_dicom" / "studies" / f"hippocampus_{case}"
        if not folder.is_dir():
            pytest.skip("case not among the 40")
        volume = read_volume(folder)
        (image,) = (DATA / "hippocampus" / "images").glob(f"hippocampus_{case}.nii*")
        # Stored in 12 bits: half a step of the rescale slope.
        assert_equal_to_nifti(volume, image, atol=float(volume.array.max()) / 4095)
        mask = read_seg(DATA / "hippocampus_dicom" / "hippocampus_seg" / f"hippocampus_{case}.dcm", volume)
        (labels,) = (DATA / "hippocampus" / "labels").glob(f"hippocampus_{case}.nii*")
        ours, _ = canonical(mask.labels, volume.affine)
        theirs, _ = canonical(np.asarray(nib.load(labels).dataobj).astype(np.int16), nib.load(labels).affine)
        assert np.array_equal(ours, theirs)
        assert set(np.unique(ours)) == {0, 1, 2}
        assert mask.names == ("anterior hippocampus", "posterior hippocampus")

    def test_hippocampus_scan(self) -> None:
        found = scan(DATA / "hippocampus_dicom")
        assert len(found.series) == len(found.segmentations) == 40
        assert all(len(s.series) == len(s.segmentations) == 1 for s in found.studies)
        assert not found.damaged
        assert all(s.problem is None for s in found.series)

    @pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
    def test_dcmqi_segmentation(self, size: str) -> None:
        folder = DATA / "dicom" / "dcmqi_seg_pm_sr" / "segmentations" / size
        classic, enhanced = read_volume(folder / "image"), read_volume(folder / "multiframe")
        assert classic.same_grid(enhanced)
        assert np.array_equal(classic.array, enhanced.array)
        assert classic.unit == enhanced.unit == "any"  # RescaleType US

    @pytest.mark.parametrize(
        ("image", "seg", "reference"),
        [
            ("ct-3slice", "liver.dcm", "liver_seg.nrrd"),
            ("24x38x3/image", "sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd"),
            ("24x38x3/image", "sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd"),
        ],
    )
    def test_segmentations_equal_their_nrrd(self, image: str, seg: str, reference: str) -> None:
        folder = DATA / "dicom" / "dcmqi_seg_pm_sr" / "segmentations"
        volume = read_volume(folder / image)
        mask = read_seg(folder / seg, volume)
        values, origin = read_nrrd(folder / reference)
        assert np.allclose(volume.affine[:3, 3], origin * (-1, -1, 1), atol=1e-3)
        # The second file's padding value 5 stands for slices that are not stored.
        assert np.array_equal(mask.labels, np.where(values == 5, 0, values))
        assert mask.labels.any()
        assert mask.names == ("Liver",)

    def test_overlapping_segments_are_named(self) -> None:
        folder = DATA / "dicom" / "dcmqi_seg_pm_sr" / "segmentations"
        volume = read_volume(folder / "ct-3slice")
        with pytest.raises(DicomError, match="'GREEN' and 'ORANGE' in 3017 voxels"):
            read_seg(folder / "partial_overlaps.dcm", volume)


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a gzipped NRRD of small integers: values [i, j, k] and origin (LPS)."""
    head, data = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    kind = {"short": "<i2", "unsigned short": "<u2"}.get(fields["type"], "u1")
    sizes = [int(n) for n in fields["sizes"].split()]
    data = gzip.decompress(data) if fields["encoding"].startswith("gz") else data
    return np.frombuffer(data, kind).reshape(sizes, order="F"), np.array(vector(fields["space origin"]))


def vector(text: str) -> list[float]:
    return [float(part) for part in text.strip("() ").split(",")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ExplVR_BigEndNoMeta.dcm", "no image series"),
        ("MR_truncated.dcm", "PixelData is truncated: 8130 of 8192 bytes"),
        ("rtplan_truncated.dcm", "1 × no image (RT Plan Storage)"),
        ("badVR.dcm", "1 × no image (RT Dose Storage)"),
        ("nested_priv_SQ.dcm", "SOPClassUID is missing"),
        ("rtstruct.dcm", "no image series"),
        ("JPEG-lossy.dcm", "cannot be decoded"),
        ("liver_1frame.dcm", "a segmentation"),
        ("examples_ybr_color.dcm", "cine of 30 frames"),
    ],
)
def test_pydicom_files_that_are_refused(name: str, words: str) -> None:
    with pytest.raises(DicomError) as caught:
        read_volume(get_testdata_file(name, download=False), select={"min_slices": 1})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_padded.dcm",
        "examples_palette.dcm",
        "examples_rgb_color.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "JPEG2000.dcm",
        "image_dfl.dcm",
        "dicomdirtests/77654033/CR1/6154",
    ],
)
@pytest.mark.filterwarnings("ignore:The pixel data is:UserWarning")
def test_pydicom_files_equal_its_own_decoding(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        path = Path(get_testdata_file("DICOMDIR", download=False)).parent / name.removeprefix("dicomdirtests/")
    volume = read_volume(path, select={"min_slices": 1})
    dataset = pydicom.dcmread(path)
    expected = dataset.pixel_array
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        expected = (1 << dataset.BitsStored) - 1 - expected
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        expected = apply_color_lut(expected, dataset)
    expected = apply_rescale(expected, dataset)
    assert expected.std() > 0
    ours = volume.array[..., 0].T if volume.array.ndim == 3 else volume.array[..., 0].transpose(2, 1, 0)
    assert np.allclose(ours, expected, rtol=1e-6)

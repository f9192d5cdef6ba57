import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_data import nifti_study, noise, write_nifti

from medtl_monai.config import AugmentationConfig, DataConfig, PreprocessingConfig
from medtl_monai.data.augmentation import augmentation
from medtl_monai.data.cases import CaseTable, load_cases, unlabelled_cases
from medtl_monai.data.dataset import CaseDataset, Draw, collate
from medtl_monai.data.patches import choose_patch, find_foreground
from medtl_monai.data.preprocessing import image_info, plan_preprocessing
from medtl_monai.errors import DataError
from medtl_monai.specs import InputSpec

SPEC = InputSpec(spatial_dims=3, divisible_by=(4, 4, 4))


def dataset(tmp_path, kind="class", values=("a", "b", "a", "b"), shapes=None, augment=True, cache=True, **config):
    path = nifti_study(tmp_path, [{"y": y} for y in values])
    for n, shape in enumerate(shapes or []):
        write_nifti(tmp_path / f"img/{n}.nii.gz", noise(n, shape))
        if kind == "mask":
            write_nifti(tmp_path / values[n], (noise(n, shape) > 120).astype(np.uint8) + (noise(n, shape) > 140))
    table = load_cases(DataConfig(labels=path, target=["y"]), kind)
    images = [image_info(table, case) for case in table]
    plan = plan_preprocessing(SPEC, PreprocessingConfig(**config), kind, images)
    change = augmentation(AugmentationConfig(), kind, 3, spacing_mm=plan.spacing_mm) if augment else None
    return CaseDataset(table, table.ids, plan, augment=change, cache=cache)


def masks(tmp_path, *shapes, **more):
    return dataset(tmp_path, "mask", [f"m{n}.nii" for n in range(len(shapes))], shapes, **more)


def test_a_whole_image_without_randomness(tmp_path):
    data = dataset(tmp_path)
    sample = data[1]
    assert sample.image.shape == (1, 8, 12, 8)
    assert sample.target == 1
    assert sample.case_id == data.table.ids[1]
    assert torch.equal(data[Draw(1)].image, sample.image)
    with pytest.raises(IndexError):
        data[4]


def test_a_draw_is_a_pure_function(tmp_path):
    data = dataset(tmp_path)
    first = data[Draw(0, 7)].image
    data[Draw(1, 3)]
    assert torch.equal(data[Draw(0, 7)].image, first)
    assert not torch.equal(data[Draw(0, 8)].image, first)
    assert torch.equal(pickle.loads(pickle.dumps(data))[Draw(0, 7)].image, first)
    assert torch.equal(dataset(tmp_path, cache=False)[Draw(0, 7)].image, first)


def test_augmentation_never_reaches_the_cache(tmp_path):
    data = masks(tmp_path, (8, 9, 7), (8, 9, 7))
    before = data[0]
    image, target = before.image.clone(), before.target.clone()
    for seed in range(10):
        data[Draw(0, seed)]
    assert torch.equal(data[0].image, image)
    assert torch.equal(data[0].target, target)


def test_each_case_is_read_once(tmp_path, monkeypatch):
    data = dataset(tmp_path)
    reads = []
    monkeypatch.setattr(data, "volume", lambda case, read=data.volume: reads.append(case.case_id) or read(case))
    seen = []
    data.prepare(lambda done, total: seen.append((done, total)))
    data.prepare()
    data[2]
    assert reads == list(data.table.ids)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not data.notes


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 2 * 2.5 * 8 * 12 * 8 * 4})())
    data = dataset(tmp_path)
    data.prepare()
    assert data.notes == ["2 of 4 cases do not fit in memory and are read again every time"]
    assert len(data._cache) == 2
    monkeypatch.undo()
    assert torch.equal(data[3].image, dataset(tmp_path)[3].image)


def test_a_case_that_cannot_be_used_is_found_early(tmp_path):
    data = dataset(tmp_path)
    write_nifti(tmp_path / "img/2.nii.gz", np.full((8, 9, 7), 3.0))
    with pytest.raises(DataError, match=f"case {data.table.ids[2]}: the image is constant"):
        data.prepare()


def test_notes_of_reading_are_gathered(tmp_path):
    data = dataset(tmp_path)
    image = nib.Nifti1Image(noise(0), np.eye(4))
    image.set_sform(np.diag([-1.0, -1, 1, 1]), 4)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "img/0.nii.gz")
    data.prepare()
    data.prepare()
    assert data.notes == ["sform and qform of the NIfTI header disagree; the sform was used (1 of 4 cases)"]


def test_contents_tell_copies(tmp_path):
    data = dataset(tmp_path)
    write_nifti(tmp_path / "img/3.nii.gz", noise(0))
    data.prepare()
    values = list(data.contents.values())
    assert values[0] == values[3] != values[1]


def test_batches_of_classes_and_numbers(tmp_path):
    data = dataset(tmp_path)
    batch = collate([data[0], data[1]])
    assert batch.image.shape == (2, 1, 8, 12, 8)
    assert batch.spatial_size == (8, 12, 8)
    assert batch.target.dtype == torch.int64
    assert batch.target.tolist() == [0, 1]
    assert batch.case_ids == data.table.ids[:2]
    data = dataset(tmp_path, "number", ("1", "2", "4", "3"))
    batch = collate([data[2], data[1]])
    assert batch.target.dtype == torch.float32
    assert batch.target.tolist() == [[4], [2]]


def test_batches_of_masks(tmp_path):
    data = masks(tmp_path, (8, 9, 7), (12, 9, 10))
    assert data.preprocessing.patch_size == (12, 12, 12)
    batch = collate([data[0], data[1]])
    assert batch.image.shape == (2, 1, 12, 12, 12)
    assert batch.target.shape == (2, 12, 12, 12)
    assert batch.target.dtype == torch.int64
    assert set(batch.target.unique().tolist()) == {0, 1, 2}
    drawn = collate([data[Draw(0, 1)], data[Draw(1, 2)]])
    assert drawn.image.shape == batch.image.shape


def test_whole_images_are_padded_to_one_size_with_their_background(tmp_path):
    data = masks(tmp_path, (8, 9, 7), (12, 16, 10), patch_size="none", augment=False)
    batch = collate([data[0], data[1]])
    assert batch.image.shape == (2, 1, 12, 16, 12)
    assert batch.image[0, 0, 0, 0, 0] == pytest.approx(data[0].background[0])
    assert batch.image[0, 0, 0, 0, 0] == pytest.approx(batch.image[0].min().item())
    assert torch.equal(batch.image[0, :, 2:10, 2:14, 2:10], data[0].image)
    assert torch.equal(batch.target[0, 2:10, 2:14, 2:10], data[0].target.long())


def test_training_patches(tmp_path):
    data = masks(tmp_path, (24, 24, 24), patch_size=[8, 8, 8], augment=False)
    whole = data[0]
    assert whole.image.shape[1:] == (24, 24, 24)
    samples = [data[Draw(0, seed)] for seed in range(20)]
    assert {tuple(s.image.shape) for s in samples} == {(1, 8, 8, 8)}
    assert {tuple(s.target.shape) for s in samples} == {(8, 8, 8)}
    windows = whole.image[0].unfold(0, 8, 1).unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 512)
    assert all((windows == s.image.reshape(1, -1)).all(dim=1).any() for s in samples)
    assert len({s.image[0, 0, 0, 0].item() for s in samples}) > 10


def test_half_of_the_patches_show_a_structure():
    mask = np.zeros((60, 60, 60), np.int16)
    mask[50:52, 50:52, 50:52] = 1
    mask[2, 2, 2] = 2
    mask[30, :, :] = 9
    found = find_foreground(mask, ignore=9)
    assert set(found) == {1, 2}
    seen = {1: 0, 2: 0}
    for seed in range(200):
        window = choose_patch(mask.shape, (8, 8, 8), found, np.random.RandomState(seed))
        assert mask[window].shape == (8, 8, 8)
        for label in seen:
            seen[label] += int((mask[window] == label).any())
    assert 35 < seen[1] < 75
    assert 35 < seen[2] < 75


def test_large_structures_are_sampled_everywhere():
    found = find_foreground(np.ones((50, 50, 50), np.int16))
    assert len(found[1]) <= 5000
    assert (found[1].max(axis=0) > 45).all()
    assert (found[1].min(axis=0) < 5).all()


def test_prediction_has_no_target(tmp_path):
    nifti_study(tmp_path, [{"y": "a"}, {"y": "b"}])
    table = CaseTable(cases=tuple(unlabelled_cases(tmp_path)), kind="class")
    plan = plan_preprocessing(SPEC, PreprocessingConfig(), "class", [image_info(table, c) for c in table])
    batch = collate(list(CaseDataset(table, table.ids, plan)))
    assert batch.target is None
    assert batch.image.shape[0] == 2


def test_labelled_and_unlabelled_do_not_mix(tmp_path):
    data = dataset(tmp_path)
    unlabelled = CaseTable(cases=tuple(unlabelled_cases(tmp_path)), kind="class")
    other = CaseDataset(unlabelled, unlabelled.ids, data.preprocessing)
    with pytest.raises(DataError, match="some do not"):
        collate([data[0], other[0]])

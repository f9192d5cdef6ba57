"""What is done to the values of each channel: from the training images and the configuration to what a network sees."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers_data import noise, volume_of, write_csv, write_nifti
from helpers_inputs import FILL, PET_CT, write_pet_ct, write_study

from medtl_monai.config import AugmentationConfig, CacheConfig, DataConfig, PreprocessingConfig
from medtl_monai.data.augmentation import augmentation
from medtl_monai.data.cache.cases import CaseCache
from medtl_monai.data.cache.sources import source_facts, source_files
from medtl_monai.data.cases import load_cases
from medtl_monai.data.channels import stack
from medtl_monai.data.dataset import CaseDataset, Draw, collate
from medtl_monai.data.image_info import image_info
from medtl_monai.data.inputs import Input
from medtl_monai.data.preprocessing import ImageInfo, Preprocessing, plan_preprocessing
from medtl_monai.dicom.geometry import ChannelInfo
from medtl_monai.errors import ConfigError, DataError, DicomError
from medtl_monai.specs import InputSpec, Intensity

SPEC = InputSpec(spatial_dims=3)
CT_SPEC = InputSpec(spatial_dims=3, intensity=Intensity(clip=(-1000, 400), normalise="minmax"))


def pet_ct(seed=0):
    rng = np.random.default_rng(seed)
    ct = volume_of(rng.uniform(-1000, 1500, (8, 9, 7)), modality="CT", unit="HU")
    pet = volume_of(rng.uniform(0, 30000, (8, 9, 7)), modality="PT", unit="BQML")
    return stack([ct, pet], [Input(name="CT"), Input(name="PET")])


def plan(volumes, spec=SPEC, learnt=None, **config):
    images = [ImageInfo.of(volume) for volume in volumes]
    return plan_preprocessing(spec, PreprocessingConfig(**config), "class", images, learnt)


def mr(seed=0, *, filled=False, names=("T1", "FLAIR")):
    first, second = (volume_of(noise(seed + n), modality="MR") for n in (0, 50))
    return stack([first, None if filled else second], [Input(name=name) for name in names])


def test_each_channel_has_its_own_values():
    made = plan([pet_ct()], channels={"CT": {"clip": [-1000, 400], "normalise": "minmax"}, "PET": {}})
    assert [p.name for p in made.channel_plans] == ["CT", "PET"]
    assert [p.modality for p in made.channel_plans] == [("CT",), ("PT",)]
    assert [p.intensity.unit for p in made.channel_plans] == ["HU", "BQML"]
    assert (made.channels, made.repeat_channels) == (2, False)
    volume = pet_ct(1)
    image, background = made.image_and_background(volume)
    expected = np.clip(volume.array[0], -1000, 400)
    assert np.allclose(image[0], (expected + 1000) / 1400, atol=0.01)
    pet = volume.array[1]
    assert np.allclose(image[1], (pet - pet.mean()) / pet.std(), atol=1e-4)
    assert background[0] == pytest.approx(0, abs=0.01)
    assert background[1] == pytest.approx(float(image[1].min()), abs=1e-4)


def test_one_clip_for_different_kinds_is_refused():
    for more in ({"clip": [-1000, 400]}, {"spec": CT_SPEC}):
        with pytest.raises(ConfigError, match=r"channels\.CT: the inputs are of different kinds, and \[-1000"):
            plan([pet_ct()], **more)
        with pytest.raises(ConfigError, match=r"channels\.PET: the inputs are of different kinds"):
            plan([pet_ct()], channels={"CT": {"clip": [-1000, 400]}}, **more)
        made = plan([pet_ct()], channels={"CT": {"clip": [-1, 4]}, "PET": {"clip_percentiles": [0, 100]}}, **more)
        assert [p.intensity.clip for p in made.channel_plans] == [(-1, 4), None]
    fixed = InputSpec(spatial_dims=3, intensity=Intensity(normalise="fixed", mean=(3.0,), std=(2.0,)))
    with pytest.raises(ConfigError, match="normalises them with the same statistics"):
        plan([pet_ct()], spec=fixed)
    own = {name: {"normalise": "zscore"} for name in ("CT", "PET")}
    assert plan([pet_ct()], spec=fixed, channels=own).channel_plans[0].intensity.mean == ()


def test_one_clip_for_alike_channels_is_told():
    made = plan([mr()], clip=[50, 150])
    assert [p.intensity.clip for p in made.channel_plans] == [(50, 150)] * 2
    assert "the same bounds clip T1, FLAIR" in made.notes
    assert plan([mr()]).notes == ()


def test_fixed_statistics_go_by_channel():
    spec = InputSpec(spatial_dims=3, intensity=Intensity(normalise="fixed", mean=(90.0, 110.0), std=(10.0, 20.0)))
    made = plan([mr()], spec=spec)
    assert [(p.intensity.mean, p.intensity.std) for p in made.channel_plans] == [((90,), (10,)), ((110,), (20,))]
    volume = mr(3)
    assert np.allclose(made.image(volume)[1], (volume.array[1] - 110) / 20, atol=1e-4)
    with pytest.raises(ConfigError, match="normalises 2 channels, and the images have 3"):
        plan([stack([volume_of(noise(n)) for n in range(3)], [Input(name=n) for n in "abc"])], spec=spec)


def test_unknown_and_impossible_channels():
    with pytest.raises(ConfigError, match=r"preprocessing\.channels: there is no channel 'FLARE'.*FLAIR"):
        plan([mr()], channels={"FLARE": {"clip": [0, 1]}})
    with pytest.raises(ConfigError, match=r"there is no channel 'CT'.*data\.inputs"):
        plan([volume_of(noise(0))], channels={"CT": {"clip": [0, 1]}})
    with pytest.raises(ConfigError, match=r"preprocessing\.channels\.T1\.clip: \[3\.0, 1\.0\] is not \[low, high\]"):
        plan([mr()], channels={"T1": {"clip": [3, 1]}})
    with pytest.raises(DataError, match="no training case has FLAIR"):
        plan([mr(filled=True)])


def test_a_missing_channel_is_zero_whatever_is_done_to_values():
    for config in ({}, {"normalise": "minmax"}, {"normalise": "none"}, {"clip": [120, 150]}):
        made = plan([mr(), mr(1, filled=True)], size=[12, 12, 12], **config)
        image, background = made.image_and_background(mr(2, filled=True))
        assert not image[1].any()
        assert background[1] == 0
        assert image[0].std() > 0
        assert made.image(mr(2))[1].std() > 0


def test_other_channels_are_refused():
    made = plan([pet_ct()])
    with pytest.raises(DataError, match="the channels are PET, CT, and CT, PET are needed"):
        made.image(pet_ct().replace(channel_info=pet_ct().channel_info[::-1]), where="case 1")
    with pytest.raises(DataError, match=r"without names.*channel_info"):
        made.image(pet_ct().replace(channel_info=()))
    with pytest.raises(DataError, match="2 are needed"):
        made.image(volume_of(noise(0)))
    ct, pet = pet_ct().channel_info
    with pytest.raises(DataError, match=r"case 1, PET: the modality is NM, and PT is needed"):
        made.image(pet_ct().replace(channel_info=(ct, dataclasses.replace(pet, modality="NM"))), where="case 1")
    with pytest.raises(
        DataError, match=r"PET: the values are in CNTS, and BQML is needed.*preprocessing\.channels\.PET"
    ):
        made.image(pet_ct().replace(channel_info=(ct, dataclasses.replace(pet, unit="CNTS"))))
    flat = pet_ct()
    flat.array[1] = 3
    with pytest.raises(DataError, match="case 1, PET: the image is constant"):
        made.image(flat, where="case 1")


def test_a_single_named_input():
    volume = volume_of(noise(0)).replace(channel_info=(ChannelInfo(name="T1"),))
    made = plan([volume], channels={"T1": {"normalise": "minmax"}})
    assert [p.name for p in made.channel_plans] == ["T1"]
    assert float(made.image(volume).max()) == 1
    assert torch.equal(made.image(volume_of(noise(0))), made.image(volume))
    three = InputSpec(spatial_dims=3, channels=("r", "g", "b"), variable_channels=False)
    made = plan([volume], spec=three)
    assert made.image(volume).shape[0] == 3


def test_the_stored_plan_is_the_same_and_old_ones_still_open():
    made = plan([pet_ct()], channels={"CT": {"clip": [-1000, 400]}, "PET": {"unit": "BQML"}})
    stored = json.loads(json.dumps(made.to_json()))
    assert [p["name"] for p in stored["channel_plans"]] == ["CT", "PET"]
    assert Preprocessing.from_json(stored) == made
    old = plan([volume_of(noise(0))]).to_json()
    del old["channel_plans"]
    assert Preprocessing.from_json(old) == plan([volume_of(noise(0))])
    assert Preprocessing.from_json(old).channel_plans == ()


def test_weights_keep_what_they_have_learnt_of_a_channel():
    learnt = {"FLAIR": Intensity(clip=(0, 9), normalise="minmax"), "T1": Intensity(normalise="none")}
    made = plan([mr()], learnt=learnt)
    assert [p.intensity.normalise for p in made.channel_plans] == ["none", "minmax"]
    assert made.notes[-1] == "the source run has learnt on FLAIR, T1; the channels here are T1, FLAIR"
    again = plan([mr()], learnt=dict(reversed(learnt.items())), channels={"FLAIR": {"normalise": "zscore"}})
    assert again.channel_plans[1].intensity.normalise == "zscore"
    assert again.notes == ()
    alone = plan([volume_of(noise(0))], learnt=learnt)
    assert alone.notes == ("the source run has learnt on FLAIR, T1; the image here has no named channels",)


# From files


def table_of(tmp_path, write, inputs, **more):
    rows = []
    for n in range(4):
        recipe = write(tmp_path / f"studies/s{n}", n, **({"flair": n != 2} if "flair" in more else {}))
        rows.append({"StudyInstanceUID": recipe.study, "y": "ab"[n % 2]})
    labels = write_csv(tmp_path / "labels.csv", rows)
    config = DataConfig(studies=tmp_path / "studies", labels=labels, target=["y"], inputs=inputs)
    return load_cases(config, "class")


def test_pet_and_ct_from_dicom(tmp_path):
    table = table_of(tmp_path, write_pet_ct, PET_CT)
    config = PreprocessingConfig(channels={"CT": {"clip": [-1000, 400]}, "PET": {"unit": "SUVbw"}})
    images = [image_info(table, case, config) for case in table]
    assert images[0].modalities == ("CT", "PT")
    assert images[0].units == ("HU", "SUVbw")
    made = plan_preprocessing(SPEC, config, "class", images)
    assert made.units == {"CT": None, "PET": "SUVbw"}
    dataset = CaseDataset(table, table.ids, made)
    volume = dataset.volume(table.cases[1])
    plain = table.read_volume(table.cases[1])
    assert [info.unit for info in plain.channel_info] == ["HU", "BQML"]
    ratio = volume.array[1] / plain.array[1]
    assert np.allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
    assert ratio[0, 0, 0] == pytest.approx(74000 / (370e6 * 2 ** (-3600 / 6586.2)), rel=1e-4)
    assert np.array_equal(volume.array[0], plain.array[0])
    assert dataset[1].image.shape[0] == 2
    # One unit for both is what neither reading nor checking lets pass.
    look = PreprocessingConfig(unit="SUVbw")
    with pytest.raises(DicomError, match=r"CT, .*the values are in HU, not SUVbw"):
        image_info(table, table.cases[0], look)


def test_a_filled_channel_stays_zero_in_training(tmp_path):
    table = table_of(tmp_path, write_study, FILL, flair=True)
    assert table.filled == {"FLAIR": (table.ids[2],)}
    made = plan_preprocessing(
        SPEC, PreprocessingConfig(), "class", [image_info(table, case) for case in table if case.others[0]]
    )
    config = AugmentationConfig(noise=0.5, intensity=0.5)
    augment = augmentation(config, "class", 3)
    dataset = CaseDataset(table, table.ids, made, augment=augment)
    dataset.prepare()
    assert "FLAIR is missing and was filled (1 of 4 cases)" in dataset.notes
    assert "FLAIR was resampled to the grid of T1 (3 of 4 cases)" in dataset.notes
    assert [len(dataset.contents[case_id]) for case_id in table.ids] == [2, 2, 1, 2]
    for seed in range(6):
        there, gone = dataset[Draw(0, seed)].image, dataset[Draw(2, seed)].image
        assert not gone[1].any()
        assert gone[0].std() > 0
        assert there[1].std() > 0
    assert not dataset[2].image[1].any()
    assert collate([dataset[n] for n in range(4)]).image.shape[:2] == (4, 2)
    assert not torch.equal(dataset[Draw(0, 1)].image, dataset[0].image)
    for hits in (0, 4):
        disk = CaseCache.open(CacheConfig(folder=tmp_path / "cache"))[0]
        kept = CaseDataset(table, table.ids, made, augment=augment, disk=disk)
        kept.prepare()
        assert disk.hits == hits
        assert (kept.notes, kept.contents) == (dataset.notes, dataset.contents)
        for n in range(4):
            assert torch.equal(kept[Draw(n, 1)].image, dataset[Draw(n, 1)].image)


def test_a_channel_that_was_missing_is_another_image_in_the_cache(tmp_path):
    table = table_of(tmp_path, write_study, FILL, flair=True)
    facts = [source_facts(table, case) for case in table]
    there, gone = table.cases[0], table.cases[2]
    assert (len(source_files(there)), len(source_files(gone))) == (len(there.files), len(gone.files))
    assert len(there.files) > len(gone.files)
    assert facts[2]["images"][1] is None
    assert facts[0]["images"][1] is not None
    swapped = dataclasses.replace(table, inputs=dataclasses.replace(table.inputs, items=table.inputs.items[::-1]))
    assert source_facts(swapped, there) != facts[0]
    described = table.describe_image(gone)
    volume = table.read_volume(gone)
    assert described.channel_info == volume.channel_info
    assert described.channels == volume.channels == 2
    assert [info.filled for info in described.channel_info] == [False, True]
    assert np.array_equal(described.affine, volume.affine)


def test_the_mask_is_on_the_grid_of_the_first(tmp_path):
    rows = []
    for n in range(4):
        write_nifti(tmp_path / f"t1_{n}.nii.gz", noise(n))
        write_nifti(tmp_path / f"fl_{n}.nii.gz", noise(9 + n, (4, 5, 4)), np.diag([2, 2, 2, 1.0]))
        write_nifti(tmp_path / f"mask_{n}.nii.gz", (noise(n) > 110).astype(np.uint8))
        names = {"t1": f"t1_{n}.nii.gz", "fl": f"fl_{n}.nii.gz", "mask": f"mask_{n}.nii.gz"}
        rows.append(names)
    labels = write_csv(tmp_path / "labels.csv", rows)
    table = load_cases(DataConfig(labels=labels, target=["mask"], image="t1,fl"), "mask")
    volume = table.read_volume(table.cases[0])
    mask = table.read_target(table.cases[0], volume)
    assert np.array_equal(mask, volume.array[0] > 110)
    made = plan_preprocessing(SPEC, PreprocessingConfig(), "mask", [image_info(table, case) for case in table])
    sample = CaseDataset(table, table.ids, made)[0]
    assert sample.image.shape == (2, *sample.target.shape)
    probabilities = np.stack([sample.target == 0, sample.target == 1]).astype(np.float32)
    assert np.array_equal(made.restore(probabilities, volume).argmax(0), mask)
    other = load_cases(DataConfig(labels=labels, target=["mask"], image="fl,t1"), "mask")
    with pytest.raises(DataError, match="the mask is on another grid"):
        other.read_target(other.cases[0], other.read_volume(other.cases[0]))

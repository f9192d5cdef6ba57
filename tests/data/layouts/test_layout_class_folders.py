import shutil

import numpy as np
import pytest
from helpers_data import noise, write_nifti
from helpers_dicom import Recipe
from helpers_layouts import class_folders, load
from pydicom.uid import generate_uid

from medtl_monai.config import DataConfig, InputConfig, SelectConfig, SplitConfig
from medtl_monai.data.cases import load_cases, unlabelled_cases
from medtl_monai.data.layouts import settle
from medtl_monai.data.splits import make_splits
from medtl_monai.errors import ConfigError, DataError


def classes(root, **config):
    return load(root, "class", **config)


def studies(root, *places, slices=4, modality="MR", **more):
    """Write one study of its own patient into each place."""
    for n, place in enumerate(places):
        Recipe(slices=slices, modality=modality, patient=f"DOE^{n}", offset=50 * n, **more).write(root / place)
    return root


def test_folders_are_classes(tmp_path):
    table = classes(class_folders(tmp_path))
    assert table.classes == ("a", "b")
    assert [case.target for case in table] == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(table.read_volume(table.cases[4]).array, noise(101))
    assert len({case.group for case in table}) == 6
    assert table.notes == (
        "taken for one folder a class: 6 NIfTI images in 2 classes (a 3, b 3)",
        "each file is taken for one patient: where patients have several, train from a labels table with a patient "
        "column (--labels)",
    )


def test_given_parts(tmp_path):
    for n, part in enumerate(("Train", "valid", "test")):
        class_folders(tmp_path / part, first=1000 * n)
    config = settle(DataConfig(dataset=tmp_path))
    assert config.split == "split"
    table = classes(tmp_path)
    splits = make_splits(table, SplitConfig())
    assert [case.split for case in table] == [splits.parts[case.case_id] for case in table]
    assert {part: len(splits.ids(part)) for part in ("train", "val", "test")} == {"train": 6, "val": 6, "test": 6}
    assert "18 NIfTI images in 2 classes (a 9, b 9); train 6, test 6, val 6" in table.notes[0]


def test_a_test_folder_without_classes_is_for_prediction(tmp_path):
    class_folders(tmp_path / "train")
    write_nifti(tmp_path / "test/x.nii.gz", noise(900))
    table = classes(tmp_path)
    assert len(table) == 6
    assert any("1 files in 'test' have no class: medtl predict" in note for note in table.notes)


def test_folders_below_classes_can_be_patients(tmp_path):
    root = tmp_path
    for n, place in enumerate(("a/p1/0", "a/p1/later/1", "a/p2/0", "b/p1/0", "b/p3/0", "b/p4/0")):
        write_nifti(root / f"{place}.nii.gz", noise(n))
    alone = classes(root)
    assert len({case.group for case in alone}) == 6
    assert "data.group_by=folder" in alone.notes[1]
    table = classes(root, group_by="folder")
    assert len({case.group for case in table}) == 4
    assert len(table.notes) == 1


def test_junk_is_left_out_and_counted(tmp_path):
    root = class_folders(tmp_path)
    (root / "a/.DS_Store").write_bytes(b"x")
    (root / "a/._0.nii.gz").write_bytes(b"x")
    (root / "__MACOSX/a").mkdir(parents=True)
    (root / "README.md").write_text("x")
    (root / "b/notes.txt").write_text("x")
    table = classes(root)
    assert len(table) == 6
    assert table.notes[-1] == "1 files that are no images were left out"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root / "b"), r"one class folder only \(a\)"),
        (lambda root: (root / "c").mkdir(), "no image in the class folder c"),
        (lambda root: write_nifti(root / "x.nii.gz", noise(9)), "outside of the class folders: file x.nii.gz"),
        (lambda root: (root / "a/x.png").write_bytes(b"\x89PNG"), r"not read: 1 .png \(file a/x.png\).*NIfTI"),
        (lambda root: shutil.copy(root / "a/0.nii.gz", root / "b/copy.nii.gz"),
         r"same image lies in two class folders: a/0.nii.gz = b/copy.nii.gz"),
        (lambda root: Recipe().write(root / "a/s"), "6 NIfTI and 6 DICOM files.*same images twice"),
        (lambda root: (root / "b").rename(root / "NA"), "cannot be called 'NA'"),
        (lambda root: (root / "b").rename(root / "A"), "spells one class in two ways"),
        (lambda root: class_folders(root / "train"), "folder train stand beside folders a, b"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, damage, message):
    root = class_folders(tmp_path)
    damage(root)
    with pytest.raises(DataError, match=message) as caught:
        classes(root)
    assert caught.value.mend


def test_copies_in_one_class_or_of_one_size_are_no_contradiction(tmp_path):
    root = class_folders(tmp_path)
    for n in range(4):
        write_nifti(root / f"{'ab'[n % 2]}/plain{n}.nii", noise(500 + n))
    shutil.copy(root / "a/plain0.nii", root / "a/copy.nii")
    sizes = {path.stat().st_size for path in root.rglob("*.nii")}
    assert len(sizes) == 1
    assert len(classes(root)) == 11


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "training/a"), "two folders stand for train"),
        (("val/a", "test/a"), "folders test, val and none called train"),
        (("train/a", "train/b", "test/c"), "no image in the class folder"),
    ],
)
def test_given_parts_that_cannot_be_used(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        classes(tmp_path, layout="class-folders")


def test_a_class_that_is_only_tested(tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", ("a", "c"), first=1000)
    with pytest.raises(DataError, match="no training case has class 'c'"):
        make_splits(classes(tmp_path), SplitConfig())


def test_an_image_in_two_parts(tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", first=1000)
    shutil.copy(tmp_path / "train/a/0.nii.gz", tmp_path / "test/a/9.nii.gz")
    with pytest.raises(DataError, match=r"test/a/9.nii.gz = train/a/0.nii.gz"):
        classes(tmp_path)


def test_folders_of_patients_do_not_become_classes(tmp_path):
    root = class_folders(tmp_path, tuple(f"DOE{n}" for n in range(21)), each=2)
    with pytest.raises(DataError, match="21 folders with 42 images look like patients"):
        settle(DataConfig(dataset=root))
    assert len(classes(root, layout="class-folders").classes) == 21


def test_dicom_studies(tmp_path):
    root = studies(tmp_path, "a/1", "a/2/deep", "b/1", "b/2")
    table = classes(root)
    assert [case.target for case in table] == [0, 0, 1, 1]
    assert [case.source for case in table] == ["a/1", "a/2/deep", "b/1", "b/2"]
    assert table.read_volume(table.cases[2]).array.min() == 101
    assert len({case.group for case in table}) == 4
    assert "4 DICOM images in 2 classes (a 2, b 2)" in table.notes[0]
    assert not any("patient" in note for note in table.notes)
    assert "DOE" not in repr(table) + "".join(table.notes)


def test_dicom_of_one_patient_stays_together(tmp_path):
    for place in ("a/1", "b/1"):
        Recipe(slices=4, patient="P1").write(tmp_path / place)
    studies(tmp_path, "a/2", "b/2")
    groups = [case.group for case in classes(tmp_path)]
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3


def test_radiographs_are_a_case_each_and_grouped_by_patient(tmp_path):
    for n, place in enumerate(("a", "a", "b", "b")):
        patient, study = f"P{n}", generate_uid()
        for view in range(2):
            recipe = Recipe(
                slices=1, modality="DX", patient=patient, study=study, prefix=f"{n}{view}", offset=9 * n + view
            )
            recipe.write(tmp_path / place)
    table = classes(tmp_path)
    assert len(table) == 8
    assert [case.target for case in table] == [0] * 4 + [1] * 4
    assert len({case.group for case in table}) == 4
    assert len({case.fingerprints for case in table}) == 8
    assert table.ids == classes(tmp_path).ids
    assert {case.case_id for case in unlabelled_cases(tmp_path, table.inputs)} == set(table.ids)
    assert all(case.problem is None for case in unlabelled_cases(tmp_path, table.inputs))
    assert all(case.problem is not None for case in unlabelled_cases(tmp_path)), "elsewhere, a study is one case"
    assert table.read_volume(table.cases[0]).shape[2] == 1


def test_a_study_in_two_class_folders(tmp_path):
    root = studies(tmp_path, "a/1", "a/2", "b/1", "b/2")
    (root / "b/3").mkdir()
    file = sorted((root / "a/1").iterdir())[0]
    file.rename(root / "b/3/x")
    with pytest.raises(DataError, match=r"one study lie in two class folders: a/1/IM\d+ and b/3/x"):
        classes(root)


def test_a_study_whose_image_is_not_clear(tmp_path):
    root = studies(tmp_path, "a/1", "a/2", "b/1", "b/2")
    study = generate_uid()
    for n, (slices, text) in enumerate(((4, "t1"), (5, "flair"))):
        edit = lambda dataset, _, text=text: setattr(dataset, "SeriesDescription", text)  # noqa: E731
        Recipe(slices=slices, study=study, patient="P9", offset=900 * (n + 1), edit=edit).write(root / f"b/9/{n}")
    with pytest.raises(DataError, match=r"not clear .*2 series.*folder b/9/0\. Say which with data.select"):
        classes(root)
    table = classes(root, select=SelectConfig(description="t1|^$"))
    assert len(table) == 5
    assert table.inputs.items[0].rules.description == "t1|^$"


def test_rules_are_for_dicom(tmp_path):
    with pytest.raises(ConfigError, match="rules choose among DICOM series"):
        classes(class_folders(tmp_path), select=SelectConfig(modality=["MR"]))


def test_damaged_dicom(tmp_path):
    root = studies(tmp_path, "a/1", "a/2", "a/3", "b/1", "b/2")
    for file in (root / "a/3").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"damaged: files a/3/.*data.unmatched=drop"):
        classes(root)
    table = classes(root, unmatched="drop")
    assert len(table) == 4
    assert any("damaged: 4 files" in note for note in table.notes)


def test_links_out_of_the_folder_are_not_followed_for_dicom(tmp_path):
    root = studies(tmp_path / "set", "a/1", "a/2", "b/1", "b/2")
    outside = studies(tmp_path, "outside")
    (root / "b/3").mkdir()
    for file in (outside / "outside").iterdir():
        (root / "b/3" / file.name).symlink_to(file)
    with pytest.raises(DataError, match=r"links lead out of the folder.*b/3/IM0000"):
        classes(root)


def test_links_are_followed_for_nifti(tmp_path):
    store = class_folders(tmp_path / "store", ("x", "y", "z"))
    root = tmp_path / "set"
    (root / "b").mkdir(parents=True)
    (root / "a").symlink_to(store / "x")
    (root / "b/p1").symlink_to(store / "y")
    (store / "y/again").symlink_to(store / "y")
    (root / "b/one.nii.gz").symlink_to(store / "z/0.nii.gz")
    table = classes(root)
    assert [case.source for case in table][3:] == ["b/one.nii.gz", *(f"b/p1/{n}.nii.gz" for n in range(3))]
    (store / "z/0.nii.gz").unlink()
    with pytest.raises(DataError, match=r"the link b/one.nii.gz leads nowhere"):
        classes(root)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    root = class_folders(tmp_path)

    def fail(top, onerror, **_):
        onerror(PermissionError(13, "Permission denied", str(top)))
        yield from ()

    monkeypatch.setattr("os.walk", fail)
    with pytest.raises(DataError, match=r"cannot be read \(PermissionError\)") as caught:
        classes(root, layout="class-folders")
    assert str(tmp_path) not in str(caught.value)


def test_dicom_without_preamble(tmp_path):
    root = studies(tmp_path, "a/1", "a/2", "b/1", "b/2")
    whole = classes(root)
    for file in (root / "b/2").iterdir():
        file.write_bytes(file.read_bytes()[132:])
    (root / "b/2/notes.txt").write_text("not DICOM")
    table = classes(root)
    assert table.ids == whole.ids
    assert "left out, not DICOM: 1 files" in table.notes
    shutil.rmtree(root / "b/1")
    assert len(load_cases(DataConfig(dataset=root), "class", classes=["a", "b"])) == 3


def test_studies_without_a_class_are_not_used(tmp_path):
    studies(tmp_path, "train/a/1", "train/a/2", "train/b/1", "train/b/2")
    other = Recipe(slices=4, patient="P9").write(tmp_path / "test")
    table = classes(tmp_path)
    assert len(table) == 4
    assert "1 studies outside of the class folders were left out" in table.notes
    assert any("4 files in 'test' have no class" in note for note in table.notes)
    Recipe(slices=4, patient="P9", study=other.study).write(tmp_path / "train/a/9")
    with pytest.raises(DataError, match=r"one study lie in two class folders: test/IM\d+ and train/a/9/IM"):
        classes(tmp_path)


def test_one_anonymous_patient(tmp_path):
    root = tmp_path
    for n in range(6):
        Recipe(slices=4, patient="ANONYMOUS", offset=9 * n).write(root / "ab"[n % 2] / f"p{n}")
    with pytest.raises(DataError, match=r"same for 6 of 6 cases.*data.group_by to folder"):
        classes(root)
    assert len({case.group for case in classes(root, group_by="folder")}) == 6


def test_several_series_of_a_study_as_channels(tmp_path):
    for n, place in enumerate(("a/1", "a/2", "b/1", "b/2")):
        study, frame = generate_uid(), generate_uid()
        for m, text in enumerate(("t1", "flair")):

            def edit(dataset, _, text=text, frame=frame):
                dataset.SeriesDescription, dataset.FrameOfReferenceUID = text, frame

            recipe = Recipe(slices=4, study=study, patient=f"P{n}", offset=90 * n + 9 * m, edit=edit)
            recipe.write(tmp_path / place / text)
    with pytest.raises(DataError, match="not clear"):
        classes(tmp_path)
    inputs = {"T1": InputConfig(description="t1"), "FLAIR": InputConfig(description="flair")}
    table = classes(tmp_path, inputs=inputs)
    assert len(table) == 4
    array = table.read_volume(table.cases[3]).array
    assert array.shape == (2, 7, 5, 4)
    assert np.array_equal(array[1], array[0] + 9)

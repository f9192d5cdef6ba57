import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from helpers_data import nifti_study, table_of
from hypothesis import given, settings
from hypothesis import strategies as st

from medtl_monai.config import DataConfig, SplitConfig
from medtl_monai.data.assignment import assign, sizes
from medtl_monai.data.cases import load_cases
from medtl_monai.data.splits import Splits, check_contents, folds, make_splits
from medtl_monai.errors import ConfigError, DataError, StorageError

CONFIG = SplitConfig()


def simple(n=20, classes=2, **more):
    return table_of([f"g{i}" for i in range(n)], [i % classes for i in range(n)], classes="abcdef"[:classes], **more)


def counts(table, splits, part):
    return Counter(table[i].target for i in splits.ids(part))


def test_shares_and_classes_are_hit():
    table = simple(20)
    splits = make_splits(table, CONFIG)
    assert [len(splits.ids(p)) for p in ("train", "val", "test")] == [12, 4, 4]
    for part, each in (("train", 6), ("val", 2), ("test", 2)):
        assert counts(table, splits, part) == {0: each, 1: each}
    assert list(splits.parts) == list(table.ids)
    assert not splits.notes


def test_the_seed_decides():
    table = simple(20)
    assert make_splits(table, CONFIG).parts == make_splits(table, CONFIG).parts
    others = {tuple(make_splits(table, SplitConfig(seed=s)).parts.values()) for s in range(10)}
    assert len(others) > 5


def test_a_rare_class_is_in_every_part_that_can_have_it():
    targets = [0] * 30 + [1] * 3
    table = table_of([f"g{i}" for i in range(33)], targets)
    splits = make_splits(table, CONFIG)
    assert [counts(table, splits, p)[1] for p in ("train", "val", "test")] == [1, 1, 1]
    two = table_of([f"g{i}" for i in range(32)], targets[:-1])
    splits = make_splits(two, CONFIG)
    assert counts(two, splits, "train")[1] == 1
    assert any("has class 'b'" in note for note in splits.notes)


def test_patients_are_never_divided():
    groups = [f"g{i // 3}" for i in range(30)]
    table = table_of(groups, [i % 2 for i in range(30)])
    splits = make_splits(table, CONFIG)
    parts = {g: {splits.parts[c.case_id] for c in table if c.group == g} for g in groups}
    assert all(len(own) == 1 for own in parts.values())
    assert len(set(splits.parts.values())) == 3


def test_numbers_are_spread_by_quantiles():
    values = [(float(v),) for v in range(50)]
    table = table_of([f"g{i}" for i in range(50)], values, kind="number", classes=())
    splits = make_splits(table, CONFIG)
    means = [np.mean([table[i].target[0] for i in splits.ids(p)]) for p in ("train", "val", "test")]
    assert max(means) - min(means) < 4
    for part, share in (("train", 6), ("val", 2), ("test", 2)):
        quintiles = Counter(int(table[i].target[0] // 10) for i in splits.ids(part))
        assert quintiles == dict.fromkeys(range(5), share)


def test_unknown_numbers_and_label_sets_do_not_disturb():
    nan = math.nan
    table = table_of([f"g{i}" for i in range(10)], [(nan, 1.0)] * 5 + [(2.0, nan)] * 5, kind="number", classes=())
    assert len(make_splits(table, CONFIG).ids("train")) == 6
    sets = [(1.0, 0.0), (0.0, 1.0), (nan, 1.0), (1.0, 1.0), (0.0, 0.0)] * 4
    table = table_of([f"g{i}" for i in range(20)], sets, kind="classes")
    splits = make_splits(table, CONFIG)
    for part in ("train", "val", "test"):
        assert any(table[i].target[0] == 1 for i in splits.ids(part))
        assert any(table[i].target[1] == 1 for i in splits.ids(part))


def test_structures_are_spread_where_known():
    present = [(1,)] * 16 + [(1, 2)] * 4
    table = table_of(
        [f"g{i}" for i in range(20)], [None] * 20, kind="mask", classes=("background", "x", "y"), present=present
    )
    splits = make_splits(table, CONFIG)
    found = [sum(2 in table[i].present for i in splits.ids(p)) for p in ("train", "val", "test")]
    assert found[1] >= 1
    assert found[2] >= 1
    assert found[0] >= 2


@pytest.mark.parametrize(
    ("n", "config", "says"),
    [
        (2, CONFIG, "cannot be divided into 3"),
        (1, SplitConfig(test=0), "into 2"),
        (9, SplitConfig(val=0.5, test=0.5), "nothing to train"),
    ],
)
def test_too_little_is_refused(n, config, says):
    with pytest.raises((DataError, ConfigError), match=says):
        make_splits(table_of([f"g{i}" for i in range(n)], [0] * n, classes=("a",)), config)


def test_shares_of_zero():
    splits = make_splits(simple(10), SplitConfig(val=0, test=0))
    assert set(splits.parts.values()) == {"train"}
    splits = make_splits(simple(10), SplitConfig(val=0.3, test=0))
    assert Counter(splits.parts.values()) == {"train": 7, "val": 3}


def test_files_hold_pseudonyms_and_come_back(tmp_path):
    table = load_cases(
        DataConfig(
            labels=nifti_study(tmp_path, [{"PatientID": f"DOE{n}", "y": "ab"[n % 2]} for n in range(10)]), target=["y"]
        ),
        "class",
    )
    splits = make_splits(table, CONFIG)
    splits.write(tmp_path / "out" / "splits.csv")
    text = (tmp_path / "out" / "splits.csv").read_text()
    assert text.startswith("case_id,group,split,id_key\n")
    assert "DOE" not in text
    assert "nii" not in text
    again = Splits.read(tmp_path / "out" / "splits.csv")
    assert (again.parts, again.groups) == (splits.parts, splits.groups)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    splits = make_splits(simple(10), CONFIG)
    splits.write(tmp_path / "s.csv")
    before = (tmp_path / "s.csv").read_text()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(StorageError, match="disk is full"):
        make_splits(simple(12), SplitConfig(seed=3)).write(tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == before


def test_stored_splits_are_honoured_and_extended(tmp_path):
    make_splits(simple(20), SplitConfig(seed=5)).write(tmp_path / "s.csv")
    stored = Splits.read(tmp_path / "s.csv")
    config = SplitConfig(seed=99, file=tmp_path / "s.csv")
    larger = make_splits(simple(40), config)
    assert {i: larger.parts[i] for i in stored.parts} == stored.parts
    assert [len(larger.ids(p)) for p in ("train", "val", "test")] == [24, 8, 8]
    assert "20 cases are new" in larger.notes[0]
    same = make_splits(simple(20), config)
    assert same.parts == stored.parts
    assert not same.notes


def test_a_new_case_follows_its_patient_even_one_who_is_gone(tmp_path):
    make_splits(simple(20), CONFIG).write(tmp_path / "s.csv")
    stored = Splits.read(tmp_path / "s.csv")
    table = simple(20)
    gone = next(c for c in table if stored.parts[c.case_id] == "test")
    newcomer = dataclasses.replace(gone, case_id="new")
    changed = dataclasses.replace(table, cases=(*(c for c in table if c is not gone), newcomer))
    splits = make_splits(changed, SplitConfig(file=tmp_path / "s.csv"))
    assert splits.parts["new"] == "test"
    assert gone.case_id not in splits.parts
    splits.write(tmp_path / "s.csv")
    assert Splits.read(tmp_path / "s.csv").parts[gone.case_id] == "test"


def test_stored_splits_of_other_cases_are_refused(tmp_path):
    make_splits(simple(10), CONFIG).write(tmp_path / "s.csv")
    other = table_of([f"h{i}" for i in range(10)], [0, 1] * 5)
    other = dataclasses.replace(other, cases=tuple(dataclasses.replace(c, case_id="x" + c.case_id) for c in other))
    with pytest.raises(DataError, match="MEDTL_ID_KEY"):
        make_splits(other, SplitConfig(file=tmp_path / "s.csv"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("case_id,group,split\na,g,train\nb,g,test\n", "in two parts: group g"),
        ("case_id,group,split\na,g,train\na,g,train\n", "twice: rows 2, 3"),
        ("case_id,group,split\na,g,tran\n", "row 2"),
        ("case_id,split\na,train\n", "'group'"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, says):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        Splits.read(tmp_path / "s.csv")


def test_given_splits_are_honoured_and_completed():
    given_parts = ["train"] * 8 + ["val"] * 2 + ["test"] * 3 + [None] * 7
    table = simple(20, split=given_parts)
    splits = make_splits(table, CONFIG)
    assert all(splits.parts[c.case_id] == c.split for c in table if c.split)
    assert [len(splits.ids(p)) for p in ("train", "val", "test")] == [12, 4, 4]


def test_a_patient_given_to_two_parts_is_named():
    table = table_of(["g", "g", "h", "i"], [0, 1, 0, 1], split=["train", "test", "train", "val"])
    with pytest.raises(DataError, match=r"in two parts: group g \(case000, case001\) in test and train"):
        make_splits(table, CONFIG)


def test_val_is_carved_out_of_train_where_none_is_given():
    table = simple(20, split=["train"] * 15 + ["test"] * 5)
    splits = make_splits(table, CONFIG)
    assert splits.ids("test") == table.ids[15:]
    assert len(splits.ids("val")) == 4
    assert "taken" in splits.notes[0]
    assert not make_splits(table, SplitConfig(val=0)).ids("val")


def test_a_class_without_training_cases_is_refused():
    table = simple(10, split=["train", "test"] * 5)
    with pytest.raises(DataError, match="no training case has class 'b'"):
        make_splits(table, SplitConfig(val=0))


def test_stored_and_given_splits_must_agree(tmp_path):
    make_splits(simple(10), CONFIG).write(tmp_path / "s.csv")
    stored = Splits.read(tmp_path / "s.csv")
    wrong = ["test" if part == "train" else "train" for part in stored.parts.values()]
    with pytest.raises(DataError, match="contradict"):
        make_splits(simple(10, split=wrong), SplitConfig(file=tmp_path / "s.csv"))


def test_val_that_an_earlier_run_carved_out_contradicts_nothing(tmp_path):
    given = ["train"] * 15 + ["test"] * 5
    first = make_splits(simple(20, split=given), CONFIG)
    first.write(tmp_path / "s.csv")
    again = make_splits(simple(20, split=given), SplitConfig(file=tmp_path / "s.csv"))
    assert again.parts == first.parts
    assert again.ids("val")
    with pytest.raises(DataError, match="contradict"):
        make_splits(simple(20, split=["val", *given[1:]]), SplitConfig(file=tmp_path / "s.csv"))


def test_one_image_in_two_parts_is_refused():
    parts = make_splits(simple(10), CONFIG).parts
    train = next(i for i in parts if parts[i] == "train")
    test = next(i for i in parts if parts[i] == "test")
    # Of several images of a case, one is enough.
    for n in (0, 1):
        prints = [(f"{i} a", f"{i} b") if i not in (train, test) else (f"{i} a", "same")[:: 1 - 2 * n] for i in parts]
        with pytest.raises(DataError, match="same image is in two parts"):
            make_splits(simple(10, fingerprints=prints), CONFIG)
    splits = make_splits(simple(10), CONFIG)
    check_contents(splits, {train: ("x", "x"), test: ("y",)})
    with pytest.raises(DataError, match=f"{train} = {test}|{test} = {train}"):
        check_contents(splits, {train: ("x", "y"), test: ("z", "x")})


def test_folds_cover_everything_once():
    groups = [f"g{i // 2}" for i in range(44)]
    table = table_of(groups, [0 if i % 4 < 2 else 1 for i in range(44)])
    made = folds(table, SplitConfig(folds=5, val=0.25, seed=1))
    tests = [set(f.ids("test")) for f in made]
    assert set.union(*tests) == set(table.ids)
    assert sum(map(len, tests)) == 44
    assert {len(t) for t in tests} == {8, 10}
    for fold in made:
        of = {case.case_id: case.group for case in table}
        parts = [{of[i] for i in fold.ids(p)} for p in ("train", "val", "test")]
        assert len(set.union(*parts)) == sum(map(len, parts)) == 22
        assert len(parts[1]) in (4, 5)
        balance = counts(table, fold, "test")
        assert abs(balance[0] - balance[1]) <= 2
    assert [f.parts for f in made] == [f.parts for f in folds(table, SplitConfig(folds=5, val=0.25, seed=1))]
    assert [f.parts for f in made] != [f.parts for f in folds(table, SplitConfig(folds=5, val=0.25, seed=2))]


def test_more_folds_than_patients_is_refused():
    with pytest.raises(DataError, match="4 patients"):
        folds(simple(4), SplitConfig(folds=5))
    with pytest.raises(ConfigError):
        folds(simple(4), CONFIG)


@given(total=st.integers(3, 200), val=st.floats(0, 0.45), test=st.floats(0, 0.45))
def test_sizes_are_whole_and_near(total, val, test):
    shares = [1 - val - test, val, test]
    found = sizes(total, shares)
    assert sum(found) == total
    assert all(n >= 1 for n, share in zip(found, shares, strict=True) if share > 0)
    assert all(abs(n - share * total) <= 2.01 for n, share in zip(found, shares, strict=True))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(labels=st.lists(st.integers(0, 3), min_size=6, max_size=60), seed=st.integers(0, 100))
def test_every_class_with_two_groups_is_trained_on(labels, seed):
    features = np.eye(4, dtype=bool)[labels]
    found = np.array(assign(features, [None] * len(labels), [0.6, 0.2, 0.2], np.random.default_rng(seed)))
    assert np.bincount(found, minlength=3).tolist() == sizes(len(labels), [0.6, 0.2, 0.2])
    for value, n in Counter(labels).items():
        held = np.bincount(found[np.array(labels) == value], minlength=3)
        assert held[0] >= 1
        assert abs(held[0] - 0.6 * n) <= 3


def test_rare_classes_do_not_push_the_common_one_out():
    features = np.eye(4, dtype=bool)[[0] * 5 + [1] * 3 + [2] * 3 + [3] * 3]
    found = np.array(assign(features, [None] * 14, [0.6, 0.2, 0.2], np.random.default_rng(0)))
    assert (found[:5] == 0).sum() in (2, 3, 4)
    fixed = [2, None, None, None, 1] + [None] * 9
    again = assign(features, fixed, [0.6, 0.2, 0.2], np.random.default_rng(0))
    assert (again[0], again[4]) == (2, 1)


def test_thousands_of_groups_are_quick():
    random = np.random.default_rng(0)
    features = np.eye(10, dtype=bool)[random.integers(0, 10, 3000)]
    found = np.array(assign(features, [None] * 3000, [0.6, 0.2, 0.2], random))
    assert np.bincount(found).tolist() == [1800, 600, 600]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.integers(0, 1), min_size=12, max_size=40),
    n=st.integers(2, 4),
    images=st.integers(1, 3),
    held=st.sampled_from([None, 0.2]),
    seed=st.integers(0, 20),
)
def test_folds_are_a_partition_by_patient(labels, n, images, held, seed):
    labels[:6] = [0, 1, 0, 1, 0, 1]
    groups = [f"g{g}" for g in range(len(labels)) for _ in range(images)]
    table = table_of(groups, [label for label in labels for _ in range(images)])
    of = {case.case_id: case.group for case in table}
    made = folds(table, SplitConfig(folds=n, test=held, seed=seed))
    assert len(made) == n
    tested = [i for fold in made for i in fold.ids("test")]
    out = {fold.ids("held-out") for fold in made}
    assert len(out) == 1  # the same for all
    (kept,) = out
    assert bool(kept) == (held is not None)
    assert sorted([*tested, *kept]) == sorted(table.ids)
    sizes_of = []
    for fold in made:
        assert set(fold.parts) == set(table.ids)
        where = {part: {of[i] for i in fold.ids(part)} for part in ("train", "val", "test", "held-out")}
        assert sum(map(len, where.values())) == len(set(groups))
        assert where["train"]
        assert where["val"]
        sizes_of.append(len(where["test"]))
    assert max(sizes_of) - min(sizes_of) <= 1


def test_cases_given_as_test_are_held_out_of_all_folds():
    split = ["test"] * 4 + ["train"] * 6 + ["val"] * 2 + [None] * 8
    made = folds(simple(20, split=split), SplitConfig(folds=4))
    assert all(fold.ids("held-out") == tuple(f"case{n:03d}" for n in range(4)) for fold in made)
    assert sorted(i for f in made for i in f.ids("test")) == [f"case{n:03d}" for n in range(4, 20)]
    assert any("4 cases are held out" in note for note in made[0].notes)
    assert any("given as val take part" in note for note in made[0].notes)


def test_a_stored_file_says_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTL_ID_KEY", "k" * 32)
    table = simple(20)
    plain = make_splits(table, CONFIG)
    plain.write(tmp_path / "plain.csv")
    made = folds(table, SplitConfig(folds=3, file=tmp_path / "plain.csv"))
    assert {f.ids("held-out") for f in made} == {plain.ids("test")}
    # One fold's file, taken up again: what it was tested on takes part, what was held out stays so.
    made[0].write(tmp_path / "fold.csv")
    assert Splits.read(tmp_path / "fold.csv").ids("held-out") == plain.ids("test")
    again = folds(table, SplitConfig(folds=3, file=tmp_path / "fold.csv"))
    assert [f.parts for f in again] == [f.parts for f in made]
    single = make_splits(table, SplitConfig(file=tmp_path / "fold.csv"))
    assert set(single.ids("test")) == {*made[0].ids("test"), *made[0].ids("held-out")}


def test_one_fold_is_made_as_among_the_others():
    table = simple(20)
    made = folds(table, SplitConfig(folds=4, seed=2))
    assert make_splits(table, SplitConfig(folds=4, fold=3, seed=2)).parts == made[2].parts != made[1].parts
    with pytest.raises(ConfigError, match="cannot be all of 4 folds"):
        make_splits(table, SplitConfig(folds=4))


def test_an_image_in_two_folds_is_refused():
    prints = [(str(i),) if i not in (0, 1) else ("same",) for i in range(12)]
    with pytest.raises(DataError, match="same image is in two parts"):
        folds(simple(12, fingerprints=prints), SplitConfig(folds=6, val=0.2))


def test_the_default_share_of_test_depends_on_folds():
    assert SplitConfig().test_share == 0.2
    assert SplitConfig(folds=5).test_share == 0
    assert SplitConfig(folds=5, test=0.1).test_share == 0.1

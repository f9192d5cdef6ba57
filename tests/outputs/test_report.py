"""The report: every kind of run, missing and damaged parts, hostile texts; nothing from outside."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from helpers_reports import STAGES, TARGETS, make_run, write_part, write_rows
from helpers_runs import read_rows

from medtl_monai.errors import RunError
from medtl_monai.outputs.report import write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
OPTIONAL = [
    "metrics.jsonl", "policy.csv", "coverage.json", "tuning.json", "environment.json", "plugins.json", "splits.csv",
    "config.yaml", "evaluation/test/metrics.json", "evaluation/test/predictions.csv",
]  # fmt: skip
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac$ {{ 7*7 }} &amp; \u202e"


class Page(HTMLParser):
    """A page taken apart; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.links, self.words, self.styles = [], [], [], [], []
        self.open = []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
                self.links.append(value)
            elif name == "style":
                self.styles.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] == "style":
            self.styles.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(run):
    """Write a run's report and return it, checked for what holds of every report."""
    path = write_report(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)), "ids repeat"
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links), page.links
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(page.tags)
    assert not any("url(" in style.replace("url(#", "") or "@import" in style for style in page.styles)
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert "default-src 'none'" in text
    assert str(run.parent) not in text
    assert not re.search(r"(?<![\w.<])/(home|tmp|root|work|Users|usr)/", text)
    return page


@pytest.mark.parametrize(
    ("kind", "said", "drawn"),
    [
        ("classification", ["Area under the ROC curve, test", "Wrong, and most sure of it", "benign: 33"], 4),
        ("multiclass", ["ROC curves of each class against the others", "probability of the true class"], 4),
        ("multilabel", ["set / known", "of 19", "ROC curve of each label", "F1, nodule"], 2),
        ("regression", ["Mean absolute error", "Largest errors", "+1.96 SD", "true anterior_ml"], 2),
        ("segmentation", ["Dice, anterior", "Worst Dice", "posterior (n = 23)", "posterior in 1"], 2),
    ],
)
def test_every_kind_of_run(tmp_path, kind, said, drawn):
    page = report(make_run(tmp_path / "run", kind))
    for text in said:
        assert text in page.text
    assert page.tags.count("svg") == drawn
    for text in (
        "lp-ft",
        "resnet18-3d-ct (60 of 60",
        "epochs 1–4",
        "33,161,537",
        "torch",
        "medtl train run/config.yaml",
    ):
        assert text in page.text
    assert page.tags.count("title") == drawn + 1


@pytest.mark.usefixtures("undrawn")
def test_the_headline_is_the_test_result_with_its_interval(tmp_path):
    run = make_run(tmp_path / "run")
    stored = json.loads((run / "evaluation/test/metrics.json").read_text())
    value, (low, high) = stored["metrics"]["roc_auc"], stored["intervals"]["roc_auc"]
    assert f"{value:.3f} 95 % interval {low:.3f} to {high:.3f} 24 cases of 24 patients" in report(run).text


@pytest.mark.usefixtures("undrawn")
def test_worst_cases_are_the_worst(tmp_path):
    run = make_run(tmp_path / "run", "segmentation")
    rows = sorted(read_rows(run / "evaluation/test/predictions.csv"), key=lambda row: float(row["dice"]))
    page = report(run)
    shown = [row["case_id"] for row in rows if row["case_id"] in page.text]
    assert shown == [row["case_id"] for row in rows[:5]]
    positions = [page.text.index(case_id) for case_id in shown]
    assert positions == sorted(positions)


@pytest.mark.usefixtures("undrawn")
def test_where_lower_is_better_the_highest_are_the_worst(tmp_path):
    run = make_run(tmp_path / "run", "segmentation", mode="min")
    rows = sorted(read_rows(run / "evaluation/test/predictions.csv"), key=lambda row: -float(row["dice"]))
    page = report(run)
    assert all(row["case_id"] in page.text for row in rows[:5])
    assert rows[-1]["case_id"] not in page.text


def test_equal_folders_give_equal_pages(tmp_path):
    first = write_report(make_run(tmp_path / "a/run", "segmentation")).read_bytes()
    second = write_report(make_run(tmp_path / "b/run", "segmentation")).read_bytes()
    other = write_report(make_run(tmp_path / "c/run", "regression")).read_bytes()
    assert first == second != other


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.usefixtures("undrawn")
def test_a_missing_file_leaves_out_its_part(tmp_path, name):
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    page = report(run)
    assert "is damaged" not in page.text


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'["not", "this"]\n'])
@pytest.mark.usefixtures("undrawn")
def test_a_damaged_file_is_named_and_left_out(tmp_path, name, content):
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(content)
    page = report(run)
    assert f"{name} is damaged" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_anything_but_its_record(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"format": 1, "status": "started"}')
    page = report(run)
    assert "Training has not finished (status: started, 0 epochs)" in page.text
    assert "No epoch has been finished" in page.text
    assert page.tags.count("svg") == 0


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    run = make_run(tmp_path / "run", parts=(), status="interrupted", best_epoch=None, best_value=None)
    text = (run / "metrics.jsonl").read_text().splitlines()[:6]
    (run / "metrics.jsonl").write_text("\n".join(text) + '\n{"epoch": 6, "lo')
    page = report(run)
    assert "status: interrupted, 6 epochs of 12). Go on with: medtl train --resume run" in page.text
    best = json.loads(text[5])
    assert f"validation {best['val/roc_auc']:.3f} no interval: these cases chose the checkpoint" in page.text
    assert "not yet measured on test cases: medtl evaluate run" in page.text
    assert page.tags.count("svg") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_control_experiment_says_so_in_red(tmp_path):
    run = make_run(tmp_path / "run", random_frozen=["stem", "layer1"])
    assert "Control experiment" in report(run).text
    assert '<p class="banner danger" role="alert">Control experiment' in (run / "report.html").read_text()
    assert "Control experiment" not in report(make_run(tmp_path / "other")).text


@pytest.mark.usefixtures("undrawn")
def test_too_few_patients_have_no_interval_and_a_note(tmp_path):
    page = report(make_run(tmp_path / "run", groups=3))
    assert "Too few patients for an interval: the test part has 3, at least 5 are needed" in page.text
    assert "interval: too few patients" in page.text
    assert "Too few" not in report(make_run(tmp_path / "other")).text


@pytest.mark.usefixtures("undrawn")
def test_an_interval_that_could_not_be_estimated_is_not_made_up(tmp_path):
    run = make_run(tmp_path / "run")
    file = run / "evaluation/test/metrics.json"
    stored = json.loads(file.read_text())
    stored["intervals"]["accuracy"] = None
    stored["metrics"]["f1_macro"] = stored["intervals"]["f1_macro"] = None
    del stored["intervals"]["average_precision"]
    file.write_text(json.dumps(stored))
    text = report(run).text
    assert "Accuracy 0.790 not estimable" in text
    assert "F1, mean over classes undefined –" in text
    assert "Average precision 0.900 not computed" in text


@pytest.mark.usefixtures("undrawn")
def test_results_of_an_older_checkpoint_are_marked(tmp_path):
    run = make_run(tmp_path / "run", parts=())
    write_part(run, "test", "classification", checkpoint_epoch=4)
    assert "of the checkpoint of epoch 4, the best is now of epoch 10. Evaluate again" in report(run).text


@pytest.mark.usefixtures("undrawn")
def test_results_on_other_parts_carry_a_caution(tmp_path):
    page = report(make_run(tmp_path / "run", parts=("train", "val", "test")))
    assert page.text.index("Results: test") < page.text.index("Results: val") < page.text.index("Results: train")
    assert "These cases chose the checkpoint" in page.text
    assert "The model has learnt from these cases" in page.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "pretraining"}, "shared layers of run pretraining (60 of 60 backbone tensors)"),
        ({}, "weights resnet18-3d-ct (60 of 60 backbone tensors)"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_the_start_is_told(tmp_path, change, said):
    assert said in report(make_run(tmp_path / "run", **change)).text


@pytest.mark.usefixtures("undrawn")
def test_a_start_from_nothing_is_told(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "coverage.json").write_text("null")
    assert "Start random weights" in report(run).text


@pytest.mark.usefixtures("undrawn")
def test_patients_are_only_said_where_they_are_known(tmp_path):
    run = make_run(tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("group_by: null", "group_by: site"))
    assert "24 cases in 24 groups by site" in report(run).text
    config.write_text(
        config.read_text().replace("group_by: site", "group_by: null").replace("studies: studies", "studies: null")
    )
    assert "24 cases of 24 patients" in report(run).text
    rows = read_rows(run / "splits.csv")
    write_rows(run / "splits.csv", [{**row, "group": row["case_id"]} for row in rows])
    assert "24 cases, each counted as a patient of its own" in report(run).text
    # What a run stores has no places; run.json says where its data came from, and DICOM knows its patients.
    stored = json.loads((run / "run.json").read_text())
    for inputs, modalities, known in (
        (["studies", "labels"], [""], True),
        (["labels"], ["MR"], False),
        (["dataset"], ["MR"], True),
        (["dataset"], [""], False),
    ):
        images = {**stored["images"], "modalities": modalities}
        (run / "run.json").write_text(json.dumps({**stored, "inputs": inputs, "images": images}))
        assert ("each counted as a patient of its own" not in report(run).text) == known


@pytest.mark.usefixtures("undrawn")
def test_predictions_that_do_not_fit_are_said_and_not_drawn(tmp_path):
    run = make_run(tmp_path / "run")
    rows = read_rows(run / "evaluation/test/predictions.csv")
    write_rows(run / "evaluation/test/predictions.csv", [{**row, "true": "something else"} for row in rows])
    page = report(run)
    assert "predictions.csv does not fit this run" in page.text
    assert "Balanced accuracy" in page.text


def test_hostile_texts_stay_texts(tmp_path):
    run = make_run(tmp_path / "run", status=HOSTILE, task=HOSTILE, policy=HOSTILE, random_frozen=[HOSTILE])
    for file in run.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".csv"):
            _poison(file)
    page = report(run)
    for tag in ("script", "img"):
        assert tag not in page.tags
    assert "{{ 7*7 }}" in page.text
    assert "49" not in re.findall(r"\b\d+\b", page.text.split("Environment")[0].split("torch")[0][:200])
    assert page.text.count("<script>alert(1)</script>") > 10
    assert page.tags.count("svg") == 4  # figures with such names are drawn all the same


def _poison(file):
    """Put hostile texts where names of classes, stages, plugins and packages were."""
    text = file.read_text()
    as_json = json.dumps(HOSTILE)[1:-1]
    for name in ("malignant", "stem", "torch", "resnet18-3d-ct", "medtl-monai:classification", "lesion"):
        text = text.replace(name, as_json if file.suffix == ".json" else HOSTILE.replace('"', '""'))
    if file.suffix == ".csv":
        # Quote every cell that holds one.
        poison = HOSTILE.replace('"', '""')
        text = re.sub(rf"(?<=[,\n])([^,\n]*{re.escape(poison)}[^,\n]*)(?=[,\n])", r'"\1"', text)
    file.write_text(text)


def test_names_in_any_script_are_drawn_without_a_warning(tmp_path):
    run = make_run(tmp_path / "run")
    for file in (run / "run.json", run / "evaluation/test/predictions.csv"):
        file.write_text(file.read_text().replace("malignant", "悪性"), encoding="utf-8")
    assert "悪性 (area" in report(run).text


def test_many_classes_and_stages_stay_readable(tmp_path):
    run = make_run(tmp_path / "run", "multiclass")
    names = [f"class number {n} with a name that goes on and on" for n in range(14)]
    record = json.loads((run / "run.json").read_text())
    record["model"]["context"]["target"] |= {"classes": names, "counts": [3] * 14}
    (run / "run.json").write_text(json.dumps(record))
    rows = [
        {"case_id": f"{n:012d}", "true": names[n % 14], "predicted": names[n % 13],
         **{f"probability_{name}": 0.3 if name == names[n % 13] else 0.7 / 13 for name in names}}
        for n in range(42)
    ]  # fmt: skip
    write_rows(run / "evaluation/test/predictions.csv", rows)
    page = report(run)
    assert "(the first 6 of 14)" in page.text
    assert "class number 3 with a n… (area" in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_policy_table_has_a_column_for_each_phase(tmp_path):
    page = report(make_run(tmp_path / "run"))
    assert "Stage Role Weights epochs 1–4 epochs 5–12" in page.text
    assert page.text.count("backbone loaded frozen trains lr ×0.1") == len(STAGES)
    assert "Parameters that train 513 33,161,537" in page.text


@pytest.mark.usefixtures("undrawn")
def test_only_case_ids_name_cases(tmp_path):
    run = make_run(tmp_path / "run", "regression")
    page = report(run)
    groups = {row["group"] for row in read_rows(run / "splits.csv")}
    assert not any(group in page.text for group in groups)


@pytest.mark.usefixtures("undrawn")
def test_a_copied_run_keeps_its_report_but_for_the_name(tmp_path):
    run = make_run(tmp_path / "one")
    before = write_report(run).read_text()
    shutil.copytree(run, tmp_path / "two")
    assert write_report(tmp_path / "two").read_text().replace("two", "one") == before


def test_all_kinds_are_tested():
    assert set(TARGETS) == {"classification", "multiclass", "multilabel", "regression", "segmentation"}

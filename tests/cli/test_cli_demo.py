import json

import pytest

from medtl_monai.cli import demo, main


@pytest.mark.slow
def test_the_demo_does_source_transfer_and_scratch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "BACKBONE", "resnet10-3d:levels=2,features=8,conv1_t_size=3")
    monkeypatch.setattr(demo, "_SOURCE_EPOCHS", 1)
    monkeypatch.setattr(demo, "_TARGET_EPOCHS", 1)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [run["policy"] for run in result["runs"]] == ["full", "lp-ft", "full"]
    assert [run["test_cases"] for run in result["runs"]] == [7, 14, 14]
    assert all(0 <= run["roc_auc"] <= 1 for run in result["runs"])
    coverage = json.loads((tmp_path / "demo/target-transfer/coverage.json").read_text())
    assert coverage["coverage"] == 1.0
    assert (tmp_path / "demo/predictions/predictions.csv").read_text().count("\n") == 26
    assert (tmp_path / "demo/target-transfer/report.html").stat().st_size > 10_000


def test_without_the_samples_it_says_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.medtl_monai, "__file__", str(tmp_path / "site-packages" / "medtl_monai" / "__init__.py"))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "--data FOLDER" in capsys.readouterr().err

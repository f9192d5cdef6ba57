"""The matrix of frozen cells passes, and says what fails where a guard is missing or another library freezes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medtl_monai.transfer.model import TransferModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import frozen_matrix
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

BACKBONE = "resnet10-2d:features=8"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "cases").mkdir()
    return frozen_matrix.write_cases(tmp_path / "cases", 2)


@pytest.mark.parametrize("policy", ["linear-probe", "gradual:every=1"])
def test_ours_passes(policy: str, table: Path, tmp_path: Path) -> None:
    assert frozen_matrix.ours(table, BACKBONE, policy, tmp_path / "run") == "PASS"


def test_a_missing_guard_is_named(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransferModel, "_hold_still", lambda self: None)
    assert frozen_matrix.ours(table, BACKBONE, "linear-probe", tmp_path / "run") == "modes mates buffers"


def test_a_network_that_does_not_train_is_named(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medtl_monai.transfer.freeze.Freezer.set_lr", still)
    assert frozen_matrix.ours(table, BACKBONE, "linear-probe", tmp_path / "run") == "trains"


def still(self: object, optimizer: object, *args: object, **kwargs: object) -> None:
    for group in optimizer.param_groups:  # type: ignore[attr-defined]
        group["lr"] = 0.0


@pytest.mark.filterwarnings("ignore")
def test_monai_freezes_parameters_only() -> None:
    assert frozen_matrix.monai(BACKBONE, 2) == "modes mates buffers"

"""Volume: what it accepts, says and compares."""

from __future__ import annotations

import numpy as np
import pytest

from medtl_monai.dicom import Volume


def volume(affine: np.ndarray | None = None, shape: tuple[int, ...] = (4, 5, 6), **options: object) -> Volume:
    affine = np.diag([0.5, 2.0, 3.0, 1.0]) if affine is None else affine
    return Volume(array=np.zeros(shape, np.float32), affine=affine, **options)


def test_shape_spacing_channels() -> None:
    assert volume().shape == (4, 5, 6)
    assert volume().spacing_mm == (0.5, 2.0, 3.0)
    assert volume().channels == 1
    colour = volume(shape=(3, 4, 5, 6))
    assert colour.shape == (4, 5, 6)
    assert colour.channels == 3


def test_affine_is_copied_and_read_only() -> None:
    affine = np.eye(4)
    made = volume(affine)
    affine[0, 3] = 7
    assert made.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        made.affine[0, 0] = 2


def test_same_grid_looks_at_the_far_corner() -> None:
    turned = np.diag([0.5, 2.0, 3.0, 1.0])
    turned[1, 2] = 1e-4
    assert volume().same_grid(volume(turned))
    assert not volume().same_grid(volume(turned), tol_mm=1e-4)
    assert not volume().same_grid(volume(shape=(4, 5, 7)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"affine": np.zeros((4, 4))}, "last row"),
        ({"affine": np.diag([1.0, 1.0, 0.0, 1.0])}, "singular"),
        ({"affine": np.full((4, 4), np.nan)}, "finite"),
        ({"affine": np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])}, "cosine"),
        ({"geometry": "sheared"}, "cosine"),
        ({"shape": (4, 5)}, "3 or 4 axes"),
    ],
)
def test_impossible_volumes(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        volume(**options)


def test_repr_has_no_series() -> None:
    shown = repr(volume(series_uid="1.2.3.4", modality="CT", unit="HU"))
    assert "1.2.3.4" not in shown
    assert shown == "Volume(CT 4×5×6, 0.5×2×3 mm, HU, regular)"

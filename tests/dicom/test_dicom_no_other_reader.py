"""Nothing in the project reads DICOM with MONAI's own readers, which may return a wrong volume without a word."""

from __future__ import annotations

import ast
from pathlib import Path

import medtl_monai

FORBIDDEN = {"LoadImage", "LoadImaged", "LoadImageD", "LoadImageDict", "PydicomReader", "ITKReader", "NibabelReader"}


def used_names(source: str) -> set[str]:
    """Return names and attributes a module uses, apart from what docstrings mention."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}


def test_no_module_uses_another_reader() -> None:
    folder = Path(medtl_monai.__file__).parent
    modules = sorted(folder.rglob("*.py"))
    assert len(modules) > 100
    found = {
        str(path.relative_to(folder)): used_names(path.read_text(encoding="utf-8")) & FORBIDDEN for path in modules
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_the_check_sees_a_use() -> None:
    assert used_names("from monai.transforms import LoadImage\nx = LoadImage()") & FORBIDDEN == {"LoadImage"}
    assert used_names("import monai\nmonai.data.PydicomReader()") & FORBIDDEN == {"PydicomReader"}

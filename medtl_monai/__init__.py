"""medtl-monai: a plugin host for transfer learning on medical images.

The names below are resolved on first use, so that ``import medtl_monai`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medtl_monai.api import Run, open_run, train
    from medtl_monai.errors import MedtlError
    from medtl_monai.host import Host

__all__ = ["Host", "MedtlError", "Run", "__version__", "open_run", "train"]

_HOMES = {
    "Host": "medtl_monai.host",
    "MedtlError": "medtl_monai.errors",
    "Run": "medtl_monai.api",
    "open_run": "medtl_monai.api",
    "train": "medtl_monai.api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

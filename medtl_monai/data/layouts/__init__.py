"""Data sets as they are found: folders in a known layout, read as if someone had written a labels table for them."""

from medtl_monai.data.layouts.choice import LAYOUTS, Opened, dataset_kind, detect, open_dataset, settle, with_manifest

__all__ = ["LAYOUTS", "Opened", "dataset_kind", "detect", "open_dataset", "settle", "with_manifest"]

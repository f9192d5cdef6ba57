"""DICOM in: scan a tree, assemble a series into a volume, place a segmentation on its grid."""

from medtl_monai.dicom.description import Description, describe
from medtl_monai.dicom.geometry import Volume
from medtl_monai.dicom.index import scan
from medtl_monai.dicom.seg import SegMask, read_seg
from medtl_monai.dicom.series import Reference, Series, Study, StudyIndex
from medtl_monai.dicom.volume import read_volume, read_volumes

__all__ = [
    "Description",
    "Reference",
    "SegMask",
    "Series",
    "Study",
    "StudyIndex",
    "Volume",
    "describe",
    "read_seg",
    "read_volume",
    "read_volumes",
    "scan",
]

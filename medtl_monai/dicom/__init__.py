"""DICOM in: scan a tree, assemble a series into a volume, place segmentations and contours on its grid."""

from medtl_monai.dicom.description import Description, describe
from medtl_monai.dicom.geometry import Volume
from medtl_monai.dicom.index import Memory, index_path, scan
from medtl_monai.dicom.rtstruct import read_rtstruct
from medtl_monai.dicom.seg import SegMask, read_seg
from medtl_monai.dicom.series import Reference, Series, Study, StudyIndex
from medtl_monai.dicom.volume import read_volume, read_volumes

__all__ = [
    "Description",
    "Memory",
    "Reference",
    "SegMask",
    "Series",
    "Study",
    "StudyIndex",
    "Volume",
    "describe",
    "index_path",
    "read_rtstruct",
    "read_seg",
    "read_volume",
    "read_volumes",
    "scan",
]

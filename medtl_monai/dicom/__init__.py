"""DICOM in: scan a tree, assemble a series into a volume, place a segmentation on its grid."""

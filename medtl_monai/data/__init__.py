"""From studies and a labels table to batches: cases, splits, preprocessing, augmentation, loading."""

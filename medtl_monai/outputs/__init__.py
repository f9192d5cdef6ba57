"""What leaves a run: predictions, masks, reports."""

"""Measuring a finished run on cases it has not learnt from."""

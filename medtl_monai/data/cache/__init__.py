"""Preprocessed cases on disk: decoded once, then mapped into memory; never served stale."""

"""Scores a model folder, keeps the record, compares records. Knows nothing about merging."""

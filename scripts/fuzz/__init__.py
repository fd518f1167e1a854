"""Fuzzing of the readers of untrusted files: ``python -m scripts.fuzz``."""

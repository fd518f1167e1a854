"""Checkpoints on disk: opened, read by tensor, written whole."""

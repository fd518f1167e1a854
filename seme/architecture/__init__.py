"""Architectures: facts about model families, and checkpoints read in canonical parts."""

"""Kept merges: manifest, model card, verification."""

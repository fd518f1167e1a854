"""Merge engine, and SeMe: merging by semantic alignment."""

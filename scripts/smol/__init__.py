"""Builders of the benchmark of a real model, SmolLM2-135M."""

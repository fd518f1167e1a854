"""Sweeps killed at random moments and run side by side: ``python -m scripts.kill_runs``."""

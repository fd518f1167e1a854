"""The benchmark's top floor: runs and sweeps from a configuration, merges from Python."""

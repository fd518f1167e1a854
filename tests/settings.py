"""Default merge settings of tests."""

import torch

from seme.settings import MergeSettings

SETTINGS = MergeSettings(
    seed=0, device=torch.device("cpu"), dtype=None, memory_budget=2**29, n_threads=2
)
TOP_LEVEL = {
    "tau": 0.1, "seed": 0, "device": "cpu", "dtype": None, "include": ["*"], "exclude": [],
    "tokens": "same",
    "memory_budget": "2GiB",
}  # fmt: skip
"""The entries at the top level of a configuration."""

"""Default merge settings of tests."""

import torch

from seme.settings import MergeSettings

SETTINGS = MergeSettings(
    seed=0, device=torch.device("cpu"), dtype=None, memory_budget=2**29, n_threads=2
)

"""Merge settings from the top level of a configuration."""

import pytest
import torch

from seme.settings import MergeSettings, settings_from_config
from tests.settings import TOP_LEVEL


def test_values_are_converted_to_torch_types():
    settings = settings_from_config(
        {**TOP_LEVEL, "seed": 3, "dtype": "bfloat16", "exclude": ["a*"]}
    )
    assert settings == MergeSettings(
        seed=3,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        include=("*",),
        exclude=("a*",),
        memory_budget=2**31,
        n_threads=torch.get_num_threads(),
    )


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_device_auto_selects_an_available_gpu(monkeypatch, has_gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert settings_from_config({**TOP_LEVEL, "device": "auto"}).device.type == device
    assert settings_from_config({**TOP_LEVEL, "device": "cpu"}).device.type == "cpu"


def test_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees none; use device=cpu"):
        settings_from_config({**TOP_LEVEL, "device": "cuda"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tau", 1.5, r"tau must be in \(0, 1\], got 1.5"),
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("seed", True, "seed must be a whole number of at least 0, got True"),
        ("device", "tpu", "device must be one of auto, cpu, cuda, got 'tpu'"),
        ("dtype", "int8", "dtype must be one of bfloat16, float16, float32, got 'int8'"),
        ("include", "*", r"include must be a list of glob patterns, got '\*'"),
        ("memory_budget", "2 gigabytes", "memory_budget must be a size such as 512MiB, 2GiB"),
        ("memory_budget", 512, "memory_budget must be a size such as .*, got 512"),
        ("exclude", [1], r"exclude must be a list of glob patterns, got \[1\]"),
    ],
)
def test_out_of_range_values_are_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        settings_from_config({**TOP_LEVEL, key: value})


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("4GB", 4 * 10**9), ("80MB", 8 * 10**7)],
)
def test_memory_budget_has_a_unit(text, n_bytes):
    assert settings_from_config({**TOP_LEVEL, "memory_budget": text}).memory_budget == n_bytes

"""Merge settings from the top level of a configuration."""

import pytest
import torch

from seme.settings import MergeSettings, settings_from_config

GOOD = {
    "tau": 0.1,
    "seed": 0,
    "device": "cpu",
    "dtype": None,
    "include": ["*"],
    "exclude": [],
    "memory_budget": "2GiB",
}


def test_values_become_what_torch_calls_them():
    settings = settings_from_config({**GOOD, "seed": 3, "dtype": "bfloat16", "exclude": ["a*"]})
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
def test_auto_takes_the_gpu_where_there_is_one(monkeypatch, has_gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert settings_from_config({**GOOD, "device": "auto"}).device.type == device
    assert settings_from_config({**GOOD, "device": "cpu"}).device.type == "cpu"


def test_a_gpu_that_is_asked_for_and_absent_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees none; use device=cpu"):
        settings_from_config({**GOOD, "device": "cuda"})


@pytest.mark.parametrize("tau", [1, 1.0, 1e-9])
def test_every_share_above_0_up_to_1_is_taken(tau):
    settings_from_config({**GOOD, "tau": tau})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tau", 0, r"tau must be in \(0, 1\], got 0"),
        ("tau", 1.5, r"tau must be in \(0, 1\], got 1.5"),
        ("tau", -0.1, r"tau must be in \(0, 1\], got -0.1"),
        ("tau", "abc", r"tau must be in \(0, 1\], got 'abc'"),
        ("tau", float("nan"), r"tau must be in \(0, 1\], got nan"),
        ("tau", None, r"tau must be in \(0, 1\], got None"),
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("seed", 0.5, "seed must be a whole number of at least 0, got 0.5"),
        ("seed", True, "seed must be a whole number of at least 0, got True"),
        ("device", "tpu", "device must be one of auto, cpu, cuda, got 'tpu'"),
        ("dtype", "int8", "dtype must be one of bfloat16, float16, float32, got 'int8'"),
        ("include", "*", r"include must be a list of glob patterns, got '\*'"),
        ("memory_budget", "2 gigabytes", "memory_budget must be a size such as 512MiB, 2GiB"),
        ("memory_budget", 512, "memory_budget must be a size such as .*, got 512"),
        ("exclude", [1], r"exclude must be a list of glob patterns, got \[1\]"),
    ],
)
def test_a_value_out_of_range_is_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        settings_from_config({**GOOD, key: value})


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("4GB", 4 * 10**9), ("80MB", 8 * 10**7)],
)
def test_a_memory_budget_is_a_number_with_a_unit(text, n_bytes):
    assert settings_from_config({**GOOD, "memory_budget": text}).memory_budget == n_bytes

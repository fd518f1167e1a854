"""What a merge is told beside its method and its models: checked values, no strings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seme.checks import check_choice, check_share

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """The settings every method shares."""

    seed: int
    device: torch.device
    dtype: torch.dtype | None
    """Dtype of the merged checkpoint; None keeps the pivot's."""
    include: tuple[str, ...] = ()
    """Glob patterns of tensors to merge; empty for all."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of tensors to copy from the pivot."""
    memory_budget: int
    """Bytes a merge may take beside the interpreter; no result depends on it."""
    n_threads: int
    """Threads that work side by side; no result depends on it."""


def settings_from_config(config: Mapping[str, Any]) -> MergeSettings:
    """Check the top level of a run's configuration.

    Args:
        config: ``tau``, ``seed``, ``device``, ``dtype``, ``include``, ``exclude`` and
            ``memory_budget``.

    Returns:
        The settings; ``device=auto`` is resolved. As many threads as torch would use, which
        ``OMP_NUM_THREADS`` sets.

    Raises:
        ValueError: If a value is out of range, of another type, or not one of the choices.
    """
    check_share("tau", config["tau"])
    seed = config["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    dtype = config["dtype"]
    if dtype is not None:
        check_choice("dtype", dtype, _DTYPES)
    return MergeSettings(
        seed=seed,
        device=_device(config["device"]),
        dtype=None if dtype is None else _DTYPES[dtype],
        include=_patterns("include", config["include"]),
        exclude=_patterns("exclude", config["exclude"]),
        memory_budget=_bytes("memory_budget", config["memory_budget"]),
        n_threads=torch.get_num_threads(),
    )


def _device(name: object) -> torch.device:
    check_choice("device", name, _DEVICES)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("device=cuda needs a CUDA device and torch sees none; use device=cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _patterns(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(p, str) for p in value):
        raise ValueError(f"{name} must be a list of glob patterns, got {value!r}")
    return tuple(value)


def _bytes(name: str, value: object) -> int:
    """Read a size such as 512MiB or 2GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG]i?B)", str(value))
    if found is None:
        raise ValueError(f"{name} must be a size such as 512MiB, 2GiB or 4GB, got {value!r}")
    return int(float(found[1]) * _UNITS[found[2]])

"""What a merge is told beside its method and its models: checked values, no strings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seme.checks import check_choice, check_share

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """The settings every method shares."""

    seed: int
    device: torch.device
    dtype: torch.dtype | None
    """Dtype of the merged checkpoint; None keeps the pivot's."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]


def settings_from_config(config: Mapping[str, Any]) -> MergeSettings:
    """Check the top level of a run's configuration.

    Args:
        config: ``tau``, ``seed``, ``device``, ``dtype``, ``include`` and ``exclude``.

    Returns:
        The settings; ``device=auto`` is resolved.

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

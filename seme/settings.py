"""Merge settings common to all methods, validated."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from seme.checkpoint.writer import MAX_SHARD_BYTES
from seme.checks import check_choice, check_share, check_whole
from seme.overrides import Override, parse_overrides

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
_DEVICES = ("auto", "cpu", "cuda")
Tokens = Literal["same", "by_id", "by_text"]
"""``same``: refuse sources whose tokenizer gives ids to other tokens than the pivot's. ``by_id``:
merge rows as they stand. ``by_text``: put a source's rows in the order of the pivot's tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """Everything that defines a merge besides its method and its models."""

    seed: int
    device: torch.device
    dtype: torch.dtype | None
    """Dtype of the merged checkpoint; None keeps the pivot's."""
    include: tuple[str, ...] = ()
    """Glob patterns of tensors to merge; empty for all."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of tensors to copy from the pivot."""
    overrides: tuple[Override, ...] = ()
    """Hyper-parameters by tensor, later entries over earlier ones."""
    tokens: Tokens = "same"
    """What becomes of a source whose tokenizer is not the pivot's."""
    memory_budget: int
    """Bytes a merge may take, the Python process excluded; no result depends on it."""
    n_threads: int
    """Size of the thread pool; no result depends on it."""
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Bytes of tensors in one file of the merged checkpoint; a larger tensor has a file of its
    own."""
    as_adapter: bool = False
    """Write one LoRA in place of a model."""
    adapter_rank: int | None = None
    """Its rank, by a truncated SVD; None puts the sources' factors side by side."""


def settings_from_config(config: Mapping[str, Any]) -> MergeSettings:
    """Check the top level of a run's configuration.

    Args:
        config: ``tau``, ``seed``, ``device``, ``dtype``, ``include``, ``exclude``, ``tokens``,
            ``memory_budget`` and, where there are any, ``overrides`` and ``max_shard_size``.

    Returns:
        The settings, ``device=auto`` resolved, with as many threads as torch uses
        (``OMP_NUM_THREADS`` sets it).

    Raises:
        ValueError: If a value is out of range, of another type, or not one of the choices.
    """
    check_share("tau", config["tau"])
    check_whole("seed", config["seed"], least=0)
    check_choice("tokens", config["tokens"], get_args(Tokens))
    dtype = config["dtype"]
    if dtype is not None:
        check_choice("dtype", dtype, _DTYPES)
    return MergeSettings(
        seed=config["seed"],
        device=_device(config["device"]),
        dtype=None if dtype is None else _DTYPES[dtype],
        include=_patterns("include", config["include"]),
        exclude=_patterns("exclude", config["exclude"]),
        overrides=parse_overrides(config.get("overrides", ())),
        tokens=config["tokens"],
        memory_budget=_bytes("memory_budget", config["memory_budget"]),
        max_shard_bytes=_shard_bytes(config.get("max_shard_size")),
        as_adapter=_as_adapter(config),
        adapter_rank=config.get("adapter_rank"),
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


def _shard_bytes(value: object) -> int:
    """Parse the size of a shard; None is the usual one."""
    if value is None:
        return MAX_SHARD_BYTES
    size = _bytes("max_shard_size", value)
    if size == 0:
        raise ValueError(f"max_shard_size must be more than nothing, got {value!r}")
    return size


def _bytes(name: str, value: object) -> int:
    """Parse a size such as 512MiB or 2GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG]i?B)", str(value))
    if match is None:
        raise ValueError(f"{name} must be a size such as 512MiB, 2GiB or 4GB, got {value!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _as_adapter(config: Mapping[str, Any]) -> bool:
    """Check ``merged_as`` and ``adapter_rank``; both may be absent."""
    form, rank = config.get("merged_as", "model"), config.get("adapter_rank")
    check_choice("merged_as", form, ("model", "adapter"))
    if rank is not None:
        check_whole("adapter_rank", rank, least=1)
        if form != "adapter":
            raise ValueError(f"adapter_rank={rank} needs merged_as=adapter, got {form}")
    return bool(form == "adapter")

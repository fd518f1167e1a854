"""Evaluator: the backend of lm-eval that scores a model, and where it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from eval.override_errors import did_you_mean
from eval.suite_options import whole_number

HF = "hf"
"""lm-eval's Hugging Face model, the default: what a record or a suite without a backend means."""

_ENTRIES = {HF: {"processes"}, "vllm": {"tensor_parallel_size", "gpu_memory_utilization"}}
"""Backend to its entries in ``conf/evaluator``."""
_PACKAGES = {HF: "transformers", "vllm": "vllm"}
"""Backend to the package that runs the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """A backend and its options; of these only the backend changes scores."""

    name: str = HF
    """``hf`` or ``vllm``."""
    processes: int = 1
    """Processes that share the documents; ``hf`` only."""
    tensor_parallel_size: int = 1
    """GPUs that share the model; ``vllm`` only."""
    gpu_memory_utilization: float = 0.9
    """Fraction of a GPU's memory for weights and cache, in (0, 1]; ``vllm`` only."""

    def __post_init__(self) -> None:
        if self.name not in _ENTRIES:
            raise ValueError(
                f"evaluator.name must be one of {sorted(_ENTRIES)}, got {self.name!r}"
            )
        for key in ("processes", "tensor_parallel_size"):
            whole_number(f"evaluator.{key}", getattr(self, key), at_least=1)
        share = self.gpu_memory_utilization
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(
                f"evaluator.gpu_memory_utilization must be in (0, 1], got {share!r}"
            )

    @property
    def in_workers(self) -> bool:
        """True if models are scored in processes of their own."""
        return self.name != HF or self.processes > 1

    def lacking(self) -> str | None:
        """Say which package is absent and how to get it; None if it is there."""
        if find_spec(_PACKAGES[self.name]) is not None:
            return None
        return (
            f"evaluator={self.name} needs the package {_PACKAGES[self.name]}: "
            f"`pip install -e '.[{self.name}]'` in an environment without constraints.txt, or "
            f"leave evaluator={HF}"
        )

    def check_device(self, device: str) -> None:
        """Refuse a device that the backend cannot use, or too few GPUs.

        Args:
            device: ``cpu`` or ``cuda``.

        Raises:
            ValueError: If it cannot run there; says what to change.
        """
        key, n_gpus = "processes", self.processes
        if self.name != HF:
            key, n_gpus = "tensor_parallel_size", self.tensor_parallel_size
            if device == "cpu":
                raise ValueError(
                    f"evaluator={self.name} needs device=cuda, got device=cpu: set "
                    f"evaluator={HF}, or run where torch sees a GPU"
                )
        if device == "cpu" or n_gpus == 1:
            return
        import torch  # noqa: PLC0415 (tables of records are made without it)

        if n_gpus > (there := torch.cuda.device_count()):
            raise ValueError(
                f"evaluator.{key} must be at most the number of GPUs, {there}, got {n_gpus}"
            )

    def described(self, device: str) -> dict[str, Any]:
        """Entries of a record: backend, version of its package, device, GPUs or processes."""
        try:
            of_package = version(_PACKAGES[self.name])
        except PackageNotFoundError:
            of_package = None
        options = {key: getattr(self, key) for key in sorted(_ENTRIES[self.name])}
        return {
            "backend": self.name,
            "version": of_package,
            "device": _device_name(device),
            **options,
        }


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    import torch  # noqa: PLC0415 (tables of records are made without it)

    return torch.cuda.get_device_name(device)


def evaluator_from_config(mapping: Any) -> Evaluator:  # noqa: ANN401 (any YAML)
    """Build an evaluator from its YAML.

    Args:
        mapping: The parsed file of ``conf/evaluator``.

    Raises:
        ValueError: If the backend is unknown, an entry is not one of its own, or a value is out
            of range.
    """
    if not isinstance(mapping, Mapping) or "name" not in mapping:
        names = [field.name for field in fields(Evaluator)]
        raise ValueError(f"an evaluator is a mapping of entries from {names}, got {mapping!r}")
    evaluator = Evaluator(**{"name": mapping["name"]})
    known = {"name", *_ENTRIES[evaluator.name]}
    if unknown := sorted(mapping.keys() - known):
        raise ValueError(
            f"evaluator={evaluator.name}: unknown entries {unknown}, expected entries from "
            f"{sorted(known)}{did_you_mean(map(str, unknown), known)}"
        )
    return Evaluator(**mapping)

"""LoRA configurations: ranks and scalings of an adapter, unsupported features refused.

Hu et al., 2021, https://arxiv.org/abs/2106.09685, section 4.1: W + (alpha / r) B A.
Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732: rsLoRA, alpha / sqrt(r) instead.
The names are those of PEFT's ``adapter_config.json``.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from seme.checkpoint.module_patterns import ModulePatterns
from seme.checkpoint.regular_file import brief, shown

_T = TypeVar("_T")

_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
"""Entries about training, or about the choice of weights, which the adapter's file shows."""
_READ = frozenset(
    {
        "alpha_pattern",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "use_dora",
        "use_rslora",
    }
)
_BASE_UNTOUCHED = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Entries of an adapter's configuration that determine its weights."""

    rank: int
    alpha: float
    rank_pattern: ModulePatterns[int]
    """Regular expression of the end of a module's name to its rank; the first match wins."""
    alpha_pattern: ModulePatterns[float]
    rank_stabilised: bool
    """rsLoRA."""
    decomposed: bool
    """DoRA."""
    transposed: bool
    """True if linear weights are stored (inputs, outputs), as GPT-2's are."""

    def rank_of(self, module: str) -> int:
        """Return the rank of the factors of a module, given its name in the base model."""
        return self.rank_pattern.value_of(module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor s of s B A in a module."""
        rank, alpha = self.rank_of(module), self.alpha_pattern.value_of(module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON holds them; patterns in their order."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "rank_pattern": dict(self.rank_pattern.values),
            "alpha_pattern": dict(self.alpha_pattern.values),
            "rank_stabilised": self.rank_stabilised,
            "decomposed": self.decomposed,
            "transposed": self.transposed,
        }


def parse_lora_config(config: Mapping[str, Any]) -> LoraSettings:
    """Parse and check an adapter's configuration.

    Args:
        config: The parsed ``adapter_config.json``.

    Raises:
        ValueError: If it is no LoRA, or uses a feature that is not supported; names the entry.
    """
    _refuse_unsupported(config)
    return LoraSettings(
        rank=_positive_rank("r", config.get("r")),
        alpha=_number("lora_alpha", config.get("lora_alpha")),
        rank_pattern=_patterns("rank_pattern", config, _positive_rank),
        alpha_pattern=_patterns("alpha_pattern", config, _number),
        rank_stabilised=_switch("use_rslora", config),
        decomposed=_switch("use_dora", config),
        transposed=_switch("fan_in_fan_out", config),
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(
            f"peft_type must be LORA, got {shown(kind)}: merge it into its base first"
        )
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"bias must be 'none', got {shown(config['bias'])}: such an adapter changes its base "
            "even when it is switched off; merge it into its base first"
        )
    initial = config.get("init_lora_weights", True)
    if initial not in _BASE_UNTOUCHED:
        raise ValueError(
            f"init_lora_weights must be one of {_BASE_UNTOUCHED}, got {shown(initial)}: that "
            "changes the adapter's base; save it converted to a plain LoRA first (PEFT: "
            "save_pretrained(path_initial_model_for_weight_conversion=...))"
        )
    if config.get("use_dora") and config.get("fan_in_fan_out"):
        raise ValueError(
            "use_dora is not supported with fan_in_fan_out, where weights are stored (inputs, "
            "outputs): merge the adapter into its base first"
        )
    unknown = sorted(key for key in config.keys() - _READ - _WITHOUT_EFFECT if config[key])
    if unknown:
        raise ValueError(
            f"{brief(unknown[0])} is {shown(config[unknown[0]])}, which is not supported "
            "in adapters: merge it into its base first"
        )


def _switch(name: str, config: Mapping[str, Any]) -> bool:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return bool(value)


def _positive_rank(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {shown(value)}")
    return value


def _number(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a finite number, got {shown(value)}")
    return value  # type: ignore[return-value]


def _patterns(
    name: str, config: Mapping[str, Any], check: Callable[[str, object], _T]
) -> ModulePatterns[_T]:
    """Read a mapping of regular expressions to numbers; absent is empty."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{name} must map module names to numbers, got {shown(patterns)}")
    values = {
        pattern: check(f"{name}[{brief(pattern)}]", value)
        for pattern, value in patterns.items()
    }
    return ModulePatterns(name, values)

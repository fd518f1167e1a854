"""LoRA configurations: ranks and scalings of an adapter, unsupported features refused.

Hu et al., 2021, https://arxiv.org/abs/2106.09685, section 4.1: W + (alpha / r) B A.
Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732: rsLoRA, alpha / sqrt(r) instead.
The names are those of PEFT's ``adapter_config.json``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

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
    rank_pattern: Mapping[str, int]
    """Regular expression of the end of a module's name to its rank; the first match wins."""
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    """rsLoRA."""
    decomposed: bool
    """DoRA."""
    transposed: bool
    """True if linear weights are stored (inputs, outputs), as GPT-2's are."""

    def rank_of(self, module: str) -> int:
        """Return the rank of the factors of a module, given its name in the base model."""
        return _first_match(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor s of s B A in a module."""
        rank, alpha = self.rank_of(module), _first_match(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


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
        rank_stabilised=bool(config.get("use_rslora")),
        decomposed=bool(config.get("use_dora")),
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"peft_type must be LORA, got {kind!r}: merge it into its base first")
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"bias must be 'none', got {config['bias']!r}: such an adapter changes its base "
            "even when it is switched off; merge it into its base first"
        )
    initial = config.get("init_lora_weights", True)
    if initial not in _BASE_UNTOUCHED:
        raise ValueError(
            f"init_lora_weights must be one of {_BASE_UNTOUCHED}, got {initial!r}: that "
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
            f"{unknown[0]} is {config[unknown[0]]!r}, which is not supported in adapters: "
            "merge it into its base first"
        )


def _positive_rank(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _number(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return value  # type: ignore[return-value]


def _patterns(name: str, config: Mapping[str, Any], check: Any) -> dict[str, Any]:  # noqa: ANN401
    """Read a mapping of regular expressions to numbers; absent is empty."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{name} must map module names to numbers, got {patterns!r:.80}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{name} has the invalid regular expression {pattern!r}"
            ) from error
    return {pattern: check(f"{name}[{pattern}]", value) for pattern, value in patterns.items()}


def _first_match(patterns: Mapping[str, _T], module: str, default: _T) -> _T:
    """Return the value of the first pattern that a module's name, or its ending, matches."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default

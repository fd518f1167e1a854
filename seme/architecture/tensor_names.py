"""Names of tensors whatever the architecture: optional prefixes, wrappers, constants."""

import re
from collections.abc import Collection, Mapping, Sequence

_OPTIONAL = ("model.", "transformer.", "gpt_neox.", "rwkv.", "backbone.", "model.decoder.")
"""Prefixes of a model's body in transformers, which a body saved without its head lacks."""
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "data-parallel training",
    "model.language_model.": "a model of text and images",
    "language_model.": "a model of text and images",
}
"""Prefixes that something around a model adds to all its names, longer ones first."""
_CONSTANT = re.compile(
    r"(^|\.)(rotary\w*\.(\w*inv_freq|(cos|sin)_cached)|masked_bias|position_ids)$"
)
_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")


def is_constant(name: str, shape: Sequence[int]) -> bool:
    """Return True for a buffer that old checkpoints hold and no training changes.

    They are rotary frequencies, position ids, causal masks, (1, 1, positions, positions), and
    the number that masks, which is an infinity in float16.
    """
    is_mask = _MASK.search(name) is not None and len(shape) == 4 and tuple(shape[:2]) == (1, 1)
    return is_mask or _CONSTANT.search(name) is not None


def names_as_in(pivot: Collection[str], source: Collection[str]) -> Mapping[str, str]:
    """Match a source's names with the pivot's where one of the two lacks an optional prefix.

    Returns:
        The source's name by the pivot's, for every tensor of the source; a name that no prefix
        turns into one of the pivot's stands for itself.
    """
    best = {name: name for name in source}
    for prefix in _OPTIONAL:
        longer = {f"{prefix}{n}" if f"{prefix}{n}" in pivot else n: n for n in source}
        shorter = {
            n.removeprefix(prefix) if n.removeprefix(prefix) in pivot else n: n for n in source
        }
        for renamed in (longer, shorter):
            is_whole = len(renamed) == len(best)  # no two names became one
            if is_whole and _n_common(renamed, pivot) > _n_common(best, pivot):
                best = renamed
    return best


def _n_common(names: Mapping[str, str], others: Collection[str]) -> int:
    return sum(name in others for name in names)


def advice_on_wrapper(names: Collection[str], folder: object) -> str:
    """Return how to strip the prefix of a wrapper from a checkpoint's names; '' without one."""
    for prefix, wrapper in _WRAPPERS.items():
        if any(name.startswith(prefix) for name in names):
            return (
                f"; names in {folder} begin with {prefix}, the prefix of {wrapper}: strip it, "
                "keeping only the language model, into a new folder with the configuration of "
                "that model:\n"
                '  python -c "from safetensors.torch import load_file, save_file; '
                f"w = load_file('{folder}/model.safetensors'); save_file({{n.removeprefix("
                f"'{prefix}'): t for n, t in w.items() if n.startswith('{prefix}')}}, "
                "'NEW/model.safetensors', {'format': 'pt'})\""
            )
    return ""

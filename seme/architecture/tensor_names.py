"""Names of tensors whatever the architecture: optional prefixes, wrappers, constants."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
_LAYER = re.compile(r"(?:^|(?<=\.))(\d+)(?=\.)")
"""The first number in a tensor's name, as in ``model.layers.3.mlp.up_proj.weight``."""
_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")


def is_constant(name: str, shape: Sequence[int]) -> bool:
    """Return True for a buffer that old checkpoints hold and no training changes.

    They are rotary frequencies, position ids, causal masks, (1, 1, positions, positions), and
    the number that masks, which is an infinity in float16.
    """
    is_mask = _MASK.search(name) is not None and len(shape) == 4 and tuple(shape[:2]) == (1, 1)
    return is_mask or _CONSTANT.search(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlace:
    """Place of a tensor in a stack of layers."""

    stack: str
    """What the name begins with, up to the number of the layer."""
    layer: int
    n_layers: int
    """Layers of the stack."""
    rest: str
    """What follows the number."""

    def name_in(self, layer: int) -> str:
        """Return the name of the same tensor in another layer."""
        return f"{self.stack}{layer}{self.rest}"


def layer_places(names: Iterable[str]) -> dict[str, LayerPlace]:
    """Find the layer of every tensor that is in one; stacks are told apart by their prefix."""
    matches = {name: match for name in names if (match := _LAYER.search(name))}
    counts: dict[str, int] = defaultdict(int)
    for name, match in matches.items():
        stack = name[: match.start()]
        counts[stack] = max(counts[stack], int(match[1]) + 1)
    return {
        name: LayerPlace(
            stack=name[: match.start()],
            layer=int(match[1]),
            n_layers=counts[name[: match.start()]],
            rest=name[match.end() :],
        )
        for name, match in matches.items()
    }


def stacked_names(names: Iterable[str], n_layers: int, chosen: Sequence[int]) -> dict[str, str]:
    """Name the tensors of a model whose layers are stacked anew.

    Args:
        names: Of the model's tensors.
        n_layers: Number of its layers.
        chosen: The layers from the bottom, in any order, some several times or never.

    Returns:
        The tensors' own names by the new ones.

    Raises:
        ValueError: If not exactly one stack has that many layers.
    """
    own = tuple(names)
    places = {n: p for n, p in layer_places(own).items() if p.n_layers == n_layers}
    if len({place.stack for place in places.values()}) != 1:
        raise ValueError(
            f"layers can be stacked where one stack has the model's {n_layers} layers"
        )
    return {name: name for name in own if name not in places} | {
        place.name_in(new): name
        for new, layer in enumerate(chosen)
        for name, place in places.items()
        if place.layer == layer
    }


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

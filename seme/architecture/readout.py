"""Where a model's output head and final norm stand, in any architecture (ours)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """The end of a model: logits = norm(h) diag(gain) H^T."""

    head: str
    """Name of the output head H; the embedding where the two are tied."""
    norm: str
    """Name of the final norm's stored gain."""
    gain_offset: float
    """What is added to the stored gain: 1 where the convention is 1 + g, else 0."""
    tied: bool
    """Whether the head is the embedding."""


_ENDS = (
    ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"),
    ("lm_head.weight", "model.embed_tokens.weight", "model.final_layernorm.weight"),
    ("lm_head.weight", "transformer.wte.weight", "transformer.ln_f.weight"),
    ("lm_head.weight", "wte.weight", "ln_f.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"),
)
_OFFSET_GAINS = ("gemma", "gemma2", "gemma3", "gemma3_text", "qwen3_next")


def readout_of(config: Mapping[str, Any], names: Sequence[str]) -> Readout:
    """Find the output head and the final norm; any architecture in which they can be found.

    Args:
        config: The model's configuration; ``tie_word_embeddings`` and ``model_type`` are read.
        names: Names of the tensors on disk; a missing head means that it is tied.

    Raises:
        ValueError: If the final norm and the embedding stand under no name known here.
    """
    for head, embedding, norm in _ENDS:
        if {embedding, norm} <= set(names):
            tied = bool(config.get("tie_word_embeddings")) or head not in names
            offset = 1.0 if config.get("model_type") in _OFFSET_GAINS else 0.0
            name = embedding if tied else head
            return Readout(head=name, norm=norm, gain_offset=offset, tied=tied)
    pairs = [(embedding, norm) for _, embedding, norm in _ENDS]
    raise ValueError(
        f"semantic bases need the output head behind the final norm: one of {pairs} was expected "
        f"in the checkpoint (model_type {config.get('model_type')!r}), which begins with "
        f"{sorted(names)[:3]}; add its names to seme/architecture/readout.py"
    )

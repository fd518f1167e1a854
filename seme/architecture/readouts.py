"""LM head and final norm of a model, for architectures without a table of parts as well.

Semantic bases need these two only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seme.architecture.families import OFFSET_GAINS
from seme.architecture.tensor_names import advice_on_wrapper

_READOUTS = (
    ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"),
    ("lm_head.weight", "model.embed_tokens.weight", "model.final_layernorm.weight"),
    ("lm_head.weight", "transformer.wte.weight", "transformer.ln_f.weight"),
    ("lm_head.weight", "wte.weight", "ln_f.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"),
    ("lm_head.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"),
)
"""Names of LM head, embedding and final norm, by architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """LM head and final norm of a model: logits = norm(h) diag(gain) H^T."""

    head: str
    """Name of the LM head H; of the embedding if the two are tied."""
    norm: str
    """Name of the final norm's gain."""
    gain_offset: float
    """Added to the stored gain: 1 if the norm multiplies by 1 + g, else 0."""
    tied: bool
    """True if the LM head is the embedding."""


def readout_of(config: Mapping[str, Any], names: Sequence[str]) -> Readout:
    """Return LM head and final norm; works for architectures without a table as well.

    Args:
        config: The model's configuration; ``tie_word_embeddings`` and ``model_type`` are read.
        names: Names of the tensors on disk; without an LM head among them it is tied.

    Raises:
        ValueError: If embedding or final norm is under none of the known names.
    """
    for head, embedding, norm in _READOUTS:
        if {embedding, norm} <= set(names):
            tied = bool(config.get("tie_word_embeddings")) or head not in names
            offset = 1.0 if config.get("model_type") in OFFSET_GAINS else 0.0
            name = embedding if tied else head
            return Readout(head=name, norm=norm, gain_offset=offset, tied=tied)
    advice = advice_on_wrapper(names, "it") or "; add it to seme/architecture/readouts.py"
    raise ValueError(
        f"semantic bases need embedding and final norm: one of {[r[1:] for r in _READOUTS]} was "
        f"expected in the checkpoint (model_type {config.get('model_type')!r}), whose tensors "
        f"begin with {sorted(names)[:3]}{advice}"
    )

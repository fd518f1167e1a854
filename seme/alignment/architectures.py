"""Architectures a source may have: the pivot's own must be able to compute the same function."""

from seme.architecture.config_json import activation
from seme.architecture.model import Anatomy
from seme.architecture.parts import Part, Place

_BIASES = (
    Part.Q_BIAS,
    Part.K_BIAS,
    Part.V_BIAS,
    Part.GATE_BIAS,
    Part.UP_BIAS,
    Part.O_BIAS,
    Part.DOWN_BIAS,
)


def check_comparable(pivot: Anatomy, source: Anatomy) -> None:
    """Refuse a source whose function the pivot's architecture cannot express.

    Raises:
        ValueError: If the two differ in the kind or the places of norms, in the MLP's gate or
            activation, in the norms of queries and keys or the size of heads under them, or in
            how positions enter; or if the source has a bias that the pivot has no place for.
    """
    for name, of_pivot, of_source in (
        ("norm", pivot.family.norm, source.family.norm),
        ("norms per block", _norms(pivot), _norms(source)),
        ("MLP", _mlp(pivot), _mlp(source)),
        ("activation", activation(pivot.weights.config), activation(source.weights.config)),
        ("norm of queries and keys", pivot.family.qk_norm, source.family.qk_norm),
        ("positions", pivot.family.positions, source.family.positions),
        ("blocks", _blocks(pivot), _blocks(source)),
    ):
        if of_pivot != of_source:
            raise ValueError(
                f"{name}: the pivot ({pivot.family.model_type}) has {of_pivot}, the source "
                f"({source.family.model_type}) has {of_source}; the pivot's architecture cannot "
                "compute what the source's does: choose models of one kind"
            )
    _check_normed_heads(pivot, source)
    extra = [
        part
        for part in _BIASES
        if Place(part, 0) in source.places and Place(part, 0) not in pivot.places
    ]
    if extra:
        raise ValueError(
            f"the source has {', '.join(extra)}, which the pivot ({pivot.family.model_type}) has "
            "no place for: use the source as the pivot"
        )


def _check_normed_heads(pivot: Anatomy, source: Anatomy) -> None:
    head_dim, source_head_dim = pivot.dimensions.head_dim, source.dimensions.head_dim
    if pivot.family.qk_norm != "none" and head_dim != source_head_dim:
        raise ValueError(
            f"queries and keys are normed: heads of {head_dim} dimensions were expected, as in "
            f"the pivot, the source has heads of {source_head_dim}, and no basis of one is one of "
            "the other; choose models with heads of one size"
        )


def _norms(model: Anatomy) -> str:
    """List the norms of a block."""
    norms = (
        Part.ATTENTION_NORM,
        Part.ATTENTION_POST_NORM,
        Part.MLP_NORM,
        Part.MLP_POST_NORM,
    )
    return ", ".join(norm for norm in norms if Place(norm, 0) in model.places)


def _mlp(model: Anatomy) -> str:
    return "a gate" if model.family.gated else "no gate"


def _blocks(model: Anatomy) -> str:
    return "attention and MLP in parallel" if model.family.parallel else "attention before MLP"

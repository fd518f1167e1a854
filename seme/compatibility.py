"""Compatibility checks between pivot and sources; include/exclude patterns."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from seme.architecture.computed_entries import DECISIVE, activation, computed_entries
from seme.architecture.model import CanonicalModel
from seme.architecture.parts import Part, Place
from seme.architecture.tensor_names import advice_on_wrapper, is_constant
from seme.checkpoint.lora import AdaptedCheckpoint, AnyCheckpoint
from seme.checkpoint.protocol import Weights, describe
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.regular_file import brief
from seme.interface import CheckpointMismatchError

_N_NAMED = 5
_BIASES = (
    Part.Q_BIAS,
    Part.K_BIAS,
    Part.V_BIAS,
    Part.GATE_BIAS,
    Part.UP_BIAS,
    Part.O_BIAS,
    Part.DOWN_BIAS,
)


def demand_same_tensors(
    pivot: Checkpoint,
    sources: Sequence[Weights],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> None:
    """Check that every source has the pivot's tensors, computing the same function.

    Args:
        pivot: The model merged into.
        sources: Models merged from.
        include: As for :func:`reasons_to_copy`; what is copied need not be in a source.
        exclude: Likewise.

    Raises:
        CheckpointMismatchError: If a source has :func:`differences`; the first five are listed.
    """
    for i, source in enumerate(sources):
        mismatches = differences(pivot, source, include=include, exclude=exclude)
        if mismatches:
            first = "\n".join(f"  {line}" for line in mismatches[:_N_NAMED])
            rest = len(mismatches) - _N_NAMED
            raise CheckpointMismatchError(
                f"{describe(i, source)} does not fit the pivot ({pivot.path}), and this method "
                f"needs sources of the pivot's shape (method=seme maps others into it):\n{first}"
                + (f"\n  and {rest} more" if rest > 0 else "")
                + _advice_on_names(pivot, source)
            )


def _advice_on_names(pivot: Weights, source: Weights) -> str:
    """Say how to strip the prefix of a wrapper that only one of two models has."""
    advice = [advice_on_wrapper(model.names, model.path) for model in (source, pivot)]
    return "" if all(advice) else "".join(advice)


def tolerated_differences(pivot: Checkpoint, sources: Sequence[Weights]) -> list[str]:
    """List differing entries of config.json that do not stop a merge: RoPE, norms, factors.

    Fine-tunes with a longer context change the rotary embedding. The merged model computes with
    the pivot's entries.

    Returns:
        One line for each entry that differs, or that only one of the two models has.
    """
    return [
        f"{describe(i, source)}: config.json: {line}"
        for i, source in enumerate(sources)
        for line in _config_differences(pivot.config, source.config)[1]
    ]


def other_bases(sources: Sequence[AnyCheckpoint]) -> list[str]:
    """List the adapters that say they were trained on another base, one line each."""
    return [
        f"{describe(i, source)}: {source.other_base}"
        for i, source in enumerate(sources)
        if isinstance(source, AdaptedCheckpoint) and source.other_base is not None
    ]


def warnings_before(pivot: Checkpoint, sources: Sequence[Weights]) -> list[str]:
    """List what does not stop a merge but its user should know.

    Returns:
        One line for each of :func:`tolerated_differences`, and one for code of the pivot, which
        is never copied.
    """
    code = pivot.code_files()
    return [
        *(
            f"{line}; the merged model computes with the pivot's"
            for line in tolerated_differences(pivot, sources)
        ),
        *(
            f"{pivot.path} holds code ({', '.join(map(brief, code[:3]))}), which is not copied: "
            "if the model cannot be loaded without it and you trust it, copy it to the merged "
            "folder and load that with trust_remote_code"
            for _ in code[:1]
        ),
    ]


def differences(
    pivot: Weights,
    source: Weights,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[str]:
    """List the differences that make a source's tensors incompatible with the pivot's.

    Constants, and tensors that ``include`` and ``exclude`` leave out, are the pivot's anyway.

    Returns:
        One line for each tensor that one of the two lacks, or that has another shape or kind of
        dtype, and for each entry of config.json that makes it another architecture or divides
        its tensors into other heads; empty if the two are compatible. Dtypes may differ.
    """
    decisive, _ = _config_differences(pivot.config, source.config)
    lines = [f"config.json: {line}" for line in decisive]
    pivot_names, source_names = set(pivot.names), set(source.names)
    for name in sorted(pivot_names | source_names):
        shape = (pivot if name in pivot_names else source).shape(name)
        if _left_out(name, shape, include, exclude) is None:
            lines += _tensor_differences(
                name,
                pivot if name in pivot_names else None,
                source if name in source_names else None,
            )
    return lines


def _tensor_differences(
    name: str, pivot: Weights | None, source: Weights | None
) -> Iterator[str]:
    """Yield what distinguishes a tensor of two models; None for one that lacks it."""
    if source is None and pivot is not None:
        yield f"{name}: shape {pivot.shape(name)} expected, missing in the source"
    elif pivot is None and source is not None:
        yield f"{name}: shape {source.shape(name)} found, missing in the pivot"
    elif pivot is not None and source is not None:
        expected, stored = pivot.dtype(name), source.dtype(name)
        if pivot.shape(name) != source.shape(name):
            yield f"{name}: shape {pivot.shape(name)} expected, {source.shape(name)} found"
        elif expected.is_floating_point != stored.is_floating_point:
            yield f"{name}: {expected} expected, {stored} found"


def _config_differences(
    pivot: Mapping[str, Any], source: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """List differing config entries: those that stop a merge, and those that do not."""
    pivot_entries, source_entries = computed_entries(pivot), computed_entries(source)
    decisive: list[str] = []
    tolerated: list[str] = []
    for key in sorted(pivot_entries.keys() | source_entries.keys()):
        expected, actual = pivot_entries.get(key), source_entries.get(key)
        if expected != actual:
            both_given = expected is not None and actual is not None
            lines = decisive if key in DECISIVE and both_given else tolerated
            lines.append(
                f"{key}: {_or_nothing(expected)} expected, {_or_nothing(actual)} found"
            )
    return decisive, tolerated


def _or_nothing(value: object) -> str:
    return "nothing" if value is None else str(value)


def check_comparable(pivot: CanonicalModel, source: CanonicalModel) -> None:
    """Refuse a source that the pivot's architecture cannot express after an alignment.

    Sizes may differ; the merged model computes with the pivot's architecture.

    Raises:
        ValueError: If the two differ in the kind or the places of norms, in the MLP's gate or
            activation, in the norms of queries and keys or the size of heads under them, or in
            how positions enter; or if the source has a bias that the pivot lacks.
    """
    for name, pivot_has, source_has in (
        ("norm", pivot.family.norm, source.family.norm),
        ("norms per block", _norms(pivot), _norms(source)),
        ("MLP", _mlp(pivot), _mlp(source)),
        ("activation", activation(pivot.weights.config), activation(source.weights.config)),
        ("norm of queries and keys", pivot.family.qk_norm, source.family.qk_norm),
        ("positions", pivot.family.positions, source.family.positions),
        ("blocks", _blocks(pivot), _blocks(source)),
    ):
        if pivot_has != source_has:
            raise ValueError(
                f"{name}: the pivot ({pivot.family.model_type}) has {pivot_has}, the source "
                f"({source.family.model_type}) has {source_has}; the pivot's architecture "
                "cannot compute what the source's does: choose models of one kind"
            )
    _check_normed_heads(pivot, source)
    extra = [
        part
        for part in _BIASES
        if Place(part, 0) in source.places and Place(part, 0) not in pivot.places
    ]
    if extra:
        raise ValueError(
            f"the source has {', '.join(extra)}, which the pivot ({pivot.family.model_type}) "
            "has no place for: use the source as the pivot"
        )


def _check_normed_heads(pivot: CanonicalModel, source: CanonicalModel) -> None:
    head_dim, source_head_dim = pivot.dimensions.head_dim, source.dimensions.head_dim
    if pivot.family.qk_norm != "none" and head_dim != source_head_dim:
        raise ValueError(
            f"queries and keys are normed: heads of {head_dim} dimensions were expected, as in "
            f"the pivot, the source has heads of {source_head_dim}; choose models with heads "
            "of one size"
        )


def _norms(model: CanonicalModel) -> str:
    """List the norms of a block."""
    norms = (
        Part.ATTENTION_NORM,
        Part.ATTENTION_POST_NORM,
        Part.MLP_NORM,
        Part.MLP_POST_NORM,
    )
    return ", ".join(norm for norm in norms if Place(norm, 0) in model.places)


def _mlp(model: CanonicalModel) -> str:
    return "a gate" if model.family.gated else "no gate"


def _blocks(model: CanonicalModel) -> str:
    return "attention and MLP in parallel" if model.family.parallel else "attention before MLP"


def reasons_to_copy(
    pivot: Checkpoint, include: Sequence[str], exclude: Sequence[str]
) -> dict[str, str]:
    """List the tensors that are copied from the pivot instead of merged.

    Args:
        pivot: The model merged into.
        include: Glob patterns; if there are any, only matching tensors are merged.
        exclude: Glob patterns of tensors that are not merged, even if ``include`` matches.

    Returns:
        Tensor name to reason.

    Raises:
        ValueError: If a pattern matches no tensor, or no tensor is left to merge.
    """
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in pivot.names):
            raise ValueError(
                f"the pattern {pattern!r} matches no tensor of {pivot.path}; its tensors are "
                f"named like {', '.join(pivot.names[:3])}"
            )
    reasons = {name: _reason(pivot, name, include, exclude) for name in pivot.names}
    copied = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(copied) == len(reasons):
        raise ValueError(
            f"no tensor of {pivot.path} is left to merge: loosen include {list(include)} or "
            f"exclude {list(exclude)}"
        )
    return copied


def _reason(
    pivot: Checkpoint, name: str, include: Sequence[str], exclude: Sequence[str]
) -> str | None:
    """Return the reason why a tensor is copied; None if it is merged."""
    if not pivot.dtype(name).is_floating_point:
        return f"not floating point ({str(pivot.dtype(name)).removeprefix('torch.')})"
    return _left_out(name, pivot.shape(name), include, exclude)


def _left_out(
    name: str, shape: Sequence[int], include: Sequence[str], exclude: Sequence[str]
) -> str | None:
    """Return the reason why a tensor is the pivot's whatever the sources hold; None without."""
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return f"excluded by {pattern}"
    if include and not any(fnmatchcase(name, pattern) for pattern in include):
        return "not matched by include"
    return "constant" if is_constant(name, shape) else None


def refuse_float64(pivot: Checkpoint, merged: Sequence[str], dtype: torch.dtype | None) -> None:
    """Refuse to merge into float64: merges compute in float32, which would not show.

    Raises:
        ValueError: If a tensor to be merged is float64 in the pivot, and so in the output.
    """
    wide = [name for name in merged if pivot.dtype(name) == torch.float64]
    if wide and dtype is None:
        raise ValueError(
            f"{len(wide)} tensors of the pivot {pivot.path} are float64, {wide[0]} for one, but "
            "merges compute in float32: set dtype=float32, or exclude these tensors"
        )

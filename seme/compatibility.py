"""Before a merge: do the models hold the same tensors, and which of them are to be merged?"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from seme.architecture.config_json import DECISIVE, computed_entries
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Weights, describe
from seme.checkpoint.reader import Checkpoint
from seme.interface import CheckpointMismatchError

_N_NAMED = 5


def demand_same_tensors(pivot: Checkpoint, sources: Sequence[AnyCheckpoint]) -> None:
    """Check that every source has the pivot's tensors: names, shapes and what they mean.

    Raises:
        CheckpointMismatchError: If a source is not laid out like the pivot, see
            :func:`differences`; the first few are named.
    """
    for i, source in enumerate(sources):
        found = differences(pivot, source)
        if found:
            shown = "\n".join(f"  {line}" for line in found[:_N_NAMED])
            rest = len(found) - _N_NAMED
            raise CheckpointMismatchError(
                f"{describe(i, source)} does not fit the pivot ({pivot.path}), and this method "
                f"needs sources of the pivot's shape:\n{shown}"
                + (f"\n  and {rest} more" if rest > 0 else "")
            )


def tolerated_differences(pivot: Checkpoint, sources: Sequence[AnyCheckpoint]) -> list[str]:
    """Find the entries of config.json that differ and change what equal tensors compute.

    The rotary embedding and the activation: fine-tunes with a longer context change the first.
    The result computes with the pivot's.

    Returns:
        One line for each entry that differs, or that only one of the two states.
    """
    return [
        f"{describe(i, source)}: config.json: {line}"
        for i, source in enumerate(sources)
        for line in _config_differences(pivot.config, source.config)[1]
    ]


def differences(pivot: Weights, source: Weights) -> list[str]:
    """Say in one line each how a source is not laid out like the pivot; dtypes may differ.

    Returns:
        Tensors that one of the two lacks, or that are of another shape or kind, and the entries
        of config.json by which it is of another architecture or cuts its tensors into other
        heads; none where every tensor of the source means what the pivot's means.
    """
    decisive, _ = _config_differences(pivot.config, source.config)
    return [f"config.json: {line}" for line in decisive] + _tensor_differences(pivot, source)


def _tensor_differences(pivot: Weights, source: Weights) -> list[str]:
    """Say in one line each how a source's tensors differ from the pivot's."""
    found: list[str] = []
    ours, theirs = set(pivot.names), set(source.names)
    for name in sorted(ours | theirs):
        if name not in theirs:
            found.append(f"{name}: shape {pivot.shape(name)} expected, missing in the source")
        elif name not in ours:
            found.append(f"{name}: shape {source.shape(name)} found, missing in the pivot")
        elif pivot.shape(name) != source.shape(name):
            found.append(
                f"{name}: shape {pivot.shape(name)} expected, {source.shape(name)} found"
            )
        elif pivot.dtype(name).is_floating_point != source.dtype(name).is_floating_point:
            found.append(f"{name}: {pivot.dtype(name)} expected, {source.dtype(name)} found")
    return found


def _config_differences(
    pivot: Mapping[str, Any], source: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Say how configurations differ in what equal tensors mean: decisively, and tolerably."""
    expected, found = computed_entries(pivot), computed_entries(source)
    decisive: list[str] = []
    tolerated: list[str] = []
    for key in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(key), found.get(key)
        if ours != theirs:
            stated = ours is not None and theirs is not None
            lines = decisive if key in DECISIVE and stated else tolerated
            lines.append(f"{key}: {_shown(ours)} expected, {_shown(theirs)} found")
    return decisive, tolerated


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


def reasons_to_copy(
    pivot: Checkpoint, include: Sequence[str], exclude: Sequence[str]
) -> dict[str, str]:
    """Find the tensors that are copied from the pivot instead of merged.

    Args:
        pivot: The model merged into.
        include: Glob patterns; where there are any, only matching tensors are merged.
        exclude: Glob patterns of tensors that are not merged; they win over ``include``.

    Returns:
        Name to reason, for the tensors to copy.

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
    """Say why a tensor is copied; None where it is merged."""
    if not pivot.dtype(name).is_floating_point:
        return f"not floating point ({str(pivot.dtype(name)).removeprefix('torch.')})"
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return f"excluded by {pattern}"
    if include and not any(fnmatchcase(name, pattern) for pattern in include):
        return "not matched by include"
    return None

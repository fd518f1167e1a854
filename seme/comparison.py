"""Before a merge: do the models hold the same tensors, and which of them are to be merged?"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from seme.checkpoint import Checkpoint
from seme.types import CheckpointMismatchError

_N_NAMED = 5


def compare(pivot: Checkpoint, sources: Sequence[Checkpoint]) -> None:
    """Check that every source has the pivot's tensors, in name and shape; dtypes may differ.

    Args:
        pivot: The model merged into.
        sources: The models merged from.

    Raises:
        CheckpointMismatchError: If a source lacks a tensor of the pivot, has one more, or has
            one of another shape or kind; the first few are named.
    """
    for i, source in enumerate(sources):
        differences = _differences(pivot, source)
        if differences:
            shown = "\n".join(f"  {line}" for line in differences[:_N_NAMED])
            rest = len(differences) - _N_NAMED
            raise CheckpointMismatchError(
                f"{describe(i, source)} does not fit the pivot ({pivot.path}), and this method "
                f"needs sources of the pivot's shape:\n{shown}"
                + (f"\n  and {rest} more" if rest > 0 else "")
            )


def describe(index: int, source: Checkpoint) -> str:
    """Name a source in a message: its place in the configuration and its folder."""
    return f"source {index} ({source.path})"


def _differences(pivot: Checkpoint, source: Checkpoint) -> list[str]:
    """Say in one line each how a source's tensors differ from the pivot's."""
    found: list[str] = []
    for name in sorted({*pivot.names, *source.names}):
        if name not in source.names:
            found.append(f"{name}: shape {pivot.shape(name)} expected, missing in the source")
        elif name not in pivot.names:
            found.append(f"{name}: shape {source.shape(name)} found, missing in the pivot")
        elif pivot.shape(name) != source.shape(name):
            found.append(
                f"{name}: shape {pivot.shape(name)} expected, {source.shape(name)} found"
            )
        elif pivot.dtype(name).is_floating_point != source.dtype(name).is_floating_point:
            found.append(f"{name}: {pivot.dtype(name)} expected, {source.dtype(name)} found")
    return found


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

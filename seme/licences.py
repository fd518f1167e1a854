"""Licences of a pool's models, and access to them: what the plan says of both."""

from collections.abc import Mapping, Sequence
from typing import Any

_FORBID_COMMERCE = frozenset({"qwen-research"})
_UNKNOWN = "not stated"


def check_terms(entry: Mapping[str, Any]) -> None:
    """Check the terms of use of a model's entry.

    Args:
        entry: May have ``licence``, its id as the Hub writes it, such as ``apache-2.0``, and
            ``gated``, true if the Hub delivers the model only to accounts that accepted its
            terms.

    Raises:
        ValueError: If one has another type.
    """
    licence, gated = entry.get("licence"), entry.get("gated")
    if licence is not None and (not isinstance(licence, str) or not licence.strip()):
        raise ValueError(f"licence must be an id such as apache-2.0, got {licence!r:.80}")
    if gated is not None and not isinstance(gated, bool):
        raise ValueError(f"gated must be true or false, got {gated!r:.80}")


def describe_terms(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Describe the terms of use of a pool, for its plan.

    Licences are those that the pool's file states; nothing is looked up.

    Args:
        entries: Name and entry of each model.

    Returns:
        No line if no entry states a term. Else one with all licences, and one each for models
        whose licence forbids derivatives (a merge is one), for those whose licence forbids
        commercial use, and for gated ones.
    """
    if not any(key in entry for _, entry in entries for key in ("licence", "gated")):
        return []
    by_licence: dict[str, list[str]] = {}
    for name, entry in entries:
        by_licence.setdefault(entry.get("licence") or _UNKNOWN, []).append(name)
    stated = sorted(by_licence, key=lambda licence: (licence == _UNKNOWN, licence))
    lines = ["licences: " + "; ".join(f"{key}: {', '.join(by_licence[key])}" for key in stated)]
    for forbids, told in (
        (_forbids_derivatives, "FORBIDS MERGING: its licence allows no derivatives"),
        (_forbids_commerce, "no commercial use: its licence forbids it, and so the merge's"),
    ):
        lines += [
            f"{name} ({licence}): {told}"
            for licence in stated
            if forbids(licence)
            for name in by_licence[licence]
        ]
    gated = [
        str(entry.get("location") or entry.get("path_to_adapter"))
        for _, entry in entries
        if entry.get("gated")
    ]
    if gated:
        lines.append(
            f"gated: {', '.join(gated)}: accept the terms on the model's page of the Hub, and "
            "log in with `hf auth login`"
        )
    return lines


def _forbids_derivatives(licence: str) -> bool:
    return "nd" in licence.casefold().split("-")


def _forbids_commerce(licence: str) -> bool:
    return "nc" in licence.casefold().split("-") or licence.casefold() in _FORBID_COMMERCE

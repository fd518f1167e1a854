"""Licences of a pool's models and access to them, for the plan and for the cards of merges."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seme.checkpoint.regular_file import find_file, read_part
from seme.yaml_events import texts_of_mapping

_FORBID_COMMERCE = frozenset({"qwen-research"})
_UNKNOWN = "not stated"
_HUB_LICENCES = (
    "apache-2.0 mit isc zlib unlicense ncsa postgresql ms-pl wtfpl openrail openrail++ afl-3.0 "
    "bigscience-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m creativeml-openrail-m "
    "artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda ecl-2.0 "
    "cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 "
    "cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 "
    "epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 "
    "lgpl-3.0 lppl-1.3c mpl-2.0 odc-by odbl osl-3.0 ofl-1.1 pddl lgpl-lr gemma llama2 llama3 "
    "llama3.1 llama3.2 llama3.3 llama4 apple-ascl apple-amlr intel-research h-research"
)
HUB_LICENCES = frozenset(_HUB_LICENCES.split())
"""Ids that a card's ``license`` may have (documentation of the Hub, "Licenses"); any other licence
is ``other``, with a name."""
_CARD = "README.md"
_MAX_CARD_BYTES = 100_000
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_ID = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}")


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
    lines += forbidding_terms(entries)
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


def forbidding_terms(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Describe licences that forbid derivatives (a merge is one) or commercial use.

    Args:
        entries: Name and entry of each model.

    Returns:
        A line for each model and thing that its licence forbids.
    """
    stated = [(name, str(e["licence"])) for name, e in entries if e.get("licence")]
    return [
        f"{name} ({licence}): {consequence}"
        for forbids, consequence in (
            (_forbids_derivatives, "FORBIDS MERGING: its licence allows no derivatives"),
            (
                _forbids_commerce,
                "no commercial use: its licence forbids it, and so the merge's",
            ),
        )
        for name, licence in sorted(stated, key=lambda pair: pair[1])
        if forbids(licence)
    ]


def _forbids_derivatives(licence: str) -> bool:
    return "nd" in licence.casefold().split("-")


def _forbids_commerce(licence: str) -> bool:
    return "nc" in licence.casefold().split("-") or licence.casefold() in _FORBID_COMMERCE


def licence_of_card(folder: Path) -> str | None:
    """Read the licence that a model's card states: its metadata's ``license``.

    Of ``other`` it is ``license_name``, where there is one. Only the first 100 kB are read.

    Args:
        folder: The model's folder, which nobody vouches for.

    Returns:
        The id, such as ``apache-2.0``; None if there is no card, or it states none that is an
        id.
    """
    try:
        card = find_file(folder, _CARD)
        text = b"" if card is None else read_part(card, 0, _MAX_CARD_BYTES)[0]
        front_matter = _FRONT_MATTER.match(text.decode("utf-8", errors="replace"))
        metadata = {} if front_matter is None else texts_of_mapping(front_matter[1])
    except (ValueError, yaml.YAMLError):  # a card is no part of a model
        return None
    licence = metadata.get("license")
    if licence == "other":
        licence = metadata.get("license_name", licence)
    return licence if licence is not None and _ID.fullmatch(licence) else None

"""The base that an adapter names, against the base it is given."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


def disagreement(
    config: Mapping[str, Any], base: str | Path, revision: str | None, *, root: Path
) -> str | None:
    """Say that an adapter was trained on another base than the one it is given.

    Names can be compared where both are Hub ids (of a folder in the Hub's cache, its
    repository's); a folder that is not such a snapshot may be a copy of any model. Shapes are
    compared when the adapter is read, and refused if they differ.

    Args:
        config: The parsed ``adapter_config.json``.
        base: The base given: a folder, relative to ``root`` or absolute, or a Hub id.
        revision: Branch, tag or commit given for it.
        root: Folder that relative paths start from.

    Returns:
        What differs, for a warning; None if nothing does, or it cannot be told.
    """
    named, given = config.get("base_model_name_or_path"), _hub_id(base, root)
    if not isinstance(named, str) or given is None:
        return None
    trained_on = _hub_id(named, root)
    if trained_on is None:
        return None
    if trained_on.casefold() != given.casefold():
        return (
            f"the adapter was trained on {trained_on}, as its adapter_config.json says, and is "
            f"applied to {given}: its changes fit weights that may not be there; give it its "
            "own base, unless the two are copies of one model"
        )
    trained_at = config.get("revision")
    if isinstance(trained_at, str) and revision is not None and trained_at != revision:
        return (
            f"the adapter was trained on revision {trained_at} of {trained_on}, as its "
            f"adapter_config.json says, and is applied to revision {revision}"
        )
    return None


def _hub_id(location: str | Path, root: Path) -> str | None:
    """Return the Hub id of a model: as given, or of its folder in the Hub's cache."""
    if isinstance(location, str) and _HUB_ID.fullmatch(location):
        return None if (root / location).is_dir() else location
    for part in Path(location).parts:
        if cached := _CACHED.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    return None

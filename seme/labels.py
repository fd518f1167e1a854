"""Labels of models: short names, safe in the names of files, and different for different models."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LONGEST = 60
"""Characters of a label that is made from a folder's name."""
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is, and the name it was given."""

    given: str | None
    """Name in the configuration; None: it is made from the location."""
    location: str
    revision: str | None


def labels_of(places: Sequence[Place]) -> list[str]:
    """Label the models of a pool.

    A label that is not given is the last part of the location, with the parts before it as far
    as different models would have the same, then with the revision.

    Args:
        places: The models; one may be there more than once.

    Returns:
        A label for each, in their order.

    Raises:
        ValueError: If a given name cannot be that of a file, or several models are given one.
    """
    for place in places:
        check_label(place)
    models = list(dict.fromkeys(places))
    n_parts = dict.fromkeys(models, 1)
    deepest = max(len(Path(place.location).parts) for place in models)
    for _ in range(deepest):
        labels = {place: _label(place, n) for place, n in n_parts.items()}
        for place in _alike(labels):
            n_parts[place] += place.given is None
    for place in _alike(labels):
        if place.given is None:
            text = f"{place.location}@{place.revision}"
            labels[place] = f"{labels[place]}-{place.revision or _digest(text)}"
            labels[place] = _UNSAFE.sub("-", labels[place])[-_LONGEST:].lstrip("._-")
    if alike := _alike(labels):
        locations = sorted(place.location for place in alike)
        raise ValueError(
            f"several models are named {labels[alike[0]]}: {', '.join(locations)}; give each a "
            "name of its own, {name: ..., location: ...}"
        )
    return [labels[place] for place in places]


def stacked_label(location: str, layers: Sequence[Sequence[int]]) -> str:
    """Label a model of stacked layers: name, number of layers, hash of place and ranges."""
    n_layers = sum(end - first for first, end in layers)
    stem = _UNSAFE.sub("-", Path(location).name)[:_LONGEST].lstrip("._-") or "model"
    digest = _digest(f"{location} {[list(part) for part in layers]}")
    return f"{stem}-{n_layers}-layers-{digest}"


def check_label(place: Place) -> None:
    """Check a given name.

    Raises:
        ValueError: If it is no text that can be the name of a file.
    """
    name = place.given
    if name is not None and not (isinstance(name, str) and _SAFE.fullmatch(name)):
        raise ValueError(
            "a model's name holds at most 100 letters from A to Z, digits, '.', '_' and '-', and "
            f"starts with one of the first two; got {name!r:.120}: give {{name: ..., location: "
            f"{place.location}}}"
        )


def _label(place: Place, n_parts: int) -> str:
    """Make a label of the last parts of a location; other letters leave a hash in their place."""
    if place.given is not None:
        return place.given
    parts = [part for part in Path(place.location).parts if part not in ("/", ".", "..", "~")]
    name = "-".join(parts[-n_parts:])
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    label = _UNSAFE.sub("-", ascii_name).lstrip("._-")
    if not label or len(unicodedata.normalize("NFC", name)) > len(ascii_name):
        label = f"{label or 'model'}-{_digest(name)}"
    if len(label) > _LONGEST:
        label = f"{label[: _LONGEST - 7]}-{_digest(name)}"
    return label


def _alike(labels: dict[Place, str]) -> list[Place]:
    """List models whose label another has; equal locations and revisions are one model."""
    n_models = Counter(
        label for label, *_ in {(label, p.location, p.revision) for p, label in labels.items()}
    )
    return [place for place, label in labels.items() if n_models[label] > 1]


def _digest(text: str) -> str:
    """Six hexadecimal digits of a text."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:6]

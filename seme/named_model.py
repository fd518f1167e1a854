"""A model of a pool, opened and named: its headers are read, its weights are not."""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seme.checkpoint.gguf_conversion import origin_of
from seme.checkpoint.lora import AdaptedCheckpoint, AnyCheckpoint, open_adapter
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.stacked import StackedCheckpoint
from seme.pool import BASE, place_of

Opener = Callable[..., Checkpoint]
"""Opens a model; called as :func:`seme.checkpoint.opening.open_model` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """An opened model of a pool: headers are read, weights are not."""

    name: str
    location: str
    """Folder, relative to the repository or to ``~`` if it is in one of them, or hub id; the
    adapter's where there is one."""
    revision: str | None
    """Revision of that location, as configured."""
    checkpoint: AnyCheckpoint
    base: "NamedModel | None" = None
    """Model that a source was fine-tuned from, where it is not the pivot; no adapter."""

    @property
    def own_base(self) -> Checkpoint | None:
        """Checkpoint of the base of its own, if it has one."""
        if self.base is None:
            return None
        assert isinstance(self.base.checkpoint, Checkpoint), "bases are opened whole"
        return self.base.checkpoint

    def described(self) -> dict[str, Any]:
        """Name, location, revision, commit on the Hub and content hash, for the record.

        A model converted from GGUF, or on such a base, has ``dequantised_from`` as well, one
        of stacked layers ``layers``, a source with a base of its own ``base``.
        """
        base = self.checkpoint.base if isinstance(self.checkpoint, AdaptedCheckpoint) else None
        origin = origin_of((base or self.checkpoint).path)
        layers = getattr(self.checkpoint, "layers", None)
        return {
            "name": self.name,
            "location": self.location,
            "revision": self.revision,
            "commit": self.checkpoint.commit,
            "base_commit": None if base is None else base.commit,
            "content_hash": self.checkpoint.content_hash(),
            **({} if origin is None else {"dequantised_from": origin}),
            **({} if layers is None else {"layers": [list(part) for part in layers]}),
            **({} if self.base is None else {"base": self.base.described()}),
        }


def open_named(entry: Mapping[str, Any], label: str, root: Path, opener: Opener) -> NamedModel:
    """Open a model of a pool, and what it was fine-tuned from.

    Args:
        entry: Of the pool, written out in full.
        label: Its name.
        root: Folder that relative locations start from.
        opener: Opens the checkpoints that are no adapters.

    Raises:
        ValueError: If one cannot be opened; says where it was looked for.
    """
    place = place_of(entry, root)
    is_adapter = entry.get("path_to_adapter") is not None
    with _saying_where(place.location, root):
        checkpoint = (
            _open_adapted(entry, root) if is_adapter else _open_whole(entry, root, opener)
        )
    base = entry.get(BASE)
    return NamedModel(
        name=label,
        location=place.location,
        revision=place.revision,
        checkpoint=checkpoint,
        base=None if base is None else _open_base(base, label, root, opener),
    )


def _open_base(entry: Mapping[str, Any], label: str, root: Path, opener: Opener) -> NamedModel:
    """Open what a source was fine-tuned from."""
    try:
        return open_named(entry, f"base of {label}", root, opener)
    except ValueError as error:
        error.add_note(f"while opening the base of {label}")
        raise


@contextmanager
def _saying_where(location: str, root: Path) -> Iterator[None]:
    """Say where a relative location is looked for, if there is nothing."""
    try:
        yield
    except ValueError as error:
        relative = not Path(location).expanduser().is_absolute()
        if relative and not (root / location).exists():
            here = Path(os.environ.get("PWD", "")) / location
            hint = f"; did you mean {here}?" if here.is_dir() else _nearest(location, root)
            error.add_note(f"relative folders are looked for in {root}{hint}")
        raise


def _nearest(location: str, root: Path) -> str:
    """Say which folder beside an absent one was probably meant."""
    place = Path(location)
    beside = [path.name for path in (root / place.parent).glob("*") if path.is_dir()]
    near = difflib.get_close_matches(place.name, sorted(beside), n=1)
    return f"; did you mean {place.with_name(near[0])}?" if near else ""


def _open_whole(entry: Mapping[str, Any], root: Path, opener: Opener) -> Checkpoint:
    if entry.get("adapter_revision") is not None:
        raise ValueError(
            f"adapter_revision needs path_to_adapter, got {entry}; for a model that is no "
            "adapter use revision"
        )
    opened = opener(entry["location"], revision=entry.get("revision"), root=root)
    if (layers := entry.get("layers")) is None:
        return opened
    return StackedCheckpoint(opened, [(first, end) for first, end in layers])


def _open_adapted(entry: Mapping[str, Any], root: Path) -> AdaptedCheckpoint:
    """Open an adapter with the base given, or the one its configuration names."""
    base, revision = entry.get("location"), entry.get("revision")
    if base is None and revision is not None:
        raise ValueError(
            f"with path_to_adapter, location and revision name its base, and revision needs "
            f"location, got {entry}; for the adapter's own use adapter_revision"
        )
    return open_adapter(
        entry["path_to_adapter"],
        revision=entry.get("adapter_revision"),
        base=base,
        base_revision=revision,
        root=root,
    )

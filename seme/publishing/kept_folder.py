"""Kept merge: merged, hashed and described out of sight, then visible at once."""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from seme.adapter_merge import ERRORS_FILE
from seme.checkpoint.json_text import parse_object
from seme.checkpoint.lora import ADAPTER_CONFIG
from seme.checkpoint.regular_file import read_whole
from seme.checkpoint.safetensors_file import read_header
from seme.checkpoint.writer import flush, refuse_existing, remove_stale, temporary_sibling
from seme.job import MergeJob
from seme.publishing.card import CARD_NAME, card_text, warnings_of
from seme.publishing.described import describe_inputs, describe_merge
from seme.publishing.manifest import (
    MANIFEST_NAME,
    InputModel,
    Manifest,
    manifest_text,
    read_manifest,
)

_logger = logging.getLogger(__name__)
_MAX_CARD_BYTES = 10_000_000


@contextmanager
def kept_folder(
    destination: Path,
    job: MergeJob,
    config: Mapping[str, Any],
    *,
    root: Path,
    from_python: bool = False,
) -> Iterator[Path]:
    """Yield a path to merge to; at the end it becomes the destination, with manifest and card.

    Until then everything is in a temporary folder beside it, which an error removes, and the
    next merge to the destination if this one was killed.

    Args:
        destination: The folder to keep; absent.
        job: The merge that the block runs.
        config: The run's configuration.
        root: Folder that relative locations start from.
        from_python: Describe the merge as a call from Python.

    Raises:
        ValueError: If the destination exists, or a file of the merge cannot be hashed.
        OSError: If something cannot be written.
    """
    refuse_existing(destination)
    inputs = describe_inputs(job, config["models"], root)
    for warning in warnings_of(inputs):
        _logger.warning("%s", warning)
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(destination)
    temporary = temporary_sibling(destination)
    temporary.mkdir()
    try:
        merged = temporary / destination.name
        yield merged
        _describe(merged, job, config, inputs, from_python=from_python)
        for path in (merged / MANIFEST_NAME, merged / CARD_NAME, merged):
            flush(path)
        refuse_existing(destination)
        merged.rename(destination)
        flush(destination.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def add_scores(folder: Path, results: Sequence[EvalResult]) -> bool:
    """Write the card of a kept merge anew, with measured scores.

    Args:
        folder: The kept folder.
        results: Scores in the form of the Hub's model index.

    Returns:
        False if the card was left alone: somebody has changed it since it was written, or it
        cannot be read or written, which a warning says.
    """
    card = folder / CARD_NAME
    try:
        manifest, config = read_manifest(folder), _config(folder)
        bare = card_text(manifest, folder.name, config=config).encode()
        if read_whole(card, most=_MAX_CARD_BYTES) != bare:
            raise ValueError("it was changed meanwhile")
        text = card_text(manifest, folder.name, config=config, results=results)
        temporary = folder / f".{CARD_NAME}.new"
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        temporary.replace(card)
    except (ValueError, OSError) as error:
        _logger.warning("scores are not added to %s: %s", card, error)
        return False
    return True


def _describe(
    merged: Path,
    job: MergeJob,
    config: Mapping[str, Any],
    inputs: Sequence[InputModel],
    *,
    from_python: bool,
) -> Manifest:
    started = time.monotonic()
    manifest = describe_merge(
        job,
        config,
        inputs,
        merged,
        n_parameters=_n_parameters(merged),
        merged_dir=merged.name,
        from_python=from_python,
    )
    (merged / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
    text = card_text(
        manifest, merged.name, config=_config(merged), adapter=_adapter_errors(merged)
    )
    (merged / CARD_NAME).write_text(text, encoding="utf-8")
    n_bytes = manifest.n_bytes + sum(
        file.bytes for model in manifest.models for file in model.files.values()
    )
    _logger.info(
        "%s and %s written: SHA-256 of %.1f MB of inputs and output in %.1f s",
        MANIFEST_NAME,
        CARD_NAME,
        n_bytes / 1e6,
        time.monotonic() - started,
    )
    return manifest


def _adapter_errors(folder: Path) -> dict[str, Any] | None:
    """Rank and errors of a merge to an adapter; None of a model."""
    file = folder / ERRORS_FILE
    if not file.exists():
        return None
    return parse_object(read_whole(file, most=_MAX_CARD_BYTES), what=str(file))


def _config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``, empty of an adapter."""
    file = folder / "config.json"
    if (folder / ADAPTER_CONFIG).exists():
        return {}
    return parse_object(read_whole(file, most=_MAX_CARD_BYTES), what=str(file))


def _n_parameters(folder: Path) -> int:
    return sum(
        math.prod(stored.spec.shape)
        for file in sorted(folder.glob("*.safetensors"))
        for stored in read_header(file).values()
    )

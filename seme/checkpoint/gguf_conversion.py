"""Conversion of GGUF models to folders of safetensors, at a given place or in the cache."""

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock

from seme.checkpoint.gguf_config import Outline, outline_gguf, write_tokenizer
from seme.checkpoint.gguf_model import GgufModel, find_gguf, read_gguf
from seme.checkpoint.hash_cache import cache_folder, cached_hash
from seme.checkpoint.model_folder import lfs_blobs, read_object
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.writer import CheckpointWriter, refuse_existing

CONVERTER_VERSION = 1
"""Version of the conversion: raise it when a converted folder may change."""
ORIGIN_FILE = "gguf_origin.json"
"""File of a converted folder that says what it was converted from."""
_BLOCK_BYTES = 1 << 20
_SPARE_BYTES = 100_000_000
"""Room for tokenizer and configuration."""

_logger = logging.getLogger(__name__)


def convert(location: Path, folder: Path) -> None:
    """Convert a GGUF model to a new folder of safetensors that transformers loads.

    The folder gets configuration, tokenizer and chat template as well, and a file that says
    what it was converted from. Memory holds some rows of one tensor at a time.

    Args:
        location: A GGUF file, a part of a split one, or a folder that holds one model.
        folder: The new folder; it appears complete or not at all.

    Raises:
        ValueError: If there is no GGUF model, it cannot be converted, ``folder`` exists, or the
            disk has no room for it.
    """
    files = find_gguf(location)
    if not files:
        raise ValueError(f"{location} is no GGUF file, and no folder that holds one")
    _convert(read_gguf(files), _hash(files), folder)


def converted_folder(files: Sequence[Path]) -> Path:
    """Convert a GGUF model into the cache, or find it there.

    Args:
        files: As :func:`seme.checkpoint.gguf_model.find_gguf` returns them.

    Returns:
        The folder of safetensors, named after the model's content.

    Raises:
        ValueError: As :func:`convert`; or if the cache cannot be written to.
    """
    content = _hash(files)
    folder = place_in_cache(files, content)
    if folder.is_dir():
        return folder
    model = read_gguf(files)
    with _writing_to(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():  # another process may have made it meanwhile
                _logger.info("converting %s to safetensors in %s", files[0], folder)
                _convert(model, content, folder)
    return folder


def place_in_cache(files: Sequence[Path], content: str | None = None) -> Path:
    """Return where :func:`converted_folder` puts a model, which may not be there yet."""
    return cache_folder() / "gguf" / f"{content or _hash(files)}-v{CONVERTER_VERSION}"


def origin_of(folder: Path) -> dict[str, Any] | None:
    """Read what a folder was converted from.

    Returns:
        ``types`` (number of tensors of each type), ``file_hash``, ``converter``; None for a
        folder that was not converted.
    """
    file = folder / ORIGIN_FILE
    return read_object(file, of="a converted GGUF model") if file.is_file() else None


def _convert(model: GgufModel, content: str, folder: Path) -> None:
    refuse_existing(folder)
    outline = outline_gguf(model)
    _check_room(model, outline, folder)
    with tempfile.TemporaryDirectory(prefix="seme-gguf-") as temporary:
        described = Path(temporary)
        write_tokenizer(model, described)
        text = json.dumps(outline.config, indent=2, ensure_ascii=False) + "\n"
        (described / "config.json").write_text(text, encoding="utf-8")
        origin = {
            "types": model.n_of_type,
            "file_hash": content,
            "converter": CONVERTER_VERSION,
        }
        with CheckpointWriter(
            folder,
            pivot=Checkpoint(described, outline.config, {}),
            layout={name: tensor.spec for name, tensor in outline.tensors.items()},
            config=outline.config,
            dtype=None,
        ) as writer:
            writer.add(ORIGIN_FILE, json.dumps(origin, indent=2) + "\n")
            for name, tensor in outline.tensors.items():
                for start, values in tensor.blocks():
                    writer.write(name, values, start)


def _check_room(model: GgufModel, outline: Outline, folder: Path) -> None:
    """Refuse a conversion that does not fit the disk."""
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free, needed = shutil.disk_usage(parent).free, outline.nbytes + _SPARE_BYTES
    if free < needed:
        raise ValueError(
            f"{model.file} takes {needed / 1e9:.2f} GB as safetensors, and {parent} has "
            f"{free / 1e9:.2f} GB free: free some, or set SEME_CACHE_DIR to another disk"
        )


def _hash(files: Sequence[Path]) -> str:
    """Hash the content of a model's files, in order; cached on disk until one changes."""

    def compute() -> str:
        digest = xxhash.xxh3_128()
        for block in _blocks(files):
            digest.update(block)
        return digest.hexdigest()

    blobs = lfs_blobs(files)
    if blobs is not None:
        return xxhash.xxh3_128_hexdigest("\0".join(blobs).encode())
    return cached_hash(files, compute)


def _blocks(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Name the cache in an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error.strerror or error}): set SEME_CACHE_DIR to "
            "a folder on a disk with room"
        ) from error

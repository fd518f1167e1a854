"""Models of any format opened: folders and Hub snapshots of safetensors, GGUF files."""

from pathlib import Path

from seme.checkpoint.gguf_conversion import converted_folder, place_in_cache
from seme.checkpoint.gguf_model import find_gguf, read_gguf
from seme.checkpoint.gguf_tensors import check_architecture
from seme.checkpoint.model_folder import expanded
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.checkpoint.regular_file import shown


def open_model(location: str | Path, *, revision: str | None = None, root: Path) -> Checkpoint:
    """Open a model; of safetensors only the headers are read.

    A GGUF model is converted to safetensors in the cache first, unless it is there.

    Args:
        location: A GGUF file, a folder, relative to ``root`` or absolute, or a Hub id.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from: the repository's root.

    Returns:
        The checkpoint, ready to be read.

    Raises:
        ValueError: If there is no such model, or it cannot be read or converted.
    """
    files = gguf_files(location, revision=revision, root=root)
    if files:
        return open_checkpoint(converted_folder(files), root=root)
    return open_checkpoint(location, revision=revision, root=root)


def check_gguf(location: str | Path, *, revision: str | None = None, root: Path) -> None:
    """Check a GGUF model that is still to be converted; nothing else is looked at.

    Args:
        location: As for :func:`open_model`.
        revision: As for :func:`open_model`.
        root: As for :func:`open_model`.

    Raises:
        ValueError: If its files, their headers or its architecture rule out a conversion.
    """
    files = gguf_files(location, revision=revision, root=root)
    if files and not place_in_cache(files).is_dir():
        check_architecture(read_gguf(files))


def gguf_files(
    location: str | Path, *, revision: str | None = None, root: Path
) -> tuple[Path, ...]:
    """Find the files of a GGUF model; see :func:`open_model`.

    Returns:
        The files in order; empty for a model in another format, or for none.

    Raises:
        ValueError: If a part is absent, a folder holds several models, a file with the ending
            ``.gguf`` does not exist, or a revision is given.
    """
    place = expanded(location, root)
    if place is None:  # of no file: locating the model says so
        return ()
    files = find_gguf(place)
    if not files and place.suffix == ".gguf":
        raise ValueError(f"no GGUF file at {place}: give an existing file (relative to {root})")
    if files and revision is not None:
        raise ValueError(
            f"revision is for Hub ids only, got {shown(revision)} for {files[0]}: remove it from the "
            "configuration"
        )
    return files

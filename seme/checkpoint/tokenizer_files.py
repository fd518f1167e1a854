"""Files of a model's folder that hold its vocabulary, and the folder they are looked for in."""

from pathlib import Path

from seme.checkpoint.regular_file import find_file

VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model", "*.tiktoken")
"""Names of files that hold a vocabulary, as glob patterns."""


def vocabulary_files(folder: Path) -> list[Path]:
    """Return the files that hold a vocabulary, sorted by name; empty without any.

    Raises:
        ValueError: If one is no regular file, or a link out of the folder.
    """
    names = sorted(file.name for pattern in VOCABULARIES for file in folder.glob(pattern))
    return [file for name in names if (file := find_file(folder, name)) is not None]


def folder_with_tokenizer(own: Path, base: Path) -> Path:
    """Return the folder of an adapter's tokenizer: its own if it holds one, else its base's."""
    return own if vocabulary_files(own) else base

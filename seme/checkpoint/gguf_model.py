"""GGUF models: a file, or all parts of a split one, found and read as one."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seme.checkpoint.gguf_header import AGAIN, GgufTensor, read_header, readable_types
from seme.checkpoint.regular_file import brief, find_file

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_OTHER_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """The headers of a GGUF file, or of all the parts of a split model."""

    files: tuple[Path, ...]
    metadata: Mapping[str, Any]
    """Numbers, booleans and texts of the first part, by key; arrays are left out."""
    tensors: Mapping[str, GgufTensor]
    """The tensors of all parts by the names of llama.cpp."""

    @property
    def file(self) -> Path:
        """The file, or the first part."""
        return self.files[0]

    @property
    def architecture(self) -> str:
        """Architecture as llama.cpp names it, such as ``llama``; empty if not given."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_quantised(self) -> bool:
        """True if any tensor is."""
        return any(tensor.is_quantised for tensor in self.tensors.values())

    @property
    def n_of_type(self) -> dict[str, int]:
        """Number of tensors of each type, by its name, sorted."""
        return dict(sorted(Counter(t.type_name for t in self.tensors.values()).items()))


def find_gguf(location: Path) -> tuple[Path, ...]:
    """Find the GGUF model that a file is, or that a folder holds.

    Args:
        location: A file, any part of a split one, or a folder.

    Returns:
        The file, or all parts in order; empty if there is no such file, or the folder has no
        GGUF file or weights in another format.

    Raises:
        ValueError: If a part is absent, the folder holds several models, or what is called like a
            file of one is no regular file, or a link out of the folder.
    """
    if location.is_file():
        return _parts(location)
    if not location.is_dir() or any(any(location.glob(p)) for p in _OTHER_WEIGHTS):
        return ()
    present = sorted(file.name for file in location.glob("*.gguf"))
    files = [file for name in present if (file := find_file(location, name)) is not None]
    models = {_part_names(file.name) for file in files}
    if len(models) > 1:
        names = ", ".join(sorted(parts[0] for parts in models))
        raise ValueError(
            f"{location} holds {len(models)} GGUF models, {names}: give the path of one of them"
        )
    return _parts(files[0]) if files else ()


def read_gguf(files: Sequence[Path]) -> GgufModel:
    """Read the header of a GGUF file, or the headers of all parts of a split one.

    Args:
        files: As :func:`find_gguf` returns them, at least one.

    Returns:
        Metadata and places of the tensors; no tensor is read.

    Raises:
        ValueError: If the package ``gguf`` is not installed, or a file is not GGUF,
            big-endian, cut short, damaged, holds a type that cannot be dequantised, or is not
            the part that its name says.
    """
    types = readable_types()
    metadata: dict[str, Any] = {}
    tensors: dict[str, GgufTensor] = {}
    for file in files:
        entries, stored = read_header(file, types)
        if repeated := sorted(tensors.keys() & stored.keys()):
            raise ValueError(
                f"{file} holds {brief(repeated[0])}, which is in another part as well"
            )
        metadata = metadata or entries
        tensors |= stored
    n_parts = metadata.get("split.count", 1) or 1
    if type(n_parts) is not int or n_parts != len(files):
        n_parts = n_parts if type(n_parts) is int else 1
        raise ValueError(
            f"{files[0]} is one of {n_parts} parts, found {len(files)}: put all of them into "
            f"one folder, named NAME-00001-of-{n_parts:05d}.gguf and so on"
        )
    n_tensors = metadata.get("split.tensors.count", len(tensors))
    if n_tensors != len(tensors) or not tensors:
        raise ValueError(
            f"{files[0]}: expected {n_tensors or 'some'} tensors, found {len(tensors)}; {AGAIN}"
        )
    return GgufModel(files=tuple(files), metadata=metadata, tensors=tensors)


def _part_names(name: str) -> tuple[str, ...]:
    """Names of all parts of the model that a file name belongs to."""
    split = _PART.fullmatch(name)
    if split is None:
        return (name,)
    stem, count = split[1], int(split[3])
    return tuple(f"{stem}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1))


def _parts(file: Path) -> tuple[Path, ...]:
    """All parts of the model that a file belongs to."""
    parts = tuple(file.with_name(name) for name in _part_names(file.name))
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ValueError(
            f"{file} is one of {len(parts)} parts of a model, and {missing[0]} is absent: put "
            "all parts into one folder"
        )
    return parts

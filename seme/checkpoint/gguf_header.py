"""GGUF headers: metadata and places of the tensors, checked against the size of the file.

The format: magic, version, counts, metadata, table of tensors, then the tensors' bytes, aligned
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Headers of downloaded files are
untrusted: no length or count is believed beyond the end of the file.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seme.checkpoint.regular_file import brief, shown

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""Type of a metadata value to its layout, where its size is fixed."""
_STRING, _ARRAY = 8, 9
_LEAST_ENTRY_BYTES = 13
"""Least bytes of a metadata entry: length of the key, type, one byte of value."""
_LEAST_TENSOR_BYTES = 24
"""Least bytes of an entry of the table of tensors: length, dimensions, type, offset."""
_MAX_DIMENSIONS = 4
FLOATS = ("F32", "F16", "BF16")
"""Types that are not quantised."""
AGAIN = "download or copy it again"
"""What to do about a damaged file."""


class GgufType(NamedTuple):
    """A type of tensors: elements in a block share their scale."""

    name: str
    elements: int
    """Elements of a block."""
    nbytes: int
    """Bytes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """A tensor in a GGUF file."""

    type_name: str
    """Type of its blocks as llama.cpp names it, such as ``Q4_1`` or ``F32``."""
    shape: tuple[int, ...]
    """Sizes as in torch: the last dimension is contiguous."""
    path: Path
    offset: int
    """Position of the first byte, counted from the start of the file."""
    nbytes: int

    @property
    def is_quantised(self) -> bool:
        return self.type_name not in FLOATS


def readable_types() -> dict[int, GgufType]:
    """Return the types that can be read, by their numbers in a file.

    Raises:
        ValueError: If the package ``gguf`` is not installed.
    """
    try:
        from gguf import GGML_QUANT_SIZES, quants  # noqa: PLC0415 (an extra of this project)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a GGUF model needs the package gguf, and {error.name} is not installed: "
            "pip install -e '.[gguf]' -c constraints.txt"
        ) from error
    return {
        int(kind): GgufType(kind.name, *size)
        for kind, size in GGML_QUANT_SIZES.items()
        if kind.name in FLOATS or hasattr(quants, kind.name)  # a class named like the type
    }


def read_header(
    path: Path, types: Mapping[int, GgufType]
) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Read the header of one file; no tensor is read.

    Args:
        path: The file.
        types: What :func:`readable_types` returns.

    Returns:
        Metadata without arrays, and the tensors by name.

    Raises:
        ValueError: If the file is not GGUF, big-endian, of another version, cut short or
            damaged, or holds a tensor of another type.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
        if magic != _MAGIC:
            raise ValueError(
                f"{path} is not a GGUF file: it starts with {magic!r}, expected {_MAGIC!r}; a "
                "model of another format is given by its folder"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            cursor = _Cursor(path, content)
            cursor.skip(len(_MAGIC), "the magic")
            _check_version(path, cursor.number("<I", "the version"))
            n_tensors = cursor.number("<Q", "the number of tensors")
            n_entries = cursor.count(_LEAST_ENTRY_BYTES, "entries of metadata")
            metadata = _read_metadata(cursor, n_entries)
            return metadata, _read_table(cursor, n_tensors, metadata, types, size)


def _type_name(number: int) -> str:
    """Name a type that cannot be read."""
    from gguf import GGMLQuantizationType  # noqa: PLC0415 (after readable_types)

    names = {int(kind): kind.name for kind in GGMLQuantizationType}
    return names.get(number, f"number {number}")


class _Cursor:
    """Place in a file; whatever is read is checked against the end of the file first."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.at = 0
        self._content = content

    def skip(self, n_bytes: int, what: str) -> int:
        """Return the place, and go on by a number of bytes that the file must have."""
        start, left = self.at, len(self._content) - self.at
        if n_bytes > left:
            raise ValueError(
                f"{self.path} is cut short or damaged: {brief(what)} at byte {start} takes {n_bytes} "
                f"bytes, and {left} are left; {AGAIN}"
            )
        self.at += n_bytes
        return start

    def number(self, layout: str, what: str) -> Any:  # noqa: ANN401 (as the layout says)
        """Read one number."""
        start = self.skip(struct.calcsize(layout), what)
        return struct.unpack_from(layout, self._content, start)[0]

    def count(self, least_bytes: int, what: str) -> int:
        """Read how many entries follow; each takes at least this many bytes."""
        count = int(self.number("<Q", what))
        left = len(self._content) - self.at
        if count * least_bytes > left:
            raise ValueError(
                f"{self.path} is cut short or damaged: it claims {count} {brief(what)} of at least "
                f"{least_bytes} bytes each, and {left} bytes are left; {AGAIN}"
            )
        return count

    def text(self, what: str) -> str:
        """Read a text."""
        length = int(self.number("<Q", what))
        start = self.skip(length, what)
        try:
            return self._content[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path} is damaged: {brief(what)} at byte {start} is not UTF-8; {AGAIN}"
            ) from error

    def value(self, kind: int, key: str) -> Any:  # noqa: ANN401 (as the type says)
        """Read one value of the metadata; an array is passed over and read as None."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind], key)
        if kind == _STRING:
            return self.text(key)
        if kind != _ARRAY:
            raise ValueError(
                f"{self.path} is damaged: {brief(key)} has the type {kind}; {AGAIN}"
            )
        element = int(self.number("<I", key))
        if element in _NUMBERS:
            size = struct.calcsize(_NUMBERS[element])
            self.skip(self.count(size, f"values of {key}") * size, key)
        elif element == _STRING:
            for _ in range(self.count(8, f"texts of {key}")):
                self.skip(int(self.number("<Q", key)), key)
        else:
            raise ValueError(
                f"{self.path}: {brief(key)} is an array of type {element}; {AGAIN}"
            )
        return None


def _check_version(path: Path, version: int) -> None:
    if version and not version & 0xFFFF:
        raise ValueError(
            f"{path} is big-endian, expected little-endian: convert it with "
            "`gguf-convert-endian FILE little`"
        )
    if version not in _VERSIONS:
        raise ValueError(f"{path} is GGUF version {version}, expected 2 or 3: convert it anew")


def _read_metadata(cursor: _Cursor, n_entries: int) -> dict[str, Any]:
    """Read the metadata, without arrays."""
    metadata: dict[str, Any] = {}
    for _ in range(n_entries):
        key = cursor.text("a key")
        if key in metadata:
            raise ValueError(f"{cursor.path} is damaged: {brief(key)} is there twice; {AGAIN}")
        metadata[key] = cursor.value(int(cursor.number("<I", key)), key)
    return {key: value for key, value in metadata.items() if value is not None}


def _read_table(
    cursor: _Cursor,
    n_tensors: int,
    metadata: Mapping[str, Any],
    types: Mapping[int, GgufType],
    size: int,
) -> dict[str, GgufTensor]:
    """Read the table of tensors, and check that they are in the file and do not overlap."""
    path = cursor.path
    if n_tensors * _LEAST_TENSOR_BYTES > size - cursor.at:
        raise ValueError(
            f"{path} is cut short or damaged: it claims {n_tensors} tensors, and "
            f"{size - cursor.at} bytes are left; {AGAIN}"
        )
    entries: dict[str, tuple[GgufType, tuple[int, ...], int]] = {}
    for _ in range(n_tensors):
        name = cursor.text("the name of a tensor")
        if name in entries:
            raise ValueError(
                f"{path} is damaged: the tensor {brief(name)} is there twice; {AGAIN}"
            )
        entries[name] = _read_entry(cursor, name, types)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0:
        raise ValueError(f"{path} is damaged: general.alignment is {shown(alignment)}; {AGAIN}")
    reached = start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (kind, shape, offset) in sorted(entries.items(), key=lambda e: e[1][2]):
        nbytes = math.prod(shape) // kind.elements * kind.nbytes
        if start + offset < reached or start + offset + nbytes > size:
            raise ValueError(
                f"{path} is cut short or damaged: {brief(name)} takes the bytes {start + offset} to "
                f"{start + offset + nbytes}, the tensor before it ends at {reached}, the file "
                f"at {size}; {AGAIN}"
            )
        reached = start + offset + nbytes
        tensors[name] = GgufTensor(
            type_name=kind.name, shape=shape, path=path, offset=start + offset, nbytes=nbytes
        )
    return tensors


def _read_entry(
    cursor: _Cursor, name: str, types: Mapping[int, GgufType]
) -> tuple[GgufType, tuple[int, ...], int]:
    """Read type, shape and offset of a tensor, the offset from the start of all tensors."""
    n_dimensions = int(cursor.number("<I", name))
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        raise ValueError(
            f"{cursor.path} is damaged: {brief(name)} has {n_dimensions} dimensions, expected 1 to "
            f"{_MAX_DIMENSIONS}; {AGAIN}"
        )
    shape = tuple(int(cursor.number("<Q", name)) for _ in range(n_dimensions))[::-1]
    number, offset = int(cursor.number("<I", name)), int(cursor.number("<Q", name))
    if number not in types:
        raise ValueError(
            f"{brief(name)} in {cursor.path} has the type {_type_name(number)}, expected one of "
            f"{', '.join(sorted(kind.name for kind in types.values()))}: take another file"
        )
    kind = types[number]
    if not all(shape) or shape[-1] % kind.elements:
        raise ValueError(
            f"{cursor.path} is damaged: {brief(name)} of shape {list(shape)} does not divide into "
            f"blocks of {kind.elements} ({kind.name}); {AGAIN}"
        )
    return kind, shape, offset

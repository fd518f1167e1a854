"""Safetensors files: headers checked, tensors read by offset, new files laid out.

The format: eight bytes with the little-endian length of the header, the header in JSON, then
the tensors' bytes without gaps (https://github.com/huggingface/safetensors, section Format).
Headers of downloaded files are untrusted: every range is checked before a tensor is read.
Blocks are read by position and not through the safetensors library, which maps whole files into
memory: so RSS stays fixed, and a merge can write shards it never holds.
"""

import json
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.checkpoint.json_text import parse_object
from seme.checkpoint.regular_file import brief, open_regular, read_part, shown

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_TENSORS = 100_000
"""Of one file; the largest models have fewer in all files together."""
_MAX_NAME_CHARACTERS = 256
_MAX_DIMENSIONS = 32
_MAX_BYTES = 2**63 - 1
"""Most bytes of a tensor: torch counts them in 64 bits."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Dtype and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor on disk: dtype, shape, and the place of its bytes."""

    spec: TensorSpec
    path: Path
    offset: int
    """Position of the first byte, counted from the start of the file."""

    def read(self) -> Tensor:
        """Read the values into a fresh tensor on the CPU.

        Raises:
            ValueError: If the file has become shorter since its header was read.
        """
        values = OpenedTensor(self, OpenFile(self.path)).read(0, math.prod(self.spec.shape))
        return values.reshape(self.spec.shape)

    def blocks(self) -> Iterator[memoryview]:
        """Yield the raw bytes in order; each block is overwritten by the next.

        Raises:
            ValueError: If the file has become shorter since its header was read.
        """
        file, buffer = OpenFile(self.path), memoryview(bytearray(_BLOCK_BYTES))
        for start in range(0, self.spec.nbytes, _BLOCK_BYTES):
            block = buffer[: self.spec.nbytes - start]
            file.read_into(block, self.offset + start)
            yield block


class OpenFile:
    """A file that is read by position, from any thread; closed when nothing refers to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_regular(path)
        weakref.finalize(self, os.close, self._descriptor)
        if hasattr(os, "posix_fadvise"):  # read ahead in long strides
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes from ``offset`` on.

        Raises:
            ValueError: If the file has become shorter since its header was read.
            OSError: If it cannot be read.
        """
        filled = 0
        while filled < len(buffer):
            n_read = os.preadv(self._descriptor, [buffer[filled:]], offset + filled)
            if not n_read:
                raise ValueError(f"{self.path} has become shorter while being read")
            filled += n_read


class OpenedTensor:
    """A tensor on disk, opened; implements :class:`seme.checkpoint.protocol.Readable`."""

    def __init__(
        self,
        stored: StoredTensor,
        file: OpenFile,
        name: str = "a tensor",
        count: Callable[[int], None] | None = None,
    ) -> None:
        """Remember the place; nothing is read.

        Args:
            stored: Dtype, shape and place of the tensor.
            file: Its file.
            name: Its name in errors.
            count: Called with the number of bytes after each read.
        """
        self._name = name
        self._stored = stored
        self._file = file
        self._count = count

    def read(self, start: int, stop: int) -> Tensor:
        """Read the elements [start, stop) of the flat tensor, 1-D, in the tensor's dtype.

        Raises:
            ValueError: If the file has become shorter since its header was read.
        """
        dtype = self._stored.spec.dtype
        values = torch.empty(stop - start, dtype=dtype)
        buffer = values.view(torch.uint8).numpy().data
        try:
            self._file.read_into(buffer, self._stored.offset + start * dtype.itemsize)
        except (OSError, ValueError) as error:
            error.add_note(f"while reading {self._name} of {self._file.path}")
            raise
        if self._count is not None:
            self._count(len(buffer))
        return values


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file and check it against the file's size.

    Args:
        path: The file.

    Returns:
        The tensors of the file by name.

    Raises:
        ValueError: If the header is malformed, names a dtype that cannot be merged, or
            describes ranges that overlap, leave gaps or do not fit the file.
    """
    prefix, size = read_part(path, 0, 8)
    n_header = int.from_bytes(prefix, "little")
    if size < 8 or n_header > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(
            f"{path} is not a whole safetensors file: its header should take {n_header} "
            f"bytes, the file has {size} bytes; download or copy it again"
        )
    text, size = read_part(path, 8, 8 + n_header)
    header = parse_object(text, what=f"the header of {path}", unique=True)
    if len(header) > _MAX_TENSORS:
        raise ValueError(
            f"the header of {path} names {len(header)} tensors, expected at most {_MAX_TENSORS}"
        )
    begin = 8 + n_header
    tensors = {
        name: _stored(path, name, entry, begin)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_ranges(path, tensors, begin, size)
    return tensors


def _stored(path: Path, name: str, entry: object, start: int) -> StoredTensor:
    """Parse one entry of a header; its range must have the size of its shape and dtype."""
    if not name.isprintable() or not 0 < len(name) <= _MAX_NAME_CHARACTERS:
        raise ValueError(
            f"the header of {path} names a tensor {shown(name)}: expected 1 to "
            f"{_MAX_NAME_CHARACTERS} printable characters"
        )
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [begin, end]} if all(
            type(number) is int and 0 <= number <= _MAX_BYTES for number in (*shape, begin, end)
        ):
            pass
        case _:
            raise ValueError(
                f"the header of {path} has a malformed entry for {name}: {shown(entry)}"
            )
    if code not in DTYPES:
        raise ValueError(
            f"{name} in {path} has dtype {brief(code)}; expected one of {', '.join(sorted(DTYPES))}: "
            "use the checkpoint it was quantised from, or convert it to bfloat16 with its "
            "scales applied"
        )
    spec = TensorSpec(dtype=DTYPES[code], shape=tuple(shape))
    if len(shape) > _MAX_DIMENSIONS or _most_bytes(spec) > _MAX_BYTES:
        raise ValueError(
            f"the header of {path} gives {name} the shape {shown(shape)}: expected at most "
            f"{_MAX_DIMENSIONS} dimensions and {_MAX_BYTES} bytes"
        )
    if end - begin != spec.nbytes:
        raise ValueError(
            f"the header of {path} gives {name} {end - begin} bytes, but shape {shown(shape)} "
            f"in {code} takes {spec.nbytes}"
        )
    return StoredTensor(spec=spec, path=path, offset=start + begin)


def _most_bytes(spec: TensorSpec) -> int:
    """Return the bytes of a shape without its zeros: torch multiplies the sizes in turn."""
    return math.prod(size for size in spec.shape if size) * spec.dtype.itemsize


def _check_ranges(
    path: Path, tensors: Mapping[str, StoredTensor], start: int, size: int
) -> None:
    """Check that the tensors cover the file once, without gaps, to its end."""
    reached = start
    ordered = sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].spec.nbytes))
    for name, stored in ordered:
        if stored.offset != reached:
            fault = "overlaps the tensor before it" if stored.offset < reached else "has a gap"
            raise ValueError(f"in {path}, {name} {fault}: byte {stored.offset}, not {reached}")
        reached += stored.spec.nbytes
    if reached != size:
        raise ValueError(
            f"{path} is truncated or damaged: its header describes {reached} bytes, the file "
            f"has {size}; download or copy it again"
        )


def lay_out(
    path: Path, specs: Mapping[str, TensorSpec]
) -> tuple[bytes, dict[str, StoredTensor]]:
    """Lay out a new file: wide dtypes first, so that every tensor is aligned, then by name.

    Args:
        path: Path of the new file.
        specs: Its tensors.

    Returns:
        The bytes before the first tensor, and each tensor's place.
    """
    ordered = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    begins: dict[str, int] = {}
    for name in ordered:
        begins[name], end = end, end + specs[name].nbytes
        header[name] = {
            "dtype": _CODES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [begins[name], end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    prefix = len(text).to_bytes(8, "little") + text
    places = {
        name: StoredTensor(spec=specs[name], path=path, offset=len(prefix) + begin)
        for name, begin in begins.items()
    }
    return prefix, places

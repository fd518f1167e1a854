"""Safetensors headers: checked against the file before anything is read by offset."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from seme.checkpoint.safetensors_file import read_header


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def write_header(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool]
)
def test_every_dtype_round_trips(path, dtype):
    expected = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    save_file({"x": expected, "empty": torch.zeros(0, 3)}, path)
    stored = read_header(path)
    assert torch.equal(stored["x"].read(), expected)
    assert stored["x"].read().dtype == stored["x"].spec.dtype == dtype
    assert stored["empty"].read().shape == (0, 3)


BAD_HEADERS = {
    "not JSON": (b"nonsense", b"", "cannot be parsed"),
    "deeply nested": (b"[" * 100_000, b"", "cannot be parsed"),
    "a list": (b"[]", b"", "must hold a JSON object"),
    "a name twice": (b'{"x":1,"x":2}', b"", "duplicate name 'x'"),
    "no offsets": ({"x": {"dtype": "F32", "shape": [1]}}, b"", "malformed entry for x"),
    "a negative shape": ({"x": entry(0, 4, (-1,))}, b"1234", "malformed entry for x"),
    "a boolean shape": ({"x": entry(0, 4, (True,))}, b"1234", "malformed entry for x"),
    "too few bytes": ({"x": entry(0, 4, (2,))}, b"1234", r"4 bytes, but shape \[2\].*takes 8"),
    "an overlap": ({"x": entry(0, 4), "y": entry(2, 6)}, b"123456", "y overlaps"),
    "a gap": ({"x": entry(0, 4), "y": entry(6, 10)}, b"1234567890", "y has a gap"),
    "bytes at the end": ({"x": entry(0, 4)}, b"12345", "truncated or damaged"),
    "long numbers": (b'{"x":{"shape":[' + b"9" * 4200 + b"]}}", b"", "a number of 4200 digits"),
    "huge and empty": ({"x": entry(0, 0, (10**30, 0))}, b"", "malformed entry for x"),
    "more than 64 bits": ({"x": entry(0, 0, (2**62, 2**62, 0))}, b"", "at most 32 dimensions"),
    "33 dimensions": ({"x": entry(0, 4, (1,) * 33)}, b"1234", "at most 32 dimensions"),
    "a long entry": (
        {"x": [1] * 10**5},
        b"",
        r"malformed entry for x: \[1, 1, 1, 1, 1, 1, ...\]$",
    ),
    "many values": (b'{"x":[' + b"[]," * 2_000_000 + b"[]]}", b"", "is too large"),
    "many tensors": ({str(n): 1 for n in range(100_001)}, b"", "100001 tensors, expected at m"),
    "a surrogate": (b'{"\\ud800":1}', b"", "half of a surrogate pair"),
    "UTF-16": ('{"x":1}'.encode("utf-16"), b"", "cannot be parsed"),
    "no name": ({"": entry(0, 4)}, b"1234", "names a tensor ''"),
    "a long name": ({"x" * 257: entry(0, 4)}, b"1234", "expected 1 to 256 printable"),
    "a line in a name": ({"x\ny": entry(0, 4)}, b"1234", r"names a tensor 'x\\ny'"),
    "beyond the end": ({"x": entry(0, 400, (100,))}, b"1234", "truncated or damaged"),
}


@pytest.mark.parametrize("fault", sorted(BAD_HEADERS))
def test_an_invalid_header_is_refused(path, fault):
    header, body, message = BAD_HEADERS[fault]
    write_header(path, header, body)
    with pytest.raises(ValueError, match=message):
        read_header(path)


def test_a_pipe_is_refused_without_waiting(path):
    os.mkfifo(path)
    with pytest.raises(ValueError, match="must be a regular file, it is a named pipe"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"\x05", (2**62).to_bytes(8, "little") + b"{}"])
def test_a_file_shorter_than_its_header_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"safetensors file.* {len(content)} bytes"):
        read_header(path)


def test_a_truncated_file_is_refused(path):
    save_file({"x": torch.ones(4)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_header(path)


UNSUPPORTED = ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F6_E2M3", "F4", "C64", "U32"]


@pytest.mark.parametrize("dtype", UNSUPPORTED)
def test_unsupported_dtype_is_refused_with_its_tensor(path, dtype):
    write_header(path, {"x.weight": entry(0, 1, (1,), dtype)}, b"1")
    with pytest.raises(ValueError, match=rf"x\.weight .*model\.safetensors.* {dtype}.*BF16"):
        read_header(path)

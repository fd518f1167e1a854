"""GGUF headers: places of tensors, and damaged files refused before anything is read."""

import struct
import sys

import pytest
from gguf import GGUFReader

from seme.checkpoint.gguf_header import read_header, readable_types
from tests.gguf_files import header, text, write_gguf

TYPES = {0: ("F32", 1, 4)}
NAME = text("general.architecture") + struct.pack("<I", 8) + text("llama")


@pytest.fixture
def refused(tmp_path):
    """Assert that a file of these bytes is refused with this message, which names the file."""

    def check(content, match):
        file = tmp_path / "bad.gguf"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=match) as caught:
            read_header(file, readable_types())
        assert str(file) in str(caught.value)

    return check


def tensor(name="a.weight", shape=(4,), kind=0, offset=0):
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def test_places_and_metadata_are_those_of_the_package(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", kind="Q4_1", more={"general.name": "tiny"})
    metadata, tensors = read_header(path, readable_types())
    theirs = GGUFReader(path)
    assert {name: (t.type_name, t.offset, t.nbytes) for name, t in tensors.items()} == {
        t.name: (t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors
    }
    assert tensors["blk.0.ffn_down.weight"].shape == (32, 64)
    numbers = {k: v.contents() for k, v in theirs.fields.items() if v.types[0].name != "ARRAY"}
    assert metadata == {k: v for k, v in numbers.items() if not k.startswith("GGUF.")}


def test_other_formats_are_named_by_what_they_are_not(refused):
    refused(b"", r"is not a GGUF file: it starts with b'', expected b'GGUF'")
    refused(b"PK\3\4rest", r"is not a GGUF file: it starts with b'PK\\x03\\x04'")


def test_big_endian_and_old_versions_are_refused(refused):
    refused(b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian, expected little-endian")
    refused(header(version=1), "is GGUF version 1, expected 2 or 3")
    refused(b"GGUF\3\0", "cut short or damaged: the version at byte 4 takes 4 bytes, and 2 are")


@pytest.mark.parametrize("huge", [10**12, 2**64 - 1])
def test_huge_counts_and_lengths_are_not_believed(refused, huge):
    eight = struct.pack("<Q", huge)
    array = struct.pack("<I", 9)
    refused(header(n=huge), f"it claims {huge} entries of metadata of at least 13 bytes")
    refused(header(huge, NAME), f"it claims {huge} tensors, and 0 bytes are left")
    refused(header(0, eight + bytes(9)), f"a key at byte 32 takes {huge} bytes, and 9 are left")
    start = text("key") + struct.pack("<I", 8)
    refused(header(0, start + eight), f"key at byte 47 takes {huge} bytes, and 0 are left")
    strings = text("key") + array + struct.pack("<I", 8)
    refused(header(0, strings + eight), f"it claims {huge} texts of key")
    refused(header(0, strings + struct.pack("<Q", 1) + eight), f"takes {huge} bytes, and 0 are")
    numbers = text("key") + array + struct.pack("<I", 4)
    refused(header(0, numbers + eight), f"it claims {huge} values of key of at least 4 bytes")


def test_damaged_metadata_is_named(refused):
    refused(
        header(0, struct.pack("<Q", 1) + b"\xff" + bytes(8)), "a key at byte 32 is not UTF-8"
    )
    refused(header(0, text("key") + struct.pack("<IQ", 13, 0)), "key has the type 13")
    nested = struct.pack("<IIQ", 9, 9, 0)
    refused(header(0, text("key") + nested), "key is an array of type 9")
    refused(header(0, NAME + NAME, n=2), "general.architecture is there twice")
    zero = text("general.alignment") + struct.pack("<II", 4, 0)
    refused(header(0, zero), "general.alignment is 0")


def test_damaged_tables_are_named(refused):
    data = bytes(64)
    refused(
        header(1, NAME + tensor(shape=(1,) * 5) + data), "has 5 dimensions, expected 1 to 4"
    )
    refused(header(1, NAME + tensor(shape=(0,)) + data), r"of shape \[0\] does not divide into")
    refused(
        header(1, NAME + tensor(kind=2) + data), r"does not divide into blocks of 32 \(Q4_0\)"
    )
    refused(header(2, NAME + tensor() + tensor() + data), "a.weight is there twice")
    overlapping = tensor() + tensor("b.weight", offset=8)
    refused(
        header(2, NAME + overlapping + data), "b.weight takes the bytes .* before it ends at"
    )
    refused(header(1, NAME + tensor(shape=(2**40, 2**40)) + data), "a.weight takes the bytes")


def test_file_cut_short_is_refused_at_every_length(tmp_path, refused):
    content = write_gguf(tmp_path / "model.gguf").read_bytes()
    for length in (5, 30, 400, len(content) // 2, len(content) - 40):
        refused(content[:length], "is cut short or damaged: .*; download or copy it again")


@pytest.mark.parametrize(("number", "name"), [(26, "I32"), (9, "Q8_1"), (99, "number 99")])
def test_unsupported_type_is_named_with_the_supported_ones(refused, number, name):
    refused(
        header(1, NAME + tensor(kind=number, shape=(32,)) + bytes(256)),
        rf"a.weight in .* has the type {name}, expected one of BF16, F16, F32, .*Q4_K, .*Q8_0",
    )


def test_missing_package_is_named_with_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[gguf\]' -c constraints\.txt"):
        readable_types()

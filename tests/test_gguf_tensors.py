"""Tensors of GGUF models: rows of heads in order, mismatches named."""

import numpy as np
import pytest
import torch

from seme.checkpoint.gguf_config import outline_gguf
from seme.checkpoint.gguf_header import GgufTensor
from seme.checkpoint.gguf_model import read_gguf
from seme.checkpoint.gguf_tensors import ConvertedTensor
from seme.checkpoint.safetensors_file import TensorSpec
from tests.gguf_files import write_gguf


def test_neighbours_in_a_head_are_half_a_head_apart(tmp_path):
    # two heads of four rows: 0 2 1 3 | 4 6 5 7 in the file
    (tmp_path / "f").write_bytes(np.float32([0, 2, 1, 3, 4, 6, 5, 7]).tobytes())
    stored = GgufTensor(type_name="F32", shape=(8, 1), path=tmp_path / "f", offset=0, nbytes=32)
    spec = TensorSpec(dtype=torch.float32, shape=(8, 1))
    ((start, values),) = ConvertedTensor(stored=stored, spec=spec, n_heads=2).blocks()
    assert (start, values.tolist()) == (0, [0, 1, 2, 3, 4, 5, 6, 7])


def test_shift_is_subtracted_in_float32(tmp_path):
    (tmp_path / "f").write_bytes(np.float16([1.5, 0.5]).tobytes())
    stored = GgufTensor(type_name="F16", shape=(2,), path=tmp_path / "f", offset=0, nbytes=4)
    spec = TensorSpec(dtype=torch.float32, shape=(2,))
    ((_, values),) = ConvertedTensor(stored=stored, spec=spec, shift=1).blocks()
    assert values.dtype == torch.float32
    assert values.tolist() == [0.5, -0.5]


def refused(tmp_path, match, **options):
    path = write_gguf(tmp_path / "model.gguf", **options)
    with pytest.raises(ValueError, match=match) as caught:
        outline_gguf(read_gguf((path,)))
    assert str(path) in str(caught.value)


def test_unknown_architecture_is_named_with_the_supported_ones(tmp_path):
    match = "architecture 'mamba', expected one of gemma2, gemma3, llama, qwen2, qwen3: take"
    refused(tmp_path, match, more={"general.architecture": "mamba"})


@pytest.mark.parametrize(
    "entry", [("general.type", "mmproj"), ("general.architecture", "clip")]
)
def test_vision_file_is_refused(tmp_path, entry):
    refused(tmp_path, "not a language model: give the model's own file", more=dict([entry]))


def test_tensors_of_a_mixture_are_unknown(tmp_path):
    extra = {"blk.0.ffn_gate_exps.weight": np.zeros((2, 4), np.float32)}
    match = r"different tensors: missing \[\], unknown \['blk\.0\.ffn_gate_exps\.weight'\]"
    refused(tmp_path, match, extra=extra)


def test_missing_tensors_are_named(tmp_path):
    refused(tmp_path, r"missing \['blk\.2\.attn_k", more={"llama.block_count": 3})


def test_shape_of_another_width_is_named(tmp_path):
    match = r"token_embd\.weight in .* has the shape \[262, 32\], expected \[262, 64\]"
    refused(tmp_path, match, more={"llama.embedding_length": 64})

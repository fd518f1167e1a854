"""Sources made to fit: one of another shape is rewritten as a whole, and refused if it is not."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.seme_merges import merged, tensors_of
from tests.tiny_models import save_tiny

DOWN, BIAS = "model.layers.1.mlp.down_proj.weight", "model.layers.*.mlp.down_proj.bias"


def without(folder, *names):
    path = folder / "model.safetensors"
    tensors = {name: t for name, t in load_file(path).items() if name not in names}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_an_excluded_tensor_may_be_lacking_in_a_source_of_the_pivots_shape(tmp_path):
    pivot = save_tiny(tmp_path / "pivot", "llama")
    source = without(save_tiny(tmp_path / "source", "llama", seed=1), DOWN)
    merged(tmp_path / "merged", pivot, source, exclude=[DOWN])
    assert torch.equal(tensors_of(tmp_path / "merged")[DOWN], tensors_of(pivot)[DOWN])


@pytest.mark.parametrize("lacking", [DOWN, "model.embed_tokens.weight"])
def test_a_source_of_another_shape_must_be_whole_also_in_what_is_excluded(lacking, tmp_path):
    pivot = save_tiny(tmp_path / "pivot", "llama")
    source = save_tiny(tmp_path / "source", "llama", seed=1, intermediate_size=64)
    without(source, lacking)
    with pytest.raises(ValueError, match=r"source 0 .*/source.* is of another shape .*as a whole, "
                       rf"tensors that are not merged among it: .*{lacking}"):  # fmt: skip
        merged(tmp_path / "merged", pivot, source, exclude=[lacking])
    assert not (tmp_path / "merged").exists()


def test_a_source_of_another_shape_without_biases_is_whole(tmp_path):
    pivot = save_tiny(tmp_path / "pivot", "llama")
    source = save_tiny(
        tmp_path / "source", "llama", seed=1, intermediate_size=64, mlp_bias=False
    )
    merged(tmp_path / "merged", pivot, source, exclude=[BIAS])
    name = BIAS.replace("*", "0")
    assert torch.equal(tensors_of(tmp_path / "merged")[name], tensors_of(pivot)[name])

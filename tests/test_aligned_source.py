"""Aligned sources: the source in the pivot's layout, against transformers' logits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.disguise import random_turn
from seme.alignment.aligned_source import AlignedSource
from seme.alignment.frames import Frame
from seme.alignment.layers import LayerMatch, match_layers
from seme.alignment.residual_map import ResidualMap
from seme.alignment.tokens import SharedTokens
from seme.architecture.folding import FoldedWeights
from seme.architecture.parts import Part, Place
from tests.disguise import as_map, assert_same_logits, folded, save_turnable, written
from tests.tiny_models import DENSE, save_tiny

WIDE = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
WIDER: dict[str, dict[str, object]] = {
    **dict.fromkeys(DENSE, WIDE),
    "olmo2": {**WIDE, "num_key_value_heads": 8},
    "gpt2": {"n_embd": 64, "n_head": 8},
    "gpt_neox": {k: v for k, v in WIDE.items() if k != "num_key_value_heads"},
}
"""Twice as wide, with twice the heads."""
TALLER: dict[str, dict[str, object]] = {
    "llama": {"hidden_size": 48, "head_dim": 16},
    "mistral": {"hidden_size": 48, "head_dim": 16, "intermediate_size": 48},
    "qwen2": {"hidden_size": 64},
    "phi3": {"hidden_size": 64},
    "gemma2": {"hidden_size": 40, "head_dim": 24, "query_pre_attn_scalar": 17},
    "gpt2": {"n_embd": 64},
    "gpt_neox": {"hidden_size": 64},
}
"""Wider, with heads of twice the dimensions where no norm acts inside them."""


def aligned(
    pivot: FoldedWeights, source: FoldedWeights, turn: ResidualMap | None
) -> AlignedSource:
    layers = match_layers(pivot.model, source.model, turn, units=True)
    frame = Frame(turn=turn, tokens=None, layers=layers)
    return AlignedSource(pivot, source.model, frame, {})


def random_map(pivot: FoldedWeights, source: FoldedWeights) -> ResidualMap:
    """Draw a map that the architecture allows."""
    width, source_width = (w.model.canonical.dimensions.width for w in (pivot, source))
    centred = pivot.model.canonical.family.norm == "layer"
    rng = torch.Generator().manual_seed(7)
    return as_map(random_turn(width, rng, centred=centred, source_width=source_width))


def zeroed(folder: Path) -> Path:
    """Set all weights of a model to zero."""
    tensors = load_file(folder / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def widened(source: Path, folder: Path, model_type: str, **sizes: object) -> Path:
    """Write a model into a wider one that is zero elsewhere."""
    zero = zeroed(save_tiny(folder / "zero", model_type, **sizes))
    pivot, small = folded(zero), folded(source)
    turn = random_map(pivot, small)
    shrink = turn.forward_PK.shape[1] / turn.forward_PK.shape[0]
    eps = {k: v * shrink for k, v in small.config.items() if k.endswith(("_eps", "_epsilon"))}
    return written(aligned(pivot, small, turn), folder / "wide", **eps)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", DENSE)
def test_randomly_rotated_source_keeps_its_logits(model_type, tied, tmp_path):
    pivot, source = (
        save_turnable(tmp_path / str(s), model_type, seed=s, tie_word_embeddings=tied)
        for s in (0, 1)
    )
    plain = folded(pivot)
    turned = aligned(plain, folded(source), random_map(plain, plain))
    assert_same_logits(written(turned, tmp_path / "turned"), source)
    assert "model.embed_tokens.weight" not in turned.names or not torch.allclose(
        turned.read("model.embed_tokens.weight"),
        folded(source).read("model.embed_tokens.weight"),
        atol=0.1,
    )


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [*WIDER.items(), *TALLER.items(), ("gemma3_text", {"query_pre_attn_scalar": 6})],
)
def test_source_embedded_in_a_wider_pivot_keeps_its_logits(model_type, sizes, tmp_path):
    source = save_turnable(tmp_path / "source", model_type)
    assert_same_logits(widened(source, tmp_path, model_type, **sizes), source)


def test_missing_source_biases_become_zeros(tmp_path):
    plain = {"attention_bias": False, "mlp_bias": False}
    pivot, source = (
        save_tiny(tmp_path / "pivot", "llama"),
        save_tiny(tmp_path / "source", "llama", seed=1, **plain),
    )
    folded_pivot = folded(pivot)
    turned = aligned(folded_pivot, folded(source), random_map(folded_pivot, folded_pivot))
    assert_same_logits(written(turned, tmp_path / "turned"), source)


@pytest.mark.parametrize("model_type", ["llama", "olmo2", "gpt_neox", "gemma2"])
def test_unmatched_directions_keep_the_pivot_weights(model_type, tmp_path):
    wide = folded(save_tiny(tmp_path / "pivot", model_type, **WIDER[model_type]))
    small = folded(save_turnable(tmp_path / "source", model_type, seed=1))
    turn = random_map(wide, small)
    source = aligned(wide, small, turn)
    match = source._frame.layers[1][0]
    unmatched = match.heads.group_index < 0
    assert int(unmatched.sum()) == len(unmatched) // 2
    place = Place(Part.K, 1)
    pivot_values, source_values = wide.model.read(place), source._part(place)
    kept = unmatched.repeat_interleave(len(pivot_values) // len(unmatched))
    assert torch.equal(source_values[kept], pivot_values[kept])
    others = torch.eye(len(turn.support_PP)) - turn.support_PP
    torch.testing.assert_close(source_values @ others, pivot_values @ others, atol=1e-5, rtol=0)
    assert not torch.allclose(source_values[~kept], pivot_values[~kept], atol=0.1)


def test_qk_norm_gains_of_unmatched_heads_are_the_pivots(tmp_path):
    wide = folded(save_turnable(tmp_path / "pivot", "olmo2", **WIDER["olmo2"]))
    small = folded(save_turnable(tmp_path / "source", "olmo2", seed=1))
    source = aligned(wide, small, random_map(wide, small))
    index = source._frame.layers[0][0].heads.head_index
    place = Place(Part.Q_NORM, 0)
    pivot_values, source_values = (
        wide.model.read(place).view(8, 8),
        source._part(place).view(8, 8),
    )
    assert torch.equal(source_values[index < 0], pivot_values[index < 0])
    gains = small.model.read(place).view(4, 8)[index[index >= 0]]  # 4 heads among 8
    torch.testing.assert_close(source_values[index >= 0], gains * 0.5**0.5)


def test_embedding_rows_follow_shared_tokens_and_other_rows_are_the_pivots(tmp_path):
    pivot, source = (folded(save_tiny(tmp_path / str(s), "llama", seed=s)) for s in (0, 1))
    tokens = SharedTokens(
        pivot_rows=torch.tensor([2, 5]), source_rows=torch.tensor([7, 1]), overlap=0.5
    )
    actual = AlignedSource(pivot, source.model, Frame(turn=None, tokens=tokens, layers=()), {})
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = actual.read(name)
        assert torch.equal(rows[[2, 5]], source.read(name)[[7, 1]])
        rows[[2, 5]] = pivot.read(name)[[2, 5]]
        assert torch.equal(rows, pivot.read(name))


def test_learned_positions_beyond_the_sources_are_the_pivots(tmp_path):
    pivot = folded(save_tiny(tmp_path / "pivot", "gpt2"))
    source = folded(save_tiny(tmp_path / "source", "gpt2", seed=1, n_positions=40))
    actual = AlignedSource(
        pivot, source.model, Frame(turn=None, tokens=None, layers=()), {}
    ).read("transformer.wpe.weight")
    assert torch.equal(actual[:40], source.read("transformer.wpe.weight"))
    assert torch.equal(actual[40:], pivot.read("transformer.wpe.weight")[40:])


def test_layers_are_interpolated_by_their_shares(tmp_path):
    pivot, source = (folded(save_tiny(tmp_path / str(s), "llama", seed=s)) for s in (0, 1))
    matches = tuple(
        LayerMatch(layer=layer, share=share, heads=None, neurons=None)
        for layer, share in ((0, 0.25), (1, 0.75))
    )
    frame = Frame(turn=None, tokens=None, layers=(matches, matches))
    actual = AlignedSource(pivot, source.model, frame, {})
    for name in ("mlp.up_proj.weight", "self_attn.q_proj.bias"):
        first, second = (source.read(f"model.layers.{layer}.{name}") for layer in (0, 1))
        torch.testing.assert_close(
            actual.read(f"model.layers.1.{name}"), 0.25 * first + 0.75 * second
        )


def test_constants_are_copied_from_the_pivot(tmp_path):
    folder = save_tiny(tmp_path / "pivot", "gpt2")
    name, tensors = "transformer.h.0.attn.masked_bias", load_file(folder / "model.safetensors")
    save_file({**tensors, name: torch.tensor(-1e4)}, folder / "model.safetensors")
    pivot, source = folded(folder), folded(save_tiny(tmp_path / "source", "gpt2", seed=1))
    assert aligned(pivot, source, None).read(name).item() == -1e4


def test_aligned_source_has_names_shapes_and_config_of_the_pivot(tmp_path):
    pivot = folded(save_tiny(tmp_path / "pivot", "gemma2"))
    source = folded(save_tiny(tmp_path / "source", "gemma2", seed=1, num_hidden_layers=3))
    layers = match_layers(pivot.model, source.model, None, units=False)
    frame = Frame(turn=None, tokens=None, layers=layers)
    seconds = {}
    actual = AlignedSource(pivot, source.model, frame, seconds)
    assert (actual.names, actual.config) == (pivot.names, pivot.config)
    assert actual.path == tmp_path / "source"
    assert all(tuple(actual.read(n).shape) == actual.shape(n) for n in actual.names)
    assert {actual.dtype(name) for name in actual.names} == {torch.float32}
    assert set(seconds) == {"transformation"}

"""Frame of a source: map, matched units, refinement."""

from dataclasses import replace

import pytest
import torch

from seme.alignment.diagnosis import collect_seconds
from seme.alignment.frames import units_operator
from seme.alignment.head_comparison import embeddings_operator
from seme.alignment.layers import match_layers
from seme.architecture.parts import Part, Place
from tests.alignments import comparison_of, frame_of
from tests.disguise import folded
from tests.seme_merges import change_tensors, tensors_of
from tests.tiny_models import save_tiny


@pytest.fixture
def pivot(tmp_path):
    return save_tiny(tmp_path / "pivot", "llama")


@pytest.fixture
def other(tmp_path):
    return save_tiny(tmp_path / "other", "llama", seed=1)


def test_source_in_the_pivot_frame_has_no_map_or_tokens(pivot):
    frame = frame_of(pivot, pivot)
    assert (frame.turn, frame.tokens) == (None, None)
    assert [(m.share, m.heads, m.neurons) for (m,) in frame.layers] == [(1.0, None, None)] * 2


def test_units_are_matched_if_their_numbers_differ(pivot, tmp_path):
    fewer = save_tiny(tmp_path / "fewer", "llama", intermediate_size=40)
    ends = ("model.norm.weight", "lm_head.weight")
    change_tensors(fewer, **{name: tensors_of(pivot)[name] for name in ends})
    frame = frame_of(pivot, fewer)
    assert frame.turn is None
    neurons = frame.layers[0][0].neurons
    assert int((neurons.index < 0).sum()) == 8
    assert neurons.similarity.max() > 0


@pytest.mark.parametrize(
    ("match_units", "expected"), [("auto", True), ("always", True), ("never", False)]
)
def test_match_units_option_controls_matching(match_units, expected, pivot, other):
    ((match,), _) = frame_of(pivot, other, match_units=match_units).layers
    assert (match.heads is not None) is expected
    assert (match.neurons is not None) is expected


def test_anchors_both_aligns_the_embeddings(pivot, other):
    name, similar = "model.embed_tokens.weight", {}
    pivot_model, source_model = (
        torch.nn.functional.normalize(tensors_of(model)[name]) for model in (pivot, other)
    )
    for anchors in ("head", "both"):
        turn = frame_of(pivot, other, anchors=anchors, refine=0).turn
        similar[anchors] = float(
            (pivot_model * (source_model @ turn.forward_PK.T)).sum(dim=1).mean()
        )
    assert similar["head"] < 0.1 < 0.2 < similar["both"]
    turn = frame_of(pivot, other, anchors="head").turn
    assert torch.equal(turn.forward_PK, comparison_of(pivot, other).turn.forward_PK)


@pytest.mark.parametrize(
    ("projection", "turns"), [("orthogonal", True), ("least_squares", False)]
)
def test_only_the_orthogonal_map_is_refined(projection, turns, pivot, other):
    seconds = {}
    frames = [frame_of(pivot, other, projection=projection)]
    with collect_seconds(seconds):
        frames.append(frame_of(pivot, other, projection=projection, refine=1))
    first, second = (frame.turn.forward_PK for frame in frames)
    assert torch.equal(first, second) is not turns
    assert ("refinement" in seconds) is turns


def test_refinement_is_skipped_without_matched_units(pivot, other):
    seconds = {}
    with collect_seconds(seconds):
        frame_of(pivot, other, match_units="never", refine=2)
    assert seconds.keys() == {"tokens", "bases", "map", "units"}


def test_refinement_increases_unit_similarity(pivot, other):
    def closeness(refine):
        plain, source_model = folded(pivot).model, folded(other).model
        frame = frame_of(pivot, other, refine=refine)
        operator = units_operator(plain, source_model, frame.layers)
        return float((frame.turn.forward_PK * operator).sum())

    assert closeness(1) > 1.2 * closeness(0)


def test_refined_map_weighs_units_and_anchors(pivot, other):
    plain, source_model, comparison = (
        folded(pivot).model,
        folded(other).model,
        comparison_of(pivot, other),
    )
    embeddings = (model.read(Place(Part.EMBEDDING)) for model in (plain, source_model))
    anchors = comparison.operator_PK + embeddings_operator(*embeddings, None)
    units = units_operator(plain, source_model, frame_of(pivot, other).layers)
    left, _, right = torch.linalg.svd(4 * anchors / 160 + units)
    actual = frame_of(pivot, other, refine=1).turn.forward_PK
    torch.testing.assert_close(actual, (left @ right).float(), atol=1e-4, rtol=0)


def test_units_operator_sums_over_readers_and_writers(pivot, other):
    pivot_model, source_model = folded(pivot).model, folded(other).model
    layers = match_layers(pivot_model, source_model, None, units=False)
    expected = torch.zeros(32, 32, dtype=torch.float64)
    for layer in range(2):
        for part in (Part.Q, Part.K, Part.V, Part.O, Part.GATE, Part.UP, Part.DOWN):
            a, b = (
                model.read(Place(part, layer)).double() for model in (pivot_model, source_model)
            )
            cross = a @ b.T if part in (Part.O, Part.DOWN) else a.T @ b
            expected += cross / (a.norm() * b.norm())
    torch.testing.assert_close(
        units_operator(pivot_model, source_model, layers), expected, atol=1e-6, rtol=0
    )


def test_units_operator_weighs_layers_by_their_shares(pivot, tmp_path):
    deep = save_tiny(tmp_path / "deep", "llama", seed=1, num_hidden_layers=4)
    pivot_model, source_model = folded(pivot).model, folded(deep).model
    ((first,), (last,)) = match_layers(pivot_model, source_model, None, units=False)
    halves = ((replace(first, share=0.5),), (replace(last, share=0.5),))
    whole = units_operator(pivot_model, source_model, ((first,), (last,)))
    torch.testing.assert_close(units_operator(pivot_model, source_model, halves), whole / 2)

"""Where a source stands: what the heads say, the frame, the refinement."""

from dataclasses import replace

import pytest
import torch

import seme.alignment.head_comparison
from seme.alignment.frames import find_frame, units_operator
from seme.alignment.head_comparison import (
    Options,
    PivotHead,
    compare_heads,
    embeddings_operator,
)
from seme.alignment.layers import match_layers
from seme.alignment.stopwatch import Stopwatch
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from tests.disguise import disguised, folded
from tests.seme_merges import change_tensors, tensors_of
from tests.tiny_models import save_tiny

OPTIONS = Options(
    projection="orthogonal",
    anchors="both",
    match_units="auto",
    refine=0,
    identity_tolerance=0.1,
    min_overlap=0.1,
)


def comparison_of(pivot, source, watch=None, **options):
    ours, theirs = (open_checkpoint(folder, root=folder) for folder in (pivot, source))
    return compare_heads(
        PivotHead(ours, torch.device("cpu")),
        theirs,
        "source 0",
        replace(OPTIONS, **options),
        torch.device("cpu"),
        watch or Stopwatch(),
    )


def frame_of(pivot, source, watch=None, **options):
    chosen = replace(OPTIONS, **options)
    return find_frame(
        folded(pivot).model,
        folded(source).model,
        comparison_of(pivot, source, **options),
        chosen,
        watch or Stopwatch(),
    )


@pytest.fixture
def pivot(tmp_path):
    return save_tiny(tmp_path / "pivot", "llama")


@pytest.fixture
def other(tmp_path):
    return save_tiny(tmp_path / "other", "llama", seed=1)


@pytest.fixture
def twin(pivot, tmp_path):
    return disguised(pivot, tmp_path / "twin")


def turn_of(pivot, twin):
    """Recover how the disguise turned the stream from its embedding, E' = E T^t."""
    name = "model.embed_tokens.weight"
    return torch.linalg.lstsq(tensors_of(pivot)[name], tensors_of(twin)[name]).solution


def test_a_model_stands_in_its_own_frame(pivot):
    found = comparison_of(pivot, pivot)
    assert found.in_frame
    assert found.turn.distance < 1e-6
    assert found.turn.similarity == pytest.approx(1.0)
    assert (found.tokens, found.n_anchors) == (None, 160)


def test_the_literal_operator_never_takes_the_short_cut(pivot):
    assert not comparison_of(pivot, pivot, projection="cosine", identity_tolerance=9.0).in_frame


@pytest.mark.parametrize("projection", ["orthogonal", "least_squares"])
def test_heads_alone_tell_how_a_disguise_is_turned(projection, pivot, twin):
    found = comparison_of(pivot, twin, projection=projection)
    assert not found.in_frame
    back = turn_of(pivot, twin)  # T takes the twin's frame back to the pivot's
    torch.testing.assert_close(found.turn.forward_PK, back, atol=1e-4, rtol=0)


def test_least_squares_alone_needs_the_pivots_operator_with_itself(pivot, other):
    assert comparison_of(pivot, other).pivot_PP is None
    found = comparison_of(pivot, other, projection="least_squares").pivot_PP
    assert torch.equal(found, found.T) or torch.allclose(found, found.T)
    assert float(found.trace()) == pytest.approx(160, rel=1e-4)  # of unit rows


def test_another_width_has_no_distance_and_is_no_frame_of_the_pivots(pivot, tmp_path):
    narrow = save_tiny(tmp_path / "narrow", "llama", hidden_size=24, head_dim=8)
    found = comparison_of(pivot, narrow)
    assert (found.turn.distance, found.in_frame) == (None, False)
    assert found.turn.forward_PK.shape == (32, 24)


def test_a_layer_norm_model_gets_a_map_that_fixes_all_ones(tmp_path):
    models = [save_tiny(tmp_path / str(seed), "gpt_neox", seed=seed) for seed in (0, 1)]
    turn = comparison_of(*models).turn
    torch.testing.assert_close(turn.forward_PK @ torch.ones(32), torch.ones(32))


def test_the_frame_of_a_source_in_the_pivots_frame_is_empty(pivot):
    frame = frame_of(pivot, pivot)
    assert (frame.turn, frame.tokens) == (None, None)
    assert [(m.share, m.heads, m.neurons) for (m,) in frame.layers] == [(1.0, None, None)] * 2


def test_there_units_are_matched_where_their_numbers_differ(pivot, tmp_path):
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
def test_units_of_another_frame_are_matched_unless_forbidden(
    match_units, expected, pivot, other
):
    ((match,), _) = frame_of(pivot, other, match_units=match_units).layers
    assert (match.heads is not None) is expected
    assert (match.neurons is not None) is expected


def test_anchors_at_both_ends_bring_the_embeddings_together(pivot, other):
    name, similar = "model.embed_tokens.weight", {}
    ours, theirs = (
        torch.nn.functional.normalize(tensors_of(model)[name]) for model in (pivot, other)
    )
    for anchors in ("head", "both"):
        turn = frame_of(pivot, other, anchors=anchors, refine=0).turn
        similar[anchors] = float((ours * (theirs @ turn.forward_PK.T)).sum(dim=1).mean())
    assert similar["head"] < 0.1 < 0.2 < similar["both"]
    turn = frame_of(pivot, other, anchors="head").turn
    assert torch.equal(turn.forward_PK, comparison_of(pivot, other).turn.forward_PK)


@pytest.mark.parametrize(
    ("projection", "turns"), [("orthogonal", True), ("least_squares", False)]
)
def test_only_the_orthogonal_map_is_refined(projection, turns, pivot, other):
    watch = Stopwatch()
    frames = [frame_of(pivot, other, projection=projection)]
    frames.append(frame_of(pivot, other, watch, projection=projection, refine=1))
    first, second = (frame.turn.forward_PK for frame in frames)
    assert torch.equal(first, second) is not turns
    assert ("refinement" in watch.seconds) is turns


def test_without_matched_units_there_is_nothing_to_refine_by(pivot, other):
    watch = Stopwatch()
    frame_of(pivot, other, watch, match_units="never", refine=2)
    assert set(watch.seconds) == {"map", "units"}


def test_refinement_brings_the_matrices_of_the_source_closer(pivot, other):
    def closeness(refine):
        plain, theirs = folded(pivot).model, folded(other).model
        frame = frame_of(pivot, other, refine=refine)
        operator = units_operator(plain, theirs, frame.layers)
        return float((frame.turn.forward_PK * operator).sum())

    assert closeness(1) > 1.2 * closeness(0)


def test_a_refined_map_is_that_of_units_and_of_anchors_four_times_a_matrix(pivot, other):
    plain, theirs, comparison = (
        folded(pivot).model,
        folded(other).model,
        comparison_of(pivot, other),
    )
    embeddings = (model.read(Place(Part.EMBEDDING)) for model in (plain, theirs))
    anchors = comparison.operator_PK + embeddings_operator(*embeddings, None)
    units = units_operator(plain, theirs, frame_of(pivot, other).layers)
    left, _, right = torch.linalg.svd(4 * anchors / 160 + units)
    found = frame_of(pivot, other, refine=1).turn.forward_PK
    torch.testing.assert_close(found, (left @ right).float(), atol=1e-4, rtol=0)


def test_the_operator_of_matched_units_is_the_sum_over_readers_and_writers(pivot, other):
    ours, theirs = folded(pivot).model, folded(other).model
    layers = match_layers(ours, theirs, None, units=False)
    expected = torch.zeros(32, 32, dtype=torch.float64)
    for layer in range(2):
        for part in (Part.Q, Part.K, Part.V, Part.O, Part.GATE, Part.UP, Part.DOWN):
            a, b = (model.read(Place(part, layer)).double() for model in (ours, theirs))
            cross = a @ b.T if part in (Part.O, Part.DOWN) else a.T @ b
            expected += cross / (a.norm() * b.norm())
    torch.testing.assert_close(
        units_operator(ours, theirs, layers), expected, atol=1e-6, rtol=0
    )


def test_layers_count_in_it_by_their_shares(pivot, tmp_path):
    deep = save_tiny(tmp_path / "deep", "llama", seed=1, num_hidden_layers=4)
    ours, theirs = folded(pivot).model, folded(deep).model
    ((first,), (last,)) = match_layers(ours, theirs, None, units=False)
    halves = ((replace(first, share=0.5),), (replace(last, share=0.5),))
    whole = units_operator(ours, theirs, ((first,), (last,)))
    torch.testing.assert_close(units_operator(ours, theirs, halves), whole / 2)


def test_the_seconds_of_every_stage_are_kept(pivot, other):
    watch = Stopwatch()
    comparison_of(pivot, other, watch)
    assert watch.seconds.keys() == {"tokens", "bases", "map"}


def test_the_pivot_s_bases_of_a_few_tokens_are_solved_for_once(
    make_llama, tmp_path, monkeypatch
):
    pivot = open_checkpoint(make_llama(tmp_path / "pivot", 0), root=tmp_path)
    n_solved, real = [], seme.alignment.head_comparison.head_bases
    monkeypatch.setattr(
        seme.alignment.head_comparison,
        "head_bases",
        lambda *arguments: (n_solved.append(1), real(*arguments))[1],
    )
    head = PivotHead(pivot, torch.device("cpu"))
    some, others = torch.arange(0, 64, 2), torch.arange(1, 64, 2)
    first = head.bases(some, keep=True)
    assert head.bases(some.clone(), keep=True) is first
    head.bases(others, keep=False)
    assert head.bases(some, keep=False) is first
    head.bases(others, keep=False)
    assert len(n_solved) == 3

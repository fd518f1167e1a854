"""Activations as anchors: laws of the map, texts and memory."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scripts.disguise import random_turn
from seme.alignment import activations
from seme.alignment.activations import (
    PivotTexts,
    activations_bytes,
    activations_operator,
    sample_texts,
)
from seme.alignment.frames import units_operator
from seme.alignment.head_comparison import embeddings_operator
from seme.alignment.language_model import LanguageModel
from seme.alignment.options import AlignmentOptions, Sampling
from seme.alignment.residual_map import centred_polar_factor, polar_factor
from seme.alignment.tokens import SharedTokens
from seme.alignment.transform import turn_part
from seme.architecture.parts import Part, Place
from seme.checkpoint.reader import open_checkpoint
from seme.engine import merge_checkpoints
from seme.method import merge
from seme.plan import plan_merge
from tests.alignments import comparison_of, frame_of
from tests.disguise import (
    as_map,
    disguised,
    folded,
    open_canonical,
    save_turnable,
    written_tensors,
)
from tests.seme_merges import ALIGNMENT, change_tensors, merged, settings_with, tensors_of
from tests.settings import SETTINGS
from tests.tiny_models import save_tiny
from tests.tiny_tokenizers import tokenizer_of

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("llama", "qwen3", "gemma2", "olmo2", "gpt2", "gpt_neox")


@pytest.fixture(autouse=True)
def _fewer_texts(monkeypatch):
    """Enough for a width of 32, in three batches."""
    monkeypatch.setattr(activations, "_BATCH", 3)
    monkeypatch.setattr(activations, "N_TEXTS", 8)
    monkeypatch.setattr(activations, "N_TOKENS", 24)


@pytest.fixture
def pivot(tmp_path):
    return save_tiny(tmp_path / "pivot", "llama")


@pytest.fixture
def other(tmp_path):
    return save_tiny(tmp_path / "other", "llama", seed=1)


def operator_of(pivot, source, tokens=None, **sampling):
    texts = PivotTexts(open_canonical(pivot), Sampling(**sampling))
    return activations_operator(texts, open_canonical(source), tokens)


def texts_of(folder, seed):
    model = open_canonical(folder)
    return sample_texts(LanguageModel(model), model, 24, seed=seed)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_pivot_in_disguise_is_found_back(model_type, tmp_path):
    pivot = save_turnable(tmp_path / "pivot", model_type)
    source = disguised(pivot, tmp_path / "source", seed=3)
    centred = open_canonical(pivot).family.norm == "layer"
    turn = random_turn(32, torch.Generator().manual_seed(3), centred=centred)
    operator, _ = operator_of(pivot, source)
    alone = centred_polar_factor(operator) if centred else polar_factor(operator)
    torch.testing.assert_close(alone.float(), turn.T, atol=1e-3, rtol=0)
    found = frame_of(pivot, source, anchors="activations", refine=1).turn.forward_PK
    torch.testing.assert_close(found, turn.T, atol=1e-3, rtol=0)


def test_a_narrower_model_is_found_in_a_wider_stream(tmp_path):
    shape = {"head_dim": 8, "num_hidden_layers": 2, "attention_bias": False, "mlp_bias": False}
    source = save_tiny(tmp_path / "source", "llama", hidden_size=24, **shape)
    turn = random_turn(32, torch.Generator().manual_seed(0), centred=False, source_width=24)
    wide, plain = save_tiny(tmp_path / "wide", "llama", **shape), folded(source)
    parts = {
        place: turn_part(place.part, plain.model.read(place), as_map(turn), normed=True)
        for place in plain.model.canonical.places
    }
    norms = (Part.ATTENTION_NORM, Part.MLP_NORM, Part.FINAL_NORM)
    parts = {p: torch.ones(32) if p.part in norms else v for p, v in parts.items()}
    model = folded(wide)
    tensors = {name: model.assemble(name, parts).contiguous() for name in model.names}
    pivot = written_tensors(tensors, model.config, tmp_path / "pivot")
    operator, _ = operator_of(pivot, source)
    torch.testing.assert_close(polar_factor(operator).float(), turn, atol=1e-3, rtol=0)


def test_operator_is_the_mean_product_of_unit_states_at_every_point(pivot, other):
    of_pivot, of_source = map(open_canonical, (pivot, other))
    operator, n_points = operator_of(pivot, other, seed=5)
    ids, expected = texts_of(pivot, 5), torch.zeros(32, 32, dtype=torch.float64)
    states = [LanguageModel(model).states(ids) for model in (of_pivot, of_source)]
    for a, b in zip(*states, strict=True):
        for text in range(8):
            for place in range(1, 24):
                p, k = a[text, place].double(), b[text, place].double()
                expected += torch.outer(p / p.norm(), k / k.norm()) / (8 * 23)
    assert n_points == 5
    torch.testing.assert_close(operator, expected, atol=1e-6, rtol=0)


def test_points_of_layers_between_two_layers_of_the_source_are_interpolated(tmp_path):
    deep = save_tiny(tmp_path / "deep", "llama", seed=1, num_hidden_layers=4)
    middle = save_tiny(tmp_path / "middle", "llama", num_hidden_layers=3)
    points = activations._points(open_canonical(middle), open_canonical(deep))
    assert list(points) == [
        (0, 0, 1.0), (1, 1, 1.0),
        (2, 2, 0.5), (3, 3, 0.5), (2, 4, 0.5), (3, 5, 0.5),  # layer 1 of 3 is layer 1.5 of 4
        (4, 6, 1.0), (5, 7, 1.0),
        (6, 8, 1.0),
    ]  # fmt: skip


def test_head_embedding_and_points_of_the_stream_weigh_the_same(pivot, other):
    states, _ = operator_of(pivot, other)
    models = [folded(folder).model for folder in (pivot, other)]
    embeddings = embeddings_operator(*(m.read(Place(Part.EMBEDDING)) for m in models), None)
    ends = (comparison_of(pivot, other).operator_PK + embeddings) / 160
    turn = frame_of(pivot, other, anchors="activations").turn
    expected = polar_factor(ends + states)
    torch.testing.assert_close(turn.forward_PK, expected.float(), atol=1e-4, rtol=0)
    similarity = float((expected * (ends + states)).sum()) / (2 + 5)
    assert turn.similarity == pytest.approx(similarity, abs=1e-4)


def test_anchors_weigh_four_in_the_refinement(pivot, other):
    states, _ = operator_of(pivot, other)
    models = [folded(folder).model for folder in (pivot, other)]
    embeddings = embeddings_operator(*(m.read(Place(Part.EMBEDDING)) for m in models), None)
    ends = (comparison_of(pivot, other).operator_PK + embeddings) / 160
    units = units_operator(*models, frame_of(pivot, other, anchors="activations").layers)
    refined = frame_of(pivot, other, anchors="activations", refine=1).turn.forward_PK
    expected = polar_factor(4 * (ends + states) + units)
    torch.testing.assert_close(refined, expected.float(), atol=1e-4, rtol=0)


def test_pivot_is_sampled_once_for_all_sources_of_one_length(tmp_path, pivot, monkeypatch):
    sampled, sample = [], LanguageModel.sample
    monkeypatch.setattr(
        LanguageModel,
        "sample",
        lambda self, ids, n, **options: (
            sampled.append((len(ids), n)) or sample(self, ids, n, **options)
        ),
    )
    sources = [
        save_tiny(tmp_path / f"{seed}", "llama", seed=seed, max_position_embeddings=length)
        for seed, length in ((1, 64), (2, 64), (3, 10))
    ]
    report = merged(tmp_path / "merged", pivot, *sources, anchors="activations")
    assert sum(n for n, length in sampled if length == 24) == 8
    assert sum(n for n, length in sampled if length == 10) == 8
    alone = merged(tmp_path / "alone", pivot, sources[1], anchors="activations")
    similarity = [
        r.diagnostics["sources"][i]["distance_from_identity"]
        for r, i in ((report, 1), (alone, 0))
    ]
    assert similarity[0] == similarity[1]


def test_source_that_cannot_be_run_is_refused_before_the_pivot_is(pivot, other, monkeypatch):
    model = open_canonical(other)
    model.weights.config["hidden_act"] = "unheard_of"
    monkeypatch.setattr(activations, "LanguageModel", None)
    with pytest.raises(ValueError, match=r"transformers cannot run .*unheard_of"):
        activations_operator(PivotTexts(open_canonical(pivot), Sampling()), model, None)


def test_texts_are_the_same_for_a_seed_and_differ_for_another(pivot):
    assert torch.equal(texts_of(pivot, 1), texts_of(pivot, 1))
    assert not torch.equal(texts_of(pivot, 1), texts_of(pivot, 2))


def test_texts_begin_with_the_first_token_and_have_no_other_control_token(pivot):
    texts = texts_of(pivot, 0)
    assert texts.shape == (8, 24)
    assert set(texts[:, 0].tolist()) == {1}  # bos_token_id
    assert int(texts[:, 1:].min()) > 2  # padding, begin and end are 0, 1 and 2
    assert len(set(texts[:, 1].tolist())) > 5


@pytest.fixture
def lengths(monkeypatch):
    """Tokens of the texts that models are run on, in order."""
    read, states = [], LanguageModel.states

    def noted(self, ids):
        read.append(ids.shape[1])
        return states(self, ids)

    monkeypatch.setattr(LanguageModel, "states", noted)
    return read


@pytest.mark.parametrize(("of_pivot", "of_source"), [(64, 10), (10, 64)])
def test_texts_are_no_longer_than_either_context(of_pivot, of_source, tmp_path, lengths):
    # learned positions: the model has no rows beyond
    pivot = save_tiny(tmp_path / "pivot", "gpt2", n_positions=of_pivot)
    source = save_tiny(tmp_path / "source", "gpt2", seed=1, n_positions=of_source)
    operator_of(pivot, source)
    assert set(lengths) == {10}


def test_models_that_read_one_token_at_most_are_refused(tmp_path):
    pivot = save_tiny(tmp_path / "pivot", "gpt2", n_positions=1)
    with pytest.raises(ValueError, match=r"no second token, as .* read 1 at most: use"):
        operator_of(pivot, pivot)


def test_pivot_without_a_token_to_draw_is_refused(pivot):
    model = open_canonical(pivot)
    model.weights.config["eos_token_id"] = list(range(160))
    with pytest.raises(ValueError, match=r"config\.json must leave tokens .* got all 160"):
        sample_texts(LanguageModel(model), model, 24, seed=0)


def test_a_pivot_in_disguise_is_found_back_through_another_tokenizer(tmp_path):
    # the same letters under other ids: rows of embedding and head are in another order
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0)) + 1
    order = torch.cat([torch.zeros(1, dtype=torch.int64), order])
    sizes = {"vocab_size": 51, "bos_token_id": 0, "eos_token_id": 0}
    pivot = with_letters(save_tiny(tmp_path / "pivot", "llama", **sizes), torch.arange(51))
    source = with_letters(disguised(pivot, tmp_path / "source"), order)
    ends = ("model.embed_tokens.weight", "lm_head.weight")
    change_tensors(source, **{name: tensors_of(source)[name][order] for name in ends})
    operator, _ = operator_of(pivot, source, tokens_of(order))
    turn = random_turn(32, torch.Generator().manual_seed(0), centred=False)
    torch.testing.assert_close(polar_factor(operator).float(), turn.T, atol=1e-3, rtol=0)


def with_letters(folder, order):
    """Write a tokenizer of fifty letters; ``order`` has the letter of each id."""
    letters = ["<s>", *map(chr, range(0x4E00, 0x4E32))]
    tokenizer_of([letters[i] for i in order.tolist()], folder)
    return folder


def tokens_of(order):
    rows = order.argsort()  # row of each letter
    return SharedTokens(pivot_rows=torch.arange(51), source_rows=rows, overlap=1.0)


def test_texts_of_which_the_source_reads_nothing_are_refused(tmp_path):
    sizes = {"vocab_size": 51, "bos_token_id": 0, "eos_token_id": 0}
    pivot = with_letters(save_tiny(tmp_path / "pivot", "llama", **sizes), torch.arange(51))
    source = save_tiny(tmp_path / "source", "llama", max_position_embeddings=1, **sizes)
    with_letters(source, torch.arange(51))
    with pytest.raises(ValueError, match=r"no two tokens .* end at the same character"):
        operator_of(pivot, source, tokens_of(torch.arange(51)))


def test_tokens_that_have_no_row_in_the_source_are_not_read(tmp_path):
    # 51 tokens of the tokenizer, 40 rows: as if the texts ended in front of the others
    sizes = {"bos_token_id": 0, "eos_token_id": 0}
    pivot = save_tiny(tmp_path / "pivot", "llama", vocab_size=51, **sizes)
    source = save_tiny(tmp_path / "source", "llama", vocab_size=40, **sizes)
    for folder in (pivot, source):
        with_letters(folder, torch.arange(51))
    rows = torch.arange(40)
    tokens = SharedTokens(pivot_rows=rows, source_rows=rows, overlap=1.0)
    operator, _ = operator_of(pivot, source, tokens)
    assert bool(operator.isfinite().all())


def test_memory_is_demanded_before_a_model_is_read(pivot, other, monkeypatch):
    monkeypatch.setattr(activations, "LanguageModel", None)
    need = activations_bytes(opened(pivot), opened(other), same_tokens=True)
    with pytest.raises(
        ValueError, match=r"running the pivot and a source .* takes about .*MiB"
    ):
        operator_of(pivot, other, memory_budget=need - 1)


def opened(folder):
    return open_checkpoint(folder, root=folder)


def test_memory_is_that_of_one_model_at_a_time_and_the_pivots_states(tmp_path):
    sizes = {"num_hidden_layers": 5, "attention_bias": False, "mlp_bias": False}
    pivot = opened(save_tiny(tmp_path / "pivot", "llama", **sizes))
    n = sum(tensor.numel() for tensor in tensors_of(pivot.path).values())
    for same_tokens, length in ((True, 24), (False, 48)):  # tokens of the longest text
        states = 11 * length * 32 * 4  # of one text: points, tokens, width, bytes
        attention = 3 * 3 * 4 * length**2 * 4  # copies, texts, heads, pairs of tokens, bytes
        working = 3 * length * (2 * 5 * 32 + 40 * 32) * 4 + 4 * 3 * 160 * 4 + 4 * 32 * 32 * 4
        need = activations_bytes(pivot, pivot, same_tokens=same_tokens)
        assert need == 8 * n + (8 + 3) * states + attention + working


def test_texts_that_another_tokenizer_cuts_finely_are_read_up_to_the_length_counted(
    tmp_path, lengths
):
    # a text of 24 tokens has hundreds of letters, and both tokenizers read it letter by letter
    words = [f"{letter}{'a' * 20}" for letter in map(chr, range(0x4E00, 0x4E30))]
    sizes = {"vocab_size": 51, "bos_token_id": 0, "eos_token_id": 0}
    pivot = save_tiny(tmp_path / "pivot", "llama", **sizes)
    source = save_tiny(tmp_path / "source", "llama", seed=1, **sizes)
    tokenizer_of(["<s>", "a", "b", *words], pivot)
    tokenizer_of(["<s>", "b", "a"], source)
    pair = torch.arange(2)
    tokens = SharedTokens(pivot_rows=pair, source_rows=pair, overlap=1.0)
    operator_of(pivot, source, tokens)
    assert max(lengths) == 2 * 24


def test_plan_counts_the_memory_of_running_the_models(pivot, other, tmp_path):
    def planned(anchors):
        method = partial(merge, **settings_with(anchors=anchors))
        models = opened(pivot), [opened(other)]
        return plan_merge(method, *models, tmp_path / "merged", settings=SETTINGS)

    plan, usual = planned("activations"), planned("both")
    assert plan.peak_bytes == usual.peak_bytes
    of_run = partial(activations_bytes, opened(pivot), opened(other))
    assert plan.rewritten_bytes - plan.peak_bytes == of_run(same_tokens=True)
    assert plan.rewritten_bytes > usual.rewritten_bytes
    tokenizer_of(["<s>", "a", "b"], pivot)
    tokenizer_of(["<s>", "b", "a"], other)
    plan = planned("activations")
    assert plan.rewritten_bytes - plan.peak_bytes == of_run(same_tokens=False)


def test_plan_warns_of_models_that_cannot_be_run(pivot, other, tmp_path):
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "pad_token_id": 5000}))
    tokenizer_of(["<s>", "a", "b"], other)
    (pivot / "vocab.json").write_text('{"<s>": 0}')
    for anchors, n_warnings in (("both", 0), ("activations", 2)):
        method = partial(merge, **settings_with(anchors=anchors))
        models = opened(pivot), [opened(other)]
        warnings = plan_merge(method, *models, tmp_path / "new", settings=SETTINGS).warnings
        refused = [line for line in warnings if "will be refused unless" in line]
        assert len(refused) == n_warnings
    assert "only a tokenizer.json tells" in refused[0]
    assert "transformers cannot run" in refused[1]


def test_state_that_is_not_finite_is_refused(pivot, other):
    name = "model.layers.0.mlp.down_proj.weight"
    change_tensors(other, **{name: tensors_of(other)[name] * 1e38})
    with pytest.raises(ValueError, match=r"must be finite to be anchors.*anchors=both$"):
        operator_of(pivot, other)


@pytest.mark.parametrize("projection", ["cosine", "least_squares"])
def test_projections_of_semantic_bases_are_refused(projection):
    with pytest.raises(ValueError, match=rf"needs .*projection=orthogonal: {projection} is"):
        AlignmentOptions.from_mapping(
            {**ALIGNMENT, "anchors": "activations", "projection": projection}
        )


def test_merge_is_the_same_for_a_seed_and_another_for_another(pivot, other, tmp_path):
    def merged_with(seed):
        folder = tmp_path / f"merged{len(list(tmp_path.iterdir()))}"
        merged(folder, pivot, other, anchors="activations", seed=seed)
        return load_file(folder / "model.safetensors")

    first, again, another = merged_with(0), merged_with(0), merged_with(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], another[name]) for name in first)


@pytest.mark.slow
def test_merge_depends_on_the_number_of_threads_in_its_last_bits_alone(tmp_path, monkeypatch):
    # batches large enough for torch to divide a product among threads
    for name, number in (("_BATCH", 16), ("N_TEXTS", 16), ("N_TOKENS", 96)):
        monkeypatch.setattr(activations, name, number)
    models, before = (
        [ROOT / "eval/zoo/models" / n for n in ("base", "independent")],
        torch.get_num_threads(),
    )
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            merged(tmp_path / f"{n_threads}", *models, anchors="activations", refine=2)
    finally:
        torch.set_num_threads(before)
    one, two = tensors_of(tmp_path / "1"), tensors_of(tmp_path / "2")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)


def test_source_with_a_base_is_moved_by_the_states_of_the_base(tmp_path, monkeypatch):
    # pivot and bases are one model, which only looks different: moved, the experts are the experts
    shape = {"attention_bias": False, "mlp_bias": False}
    pivot = save_tiny(tmp_path / "pivot", "llama", **shape)
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight")
    rng = torch.Generator().manual_seed(0)
    changes = {n: 0.01 * torch.randn(tensors_of(pivot)[n].shape, generator=rng) for n in names}
    experts, bases = [], []
    for i, name in enumerate(names):
        expert = save_tiny(tmp_path / f"expert_{i}_as_trained", "llama", **shape)
        change_tensors(expert, **{name: tensors_of(pivot)[name] + changes[name]})
        experts.append(disguised(expert, tmp_path / f"expert_{i}", seed=i))
        bases.append(disguised(pivot, tmp_path / f"base_{i}", seed=i))
    run, init = [], LanguageModel.__init__
    monkeypatch.setattr(
        LanguageModel,
        "__init__",
        lambda self, model: run.append(model.weights.path) or init(self, model),
    )
    method = partial(merge, **settings_with(anchors="activations"))
    models = opened(pivot), list(map(opened, experts)), tmp_path / "merged"
    given = {"settings": SETTINGS, "bases": list(map(opened, bases))}
    plan = plan_merge(method, *models, **given)
    merge_checkpoints(method, *models, **given, progress=False)
    assert run == [pivot, bases[0], pivot, bases[1]]
    need = activations_bytes(opened(pivot), opened(bases[0]), same_tokens=True)
    assert plan.rewritten_bytes - plan.peak_bytes == need
    arrived, plain = tensors_of(tmp_path / "merged"), folded(pivot)
    for name in names:  # as folded: the norm's gain is in the reader
        gain = f"{name.split('.mlp')[0].split('.self')[0]}."
        gain += "post_attention_layernorm" if "mlp" in name else "input_layernorm"
        expected = plain.read(name) + changes[name] * tensors_of(pivot)[f"{gain}.weight"]
        torch.testing.assert_close(arrived[name], expected, atol=2e-5, rtol=0)


def test_budget_of_the_merge_is_the_one_demanded(pivot, other, tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "activations_bytes", lambda *_models, **_: 2**29 + 1)
    with pytest.raises(ValueError, match=r"takes about 513MiB .* memory_budget is 512MiB"):
        merged(tmp_path / "merged", pivot, other, anchors="activations")
    assert not (tmp_path / "merged").exists()


def test_source_in_the_pivots_frame_is_not_run(pivot, tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "LanguageModel", None)
    near = save_tiny(tmp_path / "near", "llama")
    report = merged(tmp_path / "merged", pivot, near, anchors="activations")
    assert report.diagnostics["sources"][0]["identity_shortcut"]
    assert "activations" not in report.diagnostics["sources"][0]["seconds"]


def test_seconds_of_running_the_models_are_recorded(pivot, other, tmp_path):
    report = merged(tmp_path / "merged", pivot, other, anchors="activations")
    assert report.diagnostics["sources"][0]["seconds"]["activations"] > 0

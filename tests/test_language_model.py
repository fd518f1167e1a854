"""Language model: a checkpoint run by transformers."""

import logging
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import transformers

from seme.alignment.language_model import (
    LanguageModel,
    context_length,
    control_tokens,
    start_token,
)
from tests.disguise import TOKENS, open_canonical
from tests.reference_model import parts_of, streams
from tests.seme_merges import change_tensors, tensors_of
from tests.tiny_models import DENSE, save_tiny


@pytest.fixture
def llama(tmp_path):
    return save_tiny(tmp_path / "llama", "llama")


@pytest.mark.parametrize("model_type", DENSE)
def test_states_are_the_residual_stream_of_every_architecture(model_type, tmp_path):
    model = open_canonical(save_tiny(tmp_path / "model", model_type))
    expected = streams(
        parts_of(model), model.family, model.dimensions, model.weights.config, TOKENS
    )
    for state, of_reference in zip(LanguageModel(model).states(TOKENS), expected, strict=True):
        torch.testing.assert_close(state, of_reference, atol=2e-4, rtol=1e-4)


def test_filling_up_a_text_changes_no_earlier_state(llama):
    model = LanguageModel(open_canonical(llama))
    filled = torch.cat([TOKENS, torch.zeros(2, 3, dtype=torch.int64)], dim=1)
    for state, longer in zip(model.states(TOKENS), model.states(filled), strict=True):
        torch.testing.assert_close(state, longer[:, :12], atol=1e-5, rtol=0)


def test_tokens_are_drawn_from_the_models_distribution(llama):
    # a head of zeros gives all tokens the same probability, but for those never drawn
    change_tensors(llama, **{"lm_head.weight": torch.zeros(160, 32)})
    model, never = LanguageModel(open_canonical(llama)), range(4, 160)
    ids = model.sample(
        torch.ones(50, 1, dtype=torch.int64),
        21,
        never=never,
        rng=torch.Generator().manual_seed(0),
    )
    assert (ids.shape, ids[:, 0].unique().tolist()) == ((50, 21), [1])
    counts = ids[:, 1:].flatten().bincount()
    assert len(counts) == 4
    assert all(200 < n < 300 for n in counts.tolist())  # of 1000, 250 each


def test_a_certain_token_is_always_drawn(llama):
    # the stream is the embedding alone, and the head reads the next token off it
    tensors = tensors_of(llama)
    zeros = {n: 0 * t for n, t in tensors.items() if "layers" in n and "norm" not in n}
    embedding = torch.zeros(160, 32)
    embedding[:32] = 9 * torch.eye(32)
    ends = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding.roll(1, dims=0),
        "model.norm.weight": torch.ones(32),
    }
    change_tensors(llama, **zeros, **ends)
    first = torch.tensor([[3], [7]])
    ids = LanguageModel(open_canonical(llama)).sample(
        first, 5, never=(), rng=torch.Generator().manual_seed(0)
    )
    assert ids.tolist() == [[3, 4, 5, 6, 7], [7, 8, 9, 10, 11]]


def test_texts_are_sampled_on_one_thread_whatever_torch_uses(llama):
    # the sums of a large product depend on the number of threads, and a token on the sums
    model, seen, before = LanguageModel(open_canonical(llama)), [], torch.get_num_threads()
    model._model.base_model.register_forward_pre_hook(
        lambda *_: seen.append(torch.get_num_threads())
    )
    torch.set_num_threads(2)
    try:
        model.sample(TOKENS, 14, never=(), rng=seeded())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]  # two tokens


def test_model_that_transformers_cannot_build_is_named_with_the_way_out(llama):
    model = open_canonical(llama)
    model.weights.config["hidden_act"] = "unheard_of"
    with pytest.raises(
        ValueError, match=r"transformers cannot run .*unheard_of.*use both or head"
    ):
        LanguageModel(model)


@pytest.mark.parametrize(
    "changed",
    [{"vocab_size": 150}, {"intermediate_size": 47}],
    ids=lambda entries: next(iter(entries)),
)
def test_configuration_of_other_shapes_is_refused_with_the_way_out(changed, llama):
    model = open_canonical(llama)
    model.weights.config.update(changed)
    with pytest.raises(
        ValueError, match=r"same tensors and shapes .*mismatched_keys.*use .*both or head$"
    ):
        LanguageModel(model)


@pytest.mark.parametrize(
    "entries",
    [
        {"return_dict": False},
        {"quantization_config": {}},
        {"output_attentions": True, "output_hidden_states": True},
    ],
    ids=lambda entries: next(iter(entries)),
)
def test_configuration_does_not_choose_what_a_run_returns(entries, llama):
    expected = LanguageModel(open_canonical(llama))
    model = open_canonical(llama)
    model.weights.config.update(entries)
    built = LanguageModel(model)
    assert not built._model.config.output_attentions
    assert all(map(torch.equal, built.states(TOKENS), expected.states(TOKENS)))
    tokens = [m.sample(TOKENS, 15, never=(), rng=seeded()) for m in (built, expected)]
    assert torch.equal(*tokens)


def test_number_of_labels_is_not_read(llama):
    # transformers makes two dictionaries of that length
    model = open_canonical(llama)
    model.weights.config.update(num_labels=10**6, id2label={"0": "a"}, label2id={"a": 0})
    assert LanguageModel(model)._model.config.num_labels == 2


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.mlp.down_proj.weight"])
def test_logits_that_are_not_finite_are_refused(name, llama):
    change_tensors(llama, **{name: tensors_of(llama)[name] * 1e38})
    model = LanguageModel(open_canonical(llama))
    with pytest.raises(ValueError, match=r"logits of .*llama must be finite .*anchors=both$"):
        model.sample(TOKENS, 15, never=(), rng=seeded())


def seeded():
    return torch.Generator().manual_seed(0)


def test_configuration_chooses_no_attention_and_no_code(llama):
    model = open_canonical(llama)
    model.weights.config.update(
        _attn_implementation="org/kernel", auto_map={"AutoModelForCausalLM": "code.Model"}
    )
    built = LanguageModel(model)._model
    assert built.config._attn_implementation == "eager"
    assert type(built).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("entries", "refused"),
    [({}, False), ({"tie_word_embeddings": True}, False), ({"vocab_size": 150}, True)],
    ids=["plain", "tied_but_for_a_head", "other_shapes"],
)
def test_building_a_model_prints_nothing(entries, refused, llama, capfd, monkeypatch):
    printed = []
    monkeypatch.setattr(
        logging.Logger, "callHandlers", lambda _, record: printed.append(record.getMessage())
    )
    model = open_canonical(llama)
    model.weights.config.update(entries)
    before = transformers.utils.logging.get_verbosity()
    with pytest.raises(ValueError, match="shapes") if refused else nullcontext():
        LanguageModel(model)
    assert (tuple(capfd.readouterr()), printed) == (("", ""), [])
    assert transformers.utils.logging.get_verbosity() == before


def test_control_tokens_and_context_are_read_from_the_configuration():
    config = {"bos_token_id": None, "eos_token_id": [5, 3], "pad_token_id": 3}
    assert (start_token(config), control_tokens(config)) == (5, (3, 5))
    assert (start_token({}), control_tokens({})) == (None, ())
    assert context_length({"n_positions": 64}, at_most=96) == 64
    assert context_length({"max_position_embeddings": 256}, at_most=96) == 96
    assert context_length({"max_position_embeddings": 0}, at_most=96) == 96


def test_transformers_is_not_imported_before_a_model_is_run():
    code = "import sys, seme.method; print('transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"

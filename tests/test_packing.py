import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from eval.packing import TokenTree, can_pack, log_likelihoods, pack

SHAPE = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "initializer_range": 0.5,
}  # fmt: skip
REQUESTS = {
    0: ([5, 6, 7], [8, 9]),
    3: ([5, 6, 7], [10]),
    4: ([1, 2], [3, 4, 5]),
    5: ([5, 6, 7], [11, 12, 13, 14]),
    7: ([1, 2], [3, 4, 6]),
    8: ([30], [31, 32]),
    9: ([1, 2], [3, 4, 6, 3, 4]),
}


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def forward_of(model):
    def forward(ids, mask, positions):
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits

    return forward


def test_requests_with_one_context_share_a_row_longest_first():
    first, second = pack(REQUESTS, max_length=64)
    assert first == TokenTree(
        tokens=(5, 6, 7, 8, 11, 12, 13),
        parents=(-1, 0, 1, 2, 2, 4, 5),
        continuations=((8, 9), (10,), (11, 12, 13, 14)),
        columns=((2, 3), (2,), (2, 4, 5, 6)),
        requests=(0, 3, 5),
    )
    assert second.requests == (4, 7, 9)


def test_continuations_share_their_common_prefix():
    requests = {0: ([1, 2], [3, 4, 5]), 1: ([1, 2], [3, 4, 6]), 2: ([1, 2], [3, 5, 4, 7])}
    (row,) = pack(requests, max_length=64)
    assert row.tokens == (1, 2, 3, 4, 5, 4)  # 3 once, 4 once behind 3 and once behind 3, 5
    assert row.parents == (-1, 0, 1, 2, 2, 4)
    assert row.columns == ((1, 2, 3), (1, 2, 3), (1, 2, 4, 5))


def test_requests_beyond_max_length_are_left_out():
    # inputs of 3 + 2 - 1, 3 + 1 - 1 and 3 + 4 - 1 tokens
    rows = pack({k: REQUESTS[k] for k in (0, 3, 5)}, max_length=5)
    assert [row.requests for row in rows] == [(0, 3)]


def test_packed_row_length_is_bounded():
    requests = {i: ([1] * 300, [i % 40] * 101) for i in range(5)}
    rows = pack(requests, max_length=1000)
    assert [row.requests for row in rows] == [(0, 1), (2, 3)]  # and 4 is left alone
    assert max(len(row.tokens) for row in rows) <= 512


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_packed_continuations_score_as_they_do_alone(config, batch_size):
    model = build(config(**SHAPE))
    assert can_pack(model.config)
    rows = pack(REQUESTS, max_length=64)
    likelihoods = log_likelihoods(
        forward_of(model), rows, batch_size=batch_size, device=torch.device("cpu")
    )
    assert likelihoods.keys() == {0, 3, 4, 5, 7, 9}
    for index, (log, greedy) in likelihoods.items():
        context, continuation = REQUESTS[index]
        with torch.no_grad():
            logits = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        alone = logits[len(context) - 1 : -1]
        expected = sum(float(alone[i, token]) for i, token in enumerate(continuation))
        assert log == pytest.approx(expected, abs=2e-5)
        assert greedy == (alone.argmax(-1).tolist() == continuation)


def test_greedy_continuations_are_detected():
    model = build(LlamaConfig(**SHAPE))
    with torch.no_grad():
        first = int(model(torch.tensor([[5, 6]])).logits[0, -1].argmax())
        second = int(model(torch.tensor([[5, 6, first]])).logits[0, -1].argmax())
    requests = {0: ([5, 6], [first, second]), 1: ([5, 6], [first, (second + 1) % 40])}
    rows = pack(requests, max_length=64)
    likelihoods = log_likelihoods(
        forward_of(model), rows, batch_size=8, device=torch.device("cpu")
    )
    assert (likelihoods[0][1], likelihoods[1][1]) == (True, False)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, sliding_window=4),
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=0),
        LlamaConfig(**SHAPE, attn_implementation="eager"),
    ],
)
def test_models_with_custom_masks_are_not_packed(config):
    assert not can_pack(build(config).config)

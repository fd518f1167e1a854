"""LoRA tensors: the formula, equal bits for any range read, refusals."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from seme.checkpoint.lora_tensors import AdaptedTensor, Factors
from seme.checkpoint.protocol import Held
from tests.adapters import KEY, opened, pair, refused, write_adapter


def adapted(weight, down, up, *, magnitude=None, scaling=1.0, transposed=False):
    """Return a whole changed weight."""
    factors = Factors(
        down=torch.as_tensor(down),
        up=torch.as_tensor(up),
        magnitude=None if magnitude is None else torch.as_tensor(magnitude),
        scaling=scaling,
        transposed=transposed,
    )
    weight = torch.as_tensor(weight)
    return AdaptedTensor(Held(weight), factors).read(0, weight.numel()).view(weight.shape)


def test_lora_update_is_scaling_times_b_a():
    #  B A = [1, 2]^T [1, 10] = [[1, 10], [2, 20]];  times 3
    adapted_weight = adapted(torch.ones(2, 2), [[1.0, 10.0]], [[1.0], [2.0]], scaling=3.0)
    assert adapted_weight.tolist() == [[4.0, 31.0], [7.0, 61.0]]


def test_transposed_weight_gets_the_transposed_update():
    adapted_weight = adapted(torch.zeros(2, 2), [[1.0, 10.0]], [[1.0], [2.0]], transposed=True)
    assert adapted_weight.tolist() == [[1.0, 2.0], [10.0, 20.0]]


def test_dora_sets_the_norm_of_every_output_row():
    # rows [3, 4] and [0, 2] have lengths 5 and 2
    weight, magnitude = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), [10.0, 1.0]
    adapted_weight = adapted(weight, [[0.0, 0.0]], [[1.0], [1.0]], magnitude=magnitude)
    assert adapted_weight.tolist() == [[6.0, 8.0], [0.0, 1.0]]


def test_update_below_base_precision_is_kept_and_base_unchanged():
    for dtype in (torch.bfloat16, torch.float64):
        weight = torch.ones(1, 1, dtype=dtype)
        assert adapted(weight, [[2.0**-12]], [[1.0]]).item() == 1 + 2.0**-12
        assert weight.item() == 1


def case(transposed, dora, *, rows=23, columns=7, rank=3):
    """Return a random weight, its change, and what the formula gives in float64."""
    rng = torch.Generator().manual_seed(0)
    inputs, outputs = (rows, columns) if transposed else (columns, rows)
    weight = torch.randn(rows, columns, generator=rng).bfloat16()
    down = torch.randn(rank, inputs, generator=rng)
    up = torch.randn(outputs, rank, generator=rng)
    magnitude = torch.rand(outputs, generator=rng) if dora else None
    change = Factors(down=down, up=up, magnitude=magnitude, scaling=0.5, transposed=transposed)
    whole = (weight.T if transposed else weight).double() + 0.5 * up.double() @ down.double()
    if dora:
        whole *= (magnitude / whole.norm(dim=1)).unsqueeze(1)
    return weight, change, (whole.T if transposed else whole).float()


CASES = pytest.mark.parametrize(
    ("transposed", "dora"), [(False, False), (False, True), (True, False)]
)


@CASES
def test_blockwise_update_equals_the_formula(monkeypatch, transposed, dora):
    monkeypatch.setattr("seme.checkpoint.lora_tensors._BLOCK", 30)  # 4 rows of 7
    weight, change, expected = case(transposed, dora)
    adapted_weight = (
        AdaptedTensor(Held(weight), change).read(0, weight.numel()).view(weight.shape)
    )
    assert torch.allclose(adapted_weight, expected, rtol=1e-6, atol=1e-7)


@CASES
def test_every_range_equals_a_slice_of_the_whole(monkeypatch, transposed, dora):
    monkeypatch.setattr("seme.checkpoint.lora_tensors._BLOCK", 30)
    weight, change, _ = case(transposed, dora)
    whole = AdaptedTensor(Held(weight), change).read(0, 161)
    for start in range(0, 161, 9):
        for stop in (start, start + 1, start + 28, 161):
            adapted_weight = AdaptedTensor(Held(weight), change).read(start, min(stop, 161))
            assert torch.equal(adapted_weight, whole[start:stop]), (start, stop)


@CASES
def test_result_does_not_depend_on_threads(transposed, dora):
    weight, change, _ = case(transposed, dora, rows=37, columns=50_000, rank=5)
    before = torch.get_num_threads()
    adapted_weight = []
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        tensor = AdaptedTensor(Held(weight), change)
        adapted_weight.append(tensor.read(0, weight.numel()))
    torch.set_num_threads(before)
    cuts = range(0, weight.numel(), 99_991)
    with ThreadPoolExecutor(3) as pool:
        pieces = pool.map(lambda i: tensor.read(i, min(i + 99_991, weight.numel())), cuts)
        adapted_weight.append(torch.cat(list(pieces)))
    assert all(torch.equal(one, adapted_weight[0]) for one in adapted_weight)


def test_a_range_reads_only_the_rows_around_it(monkeypatch):
    monkeypatch.setattr("seme.checkpoint.lora_tensors._BLOCK", 30)
    weight, change, _ = case(False, False)
    ranges = []

    class Recorded(Held):
        def read(self, start, stop):
            ranges.append((start, stop))
            return super().read(start, stop)

    tensor = AdaptedTensor(Recorded(weight), change)
    tensor.read(60, 100)
    tensor.read(150, 161)
    assert ranges == [(56, 112), (140, 161)]  # blocks of 28 elements


def test_an_empty_weight_keeps_its_shape():
    assert adapted(torch.ones(3, 0), torch.ones(1, 0), torch.ones(3, 1)).shape == (3, 0)


@pytest.fixture
def base(tmp_path, make_llama):
    return make_llama(tmp_path / "base", 0)


B = f"{KEY}.lora_B.weight"
EMBEDDING, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
MAGNITUDE = f"{KEY}.lora_magnitude_vector"


@pytest.mark.parametrize(
    ("tensors", "config", "match"),
    [
        (pair("model.q_proj"), {}, "model.q_proj.lora_A.weight .* base_model.model."),
        (pair("base_model.model.h.9"), {}, "changes h.9.weight, which the base"),
        ({B: torch.ones(16, 2)}, {}, r"q_proj has \['up'\] .* expected \['down', 'up'\]"),
        (pair() | {MAGNITUDE: torch.ones(16)}, {}, r"has \['down', 'magnitude', 'up'\]"),
        (pair(), {"use_dora": True}, r"expected \['down', 'magnitude', 'up'\].*use_dora True"),
        (pair() | {MAGNITUDE: torch.ones(3)}, {"use_dora": True}, r"\(3,\), expected \(16"),
        (pair(rank=3), {}, r"shapes \(3, 16\) and \(16, 3\), expected \(2, inputs\)"),
        (pair(inputs=5), {}, r"shape \(16, 5\) .* is \(16, 16\)"),
        (pair() | {f"{KEY}.lora_B.bias": torch.ones(16)}, {}, "lora_B.bias .* not part"),
        ({f"{HEAD}.weight": torch.ones(65, 16)}, {}, r"\(65, 16\), .*lm_head.* \(64, 16\)"),
    ],
)
def test_mismatched_adapter_tensor_is_refused(base, tensors, config, match):
    folder = write_adapter(base, tensors, **config)
    error = refused(folder, match)
    assert error.__notes__ == [f"while reading the adapter {folder} of the base {base}"]


K = KEY.replace("q_proj", "k_proj")  # (8, 16) in the base, where q_proj is (16, 16)


def test_wrong_fan_in_fan_out_is_refused(base):
    opened(write_adapter(base, pair() | pair(K, outputs=8)))
    tensors = pair() | pair(K, outputs=8)
    refused(
        write_adapter(base, tensors, fan_in_fan_out=True),
        r"k_proj .* \(16, 8\) with fan_in_fan_out True, .* is \(8, 16\)",
    )


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({f"{EMBEDDING}.weight": torch.ones(64, 16)}, "model.embed_tokens.weight"),
        (
            {
                f"{EMBEDDING}.lora_embedding_A": torch.ones(2, 64),
                f"{EMBEDDING}.lora_embedding_B": torch.ones(16, 2),
            },
            "model.embed_tokens.weight",
        ),
        ({f"{HEAD}.weight": torch.ones(64, 16)}, "lm_head.weight"),
        (pair(HEAD, outputs=64), "lm_head.weight"),
    ],
)
def test_update_of_a_tied_matrix_is_refused(tmp_path, make_llama, tensors, named):
    base = make_llama(tmp_path / "base", 0, tie_word_embeddings=True)
    refused(
        write_adapter(base, tensors), rf"changes {named}, but .* ties embedding and LM head"
    )
    opened(write_adapter(base, pair()))


def test_dora_on_an_embedding_is_refused(base):
    tensors = {
        f"{EMBEDDING}.lora_embedding_A": torch.ones(2, 64),
        f"{EMBEDDING}.lora_embedding_B": torch.ones(16, 2),
        f"{EMBEDDING}.lora_magnitude_vector": torch.ones(16),
    }
    refused(write_adapter(base, tensors, use_dora=True), "DoRA on .* model.embed_tokens")


def test_square_embedding_update_is_oriented_as_in_peft(tmp_path, make_llama):
    base = make_llama(tmp_path / "base", 0, vocab_size=16)
    key, tokens = "base_model.model.model.embed_tokens", torch.arange(16.0)
    up = torch.ones(16, 1)
    tensors = {f"{key}.lora_embedding_A": tokens.view(1, 16), f"{key}.lora_embedding_B": up}
    model = opened(write_adapter(base, tensors, r=1, lora_alpha=1))
    change = model.read("model.embed_tokens.weight") - model.base.read(
        "model.embed_tokens.weight"
    )
    assert torch.allclose(change, tokens.view(16, 1).expand(16, 16), atol=1e-5)


def test_two_changes_of_one_weight_are_refused(tmp_path, make_llama):
    base = make_llama(tmp_path / "base", 0)
    folder = write_adapter(base, pair() | pair(KEY.replace(".model.model.", ".model.x.model.")))
    refused(folder, r"changes model\.layers\.0\.self_attn\.q_proj\.weight .* a second time")

"""Low-rank changes: the paper's sum, and ranges of it that never depend on how they are cut."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from seme.checkpoint.lora_tensors import AdaptedTensor, Factors
from seme.checkpoint.protocol import Held


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


def test_the_change_is_scaling_times_b_a():
    #  B A = [1, 2]^T [1, 10] = [[1, 10], [2, 20]];  times 3
    found = adapted(torch.ones(2, 2), [[1.0, 10.0]], [[1.0], [2.0]], scaling=3.0)
    assert found.tolist() == [[4.0, 31.0], [7.0, 61.0]]


def test_a_weight_stored_inputs_by_outputs_takes_the_change_transposed():
    found = adapted(torch.zeros(2, 2), [[1.0, 10.0]], [[1.0], [2.0]], transposed=True)
    assert found.tolist() == [[1.0, 2.0], [10.0, 20.0]]


def test_dora_gives_every_output_the_learned_length():
    # rows [3, 4] and [0, 2] have lengths 5 and 2
    weight, magnitude = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), [10.0, 1.0]
    nothing = [[0.0, 0.0]], [[1.0], [1.0]]
    assert adapted(weight, *nothing, magnitude=magnitude).tolist() == [[6.0, 8.0], [0.0, 1.0]]
    turned = adapted(weight.T, *nothing, magnitude=magnitude, transposed=True)
    assert turned.tolist() == [[6.0, 0.0], [8.0, 1.0]]


def test_a_change_below_the_precision_of_the_base_is_kept_and_the_base_not_written_to():
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
    ("transposed", "dora"), [(False, False), (False, True), (True, False), (True, True)]
)


@CASES
def test_blocks_of_rows_add_up_to_the_formula(monkeypatch, transposed, dora):
    monkeypatch.setattr("seme.checkpoint.lora_tensors._BLOCK", 30)  # 4 rows of 7
    weight, change, expected = case(transposed, dora)
    found = AdaptedTensor(Held(weight), change).read(0, weight.numel()).view(weight.shape)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)


@CASES
def test_every_range_holds_the_bits_of_the_whole(monkeypatch, transposed, dora):
    monkeypatch.setattr("seme.checkpoint.lora_tensors._BLOCK", 30)
    weight, change, _ = case(transposed, dora)
    whole = AdaptedTensor(Held(weight), change).read(0, 161)
    for start in range(0, 161, 9):
        for stop in (start, start + 1, start + 28, 161):
            found = AdaptedTensor(Held(weight), change).read(start, min(stop, 161))
            assert torch.equal(found, whole[start:stop]), (start, stop)


@CASES
def test_threads_do_not_show_in_the_bits(transposed, dora):
    weight, change, _ = case(transposed, dora, rows=37, columns=50_000, rank=5)
    before = torch.get_num_threads()
    found = []
    for n_threads in (1, 2, 4):
        torch.set_num_threads(n_threads)
        tensor = AdaptedTensor(Held(weight), change)
        found.append(tensor.read(0, weight.numel()))
    torch.set_num_threads(before)
    cuts = range(0, weight.numel(), 99_991)
    with ThreadPoolExecutor(3) as pool:
        pieces = pool.map(lambda i: tensor.read(i, min(i + 99_991, weight.numel())), cuts)
        found.append(torch.cat(list(pieces)))
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_range_reads_only_the_rows_around_it(monkeypatch):
    monkeypatch.setattr("seme.checkpoint.lora_tensors._BLOCK", 30)
    weight, change, _ = case(False, False)
    asked = []

    class Recorded(Held):
        def read(self, start, stop):
            asked.append((start, stop))
            return super().read(start, stop)

    tensor = AdaptedTensor(Recorded(weight), change)
    tensor.read(60, 100)
    tensor.read(150, 161)
    assert asked == [(56, 112), (140, 161)]  # blocks of 28 elements


def test_a_weight_without_elements_stays_one():
    assert adapted(torch.ones(3, 0), torch.ones(1, 0), torch.ones(3, 1)).shape == (3, 0)

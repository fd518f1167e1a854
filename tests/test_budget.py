"""Memory budget of a merge: block counts, threads, refusals."""

import pytest
import torch

from seme.budget import (
    Sizes,
    allocate,
    blocks_per_read,
    compared_bytes,
    rewritten_bytes,
    threads_that_fit,
    working_bytes,
)

CPU = torch.device("cpu")
MIB = 2**20


def test_a_larger_budget_reads_more_blocks_per_read_up_to_four():
    n_blocks = [blocks_per_read(b * MIB, 3, 32, CPU) for b in (500, 700, 8192)]
    assert n_blocks == sorted(n_blocks)
    assert 1 <= n_blocks[0] < n_blocks[1] < n_blocks[2] == 4


@pytest.mark.parametrize("budget", [300, 500, 2048])
def test_working_memory_stays_within_the_budget(budget):
    at_once = blocks_per_read(budget * MIB, 3, 8, CPU)
    assert working_bytes(3, 8, at_once, CPU) <= budget * MIB


def test_too_small_budget_is_refused_with_the_bytes_needed():
    message = r"at least (\d+)MiB for 8 sources on 64 threads, got 100MiB: raise it"
    with pytest.raises(ValueError, match=message) as error:
        blocks_per_read(100 * MIB, 8, 64, CPU)
    need = int(str(error.value).split("MiB")[0].split()[-1])
    assert blocks_per_read(need * MIB, 8, 64, CPU) == 1


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_thread_count_is_limited_by_memory_and_at_least_one(device):
    assert threads_that_fit(64 * 2**30, 3, 16, device) == 16
    n_threads = threads_that_fit(2 * 2**30, 3, 200, device)
    assert 1 < n_threads < 200
    assert blocks_per_read(2 * 2**30, 3, n_threads, device) >= 1
    assert threads_that_fit(1, 3, 16, device) == 1


def test_rewritten_bytes_count_the_largest_layer_and_copies():
    sizes = {"embed.weight": 1000, "0.mlp.up.weight": 900, "0.mlp.down.weight": 300, "b": 5}
    assert rewritten_bytes(sizes, 2) == 4 * (1200 * (2 + 1) + 1000 * 6)


@pytest.mark.parametrize(
    ("n_rows", "width", "n_sources", "measured"),
    [(4096, 1024, 1, 207e6), (8192, 2048, 3, 695e6), (12_000, 2048, 1, 583e6)],
)
def test_estimate_of_head_comparison_bounds_the_measured_memory(
    n_rows, width, n_sources, measured
):
    estimate = compared_bytes(n_rows, width, n_sources, itemsize=2)
    assert measured <= estimate <= 1.2 * measured


def test_working_memory_grows_with_sources_threads_and_blocks():
    assert working_bytes(4, 2, 1, CPU) > working_bytes(3, 2, 1, CPU)
    assert working_bytes(3, 3, 1, CPU) > working_bytes(3, 2, 1, CPU)
    assert working_bytes(3, 2, 2, CPU) > working_bytes(3, 2, 1, CPU)


@pytest.mark.parametrize("budget", [200, 300, 500, 2048])
def test_allocation_fits_the_budget(budget):
    allocation = allocate(budget * MIB, 3, 4, CPU)
    assert 1 <= allocation.n_threads <= 4
    assert allocation.working_bytes == working_bytes(
        3, allocation.n_threads, allocation.blocks_per_read, CPU
    )
    assert 0 <= allocation.cache_bytes <= budget * MIB - allocation.working_bytes
    assert allocate(2**40, 3, 4, CPU).cache_bytes == allocate(2**35, 3, 4, CPU).cache_bytes > 0


def test_tensors_are_ranked_per_thread_only_if_every_thread_has_room():
    allocations = [allocate(2**31, 8, n_threads, CPU) for n_threads in (2, 16, 64)]
    assert [allocation.rank_per_thread for allocation in allocations] == [True, True, False]
    has_room = [a.cache_bytes // a.n_threads > 40 * MIB for a in allocations]
    assert has_room == [True, True, False]


def test_many_small_sources_fit_the_default_budget():
    small = Sizes(n_ranked=800_000, largest=100_000)  # 3 MB in float32
    assert working_bytes(64, 2, 1, CPU, small) < 1200 * MIB < 2 * 2**30
    assert allocate(2 * 2**30, 64, 2, CPU, small).n_threads == 2
    with pytest.raises(ValueError, match="memory_budget must be at least 2140MiB for 64 sour"):
        allocate(2 * 2**30, 64, 1, CPU)


def test_sizes_lower_the_memory_of_small_models_only():
    large = Sizes(n_ranked=10**9, largest=10**8)
    assert working_bytes(3, 2, 4, CPU, large) == working_bytes(3, 2, 4, CPU)
    unranked = working_bytes(3, 2, 4, CPU, Sizes(n_ranked=0, largest=10**8))
    assert working_bytes(3, 2, 4, CPU) - unranked == 3 * 32_000_000
    assert allocate(2**31, 2, 2, CPU, Sizes(n_ranked=0, largest=0)).blocks_per_read == 4

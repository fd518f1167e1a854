"""Passes over tensors in blocks, and the thread pool."""

import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from baselines.average import merge as average
from baselines.dare import merge as dare
from baselines.dare_ties import merge as dare_ties
from baselines.sce import merge as sce
from baselines.task_arithmetic import merge as task_arithmetic
from baselines.ties import merge as ties
from seme.streaming import CPU_BLOCK, ThreadPool
from tests.in_memory import models_of

TRIM = {"density": 0.3, "lam": 1.0, "trim_ties": "exact"}
METHODS = {
    "average": partial(average, weights=None),
    "task_arithmetic": partial(task_arithmetic, lam=0.4, weights=None),
    "dare": partial(dare, density=0.3, lam=0.4, weights=None),
    "dare_ties": partial(dare_ties, density=0.3, lam=1.0),
    "ties": partial(ties, scope="model", **TRIM),
    "ties_tensor": partial(ties, scope="tensor", **TRIM),
    "sce": partial(sce, tau=0.3, lam=1.0, renormalize=False, select="deltas"),
    "fusechat": partial(sce, tau=0.3, lam=1.0, renormalize=True, select="coefficients"),
}


def numbers(n, *sources):
    pivot = torch.arange(float(n))
    return models_of({"w": pivot}, *({"w": pivot * k} for k in sources))


def test_blocks_cover_every_element_in_order():
    n = 2 * CPU_BLOCK + 5
    blocks = numbers(n, 2.0, 3.0).open("w").map(lambda block: block)
    assert [block.start for block in blocks] == [0, CPU_BLOCK, 2 * CPU_BLOCK]
    assert torch.equal(torch.cat([block.pivot for block in blocks]), torch.arange(float(n)))
    for k, factor in enumerate((2.0, 3.0)):
        values = torch.cat([block.sources[k] for block in blocks])
        assert torch.equal(values, torch.arange(float(n)) * factor)


def test_map_can_visit_selected_ranges():
    tensor = numbers(100, 2.0).open("w")
    values = tensor.map(lambda b: (b.start, b.sources[0].tolist()), [(3, 5), (90, 91), (7, 7)])
    assert values == [(3, [6.0, 8.0]), (90, [180.0]), (7, [])]


@pytest.mark.parametrize("blocks_per_read", [1, 2, 16])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_map_does_not_depend_on_threads_or_blocks_per_read(
    n_threads, blocks_per_read, monkeypatch
):
    monkeypatch.setattr("seme.streaming.CPU_BLOCK", size := 1000)
    pivot = torch.arange(200.0 * size + 1)
    with ThreadPool(n_threads) as threads:
        models = models_of({"w": pivot}, threads=threads, blocks_per_read=blocks_per_read)
        tensor = models.open("w")
        assert tensor._reads()[0] == (0, blocks_per_read * size)
        sums = tensor.map(lambda block: (block.start, block.pivot.sum().item()))
    expected = [(s, pivot[s : s + size].sum().item()) for s in range(0, len(pivot), size)]
    assert sums == expected


def test_blocks_are_float32_for_any_stored_dtype():
    values = torch.tensor([0.5, -3.0])
    models = models_of({"w": values.bfloat16()}, {"w": values.double()}, {"w": values.half()})
    ((pivot, *sources),) = models.open("w").map(lambda b: (b.pivot, *b.sources))
    assert all(t.dtype == torch.float32 and torch.equal(t, values) for t in (pivot, *sources))


@pytest.fixture
def checkpoints(model):
    """Three bfloat16 models of a small and a large tensor."""
    rng = torch.Generator().manual_seed(0)
    base = {"a": torch.randn(7, 5, generator=rng), "b": torch.randn(450, 700, generator=rng)}
    noise = [
        {n: t + 0.01 * torch.randn(t.shape, generator=rng) for n, t in base.items()}
        for _ in range(2)
    ]
    return [
        model(str(i), {n: t.bfloat16() for n, t in tensors.items()})
        for i, tensors in enumerate((base, *noise))
    ]


@pytest.mark.parametrize("method", METHODS)
def test_merge_does_not_depend_on_threads_or_memory_budget(
    checkpoints, merge, method, monkeypatch
):
    monkeypatch.setattr("seme.streaming.CPU_BLOCK", 1 << 11)  # of 154 blocks, several at once
    one = {"n_threads": 2, "memory_budget": 2**30}
    many = {"n_threads": 5, "memory_budget": 140 * 2**20}
    expected, report = merge(METHODS[method], *checkpoints, folder="one", **one)
    monkeypatch.setattr("seme.streaming.SMALL", 0)  # all cores on every tensor, not one on each
    merged, again = merge(METHODS[method], *checkpoints, folder="many", **many)
    assert all(torch.equal(expected[name], merged[name]) for name in expected)
    assert report.bytes_read <= again.bytes_read  # what is not held is read again
    assert replace(report, bytes_read=0) == replace(again, bytes_read=0)


@pytest.mark.parametrize("method", METHODS)
def test_torch_path_equals_compiled_loops(checkpoints, merge, method, in_torch):
    expected, report = merge(METHODS[method], *checkpoints, folder="compiled")
    in_torch()
    merged, again = merge(METHODS[method], *checkpoints, folder="torch")
    assert all(torch.equal(expected[name], merged[name]) for name in expected)
    assert again.rounding_loss == pytest.approx(report.rounding_loss, rel=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_gpu_equals_cpu(checkpoints, merge, method, monkeypatch):
    expected, _ = merge(METHODS[method], *checkpoints, folder="cpu")
    monkeypatch.setattr("seme.streaming.GPU_BLOCK", 1 << 11)  # many, on streams side by side
    device = torch.device("cuda")
    how = {"device": device, "memory_budget": 2**32, "n_threads": 5}
    merged, _ = merge(METHODS[method], *checkpoints, folder="gpu", **how)
    assert all(torch.equal(expected[name], merged[name]) for name in expected)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_thread_pool_keeps_the_order_of_items(n_threads):
    def slow_first(index):
        time.sleep(0.02 if index == 0 else 0)
        return index * index

    with ThreadPool(n_threads) as threads:
        assert threads.map(slow_first, 40) == [index * index for index in range(40)]
        assert threads.map(slow_first, 0) == []


def test_items_run_in_parallel_with_one_torch_thread_each():
    met = threading.Barrier(3, timeout=10)

    def meet(_):
        met.wait()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    with ThreadPool(3) as threads:
        assert threads.map(meet, 3) == [1, 1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n_threads", [1, 4])
def test_first_failure_cancels_items_not_started(n_threads):
    started = []

    def fail(index):
        started.append(index)
        if index == 3:
            raise ValueError(f"item {index}")
        time.sleep(0.01)

    with ThreadPool(n_threads) as threads, pytest.raises(ValueError, match="item 3"):
        threads.map(fail, 1000)
    n_started = len(started)
    time.sleep(0.05)
    assert len(started) == n_started < 100


def test_interrupt_waits_only_for_running_items(monkeypatch):
    done, interrupted = [], threading.Event()

    def work(index):
        assert interrupted.wait(10)
        time.sleep(0.02)
        done.append(index)

    def interrupt(_future):
        interrupted.set()
        raise KeyboardInterrupt

    with ThreadPool(2) as threads:
        monkeypatch.setattr("concurrent.futures.Future.result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            threads.map(work, 1000)
        n_done = len(done)
        time.sleep(0.05)
        assert 0 < len(done) == n_done <= 4


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_failure_of_the_lowest_index_is_raised(n_threads):
    def fail(index):
        if index == 2:
            time.sleep(0.05)
        if index >= 2:
            raise ValueError(f"item {index}")

    with ThreadPool(n_threads) as threads, pytest.raises(ValueError, match="item 2"):
        threads.map(fail, 10)


def test_single_thread_pool_runs_in_the_caller():
    with ThreadPool(1) as threads:
        assert (
            threads.map(lambda _: threading.current_thread(), 2)
            == [threading.main_thread()] * 2
        )

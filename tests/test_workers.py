"""Pieces of a task side by side: order, errors, interruption, threads."""

import threading
import time

import pytest
import torch

import seme.workers as workers_module
from seme.workers import Workers


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_pieces(n_threads):
    def slow_first(index):
        time.sleep(0.02 if index == 0 else 0)
        return index * index

    with Workers(n_threads) as workers:
        assert workers.map(slow_first, 40) == [index * index for index in range(40)]
        assert workers.map(slow_first, 0) == []


def test_pieces_run_side_by_side_and_each_with_one_thread_of_torch():
    met = threading.Barrier(3, timeout=10)

    def meet(_):
        met.wait()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    with Workers(3) as workers:
        assert workers.map(meet, 3) == [1, 1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n_threads", [1, 4])
def test_the_first_failure_is_raised_and_no_more_pieces_are_started(n_threads):
    started = []

    def fail(index):
        started.append(index)
        if index >= 3:
            raise ValueError(f"piece {index}")
        return index

    with Workers(n_threads) as workers, pytest.raises(ValueError, match="piece 3"):
        workers.map(fail, 1000)
    assert len(started) <= 3 + n_threads


def test_an_interrupted_caller_waits_for_running_pieces_only(monkeypatch):
    done, interrupted, wait = [], threading.Event(), workers_module.wait

    def work(index):
        assert interrupted.wait(10)
        done.append(index)

    def interrupt(_running):
        monkeypatch.setattr(workers_module, "wait", wait_for_the_rest)
        raise KeyboardInterrupt

    def wait_for_the_rest(running):
        interrupted.set()
        return wait(running)

    with Workers(2) as workers:
        monkeypatch.setattr(workers_module, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            workers.map(work, 1000)
        n_done = len(done)
        time.sleep(0.05)
        assert len(done) == n_done <= 2


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_a_piece_that_fails_late_is_raised_before_one_behind_it_that_failed_early(n_threads):
    def fail(index):
        if index == 2:
            time.sleep(0.05)
        if index >= 2:
            raise ValueError(f"piece {index}")

    with Workers(n_threads) as workers, pytest.raises(ValueError, match="piece 2"):
        workers.map(fail, 10)


def test_one_thread_is_the_callers():
    with Workers(1) as workers:
        assert (
            workers.map(lambda _: threading.current_thread(), 2)
            == [threading.main_thread()] * 2
        )

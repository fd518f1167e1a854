"""Worker processes: documents in order, errors passed on, scores as in one process."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest

from eval import workers
from eval.evaluator import Evaluator
from eval.harness import evaluate
from eval.suite_lm import SuiteLM
from eval.tasks import build_tasks
from eval.workers import in_order, run_in_workers
from tests.tiny_suite import make_model, model, suite, tasks

__all__ = ["make_model", "model", "suite", "tasks"]  # fixtures


def test_documents_are_put_in_order():
    assert in_order([[0, 3, 6], [1, 4], [2, 5]]) == list(range(7))
    assert in_order([[None, 2], [1]]) == [None, 1, 2]


def test_gathered_samples_and_metrics_are_in_the_order_of_the_documents(monkeypatch):
    samples = [[{"filter": f, "id": i} for f in "ab" for i in ids] for ids in ([0, 2], [1])]
    metrics = [{("acc", "a"): [0.0, 2.0]}, {("acc", "a"): [1.0]}]
    lm = object.__new__(SuiteLM)
    lm._rank, lm._world_size = 0, 2
    for ranks, expected in (
        (samples, [{"filter": f, "id": i} for f in "ab" for i in (0, 1, 2)]),
        (metrics, {("acc", "a"): [0.0, 1.0, 2.0]}),
        ([{"acc": [0.0]}, {"acc": [1.0], "failed": [5]}], {"acc": [0.0, 1.0], "failed": [5]}),
    ):
        gathered = [{"t": of_rank} for of_rank in ranks]
        monkeypatch.setattr(
            "lm_eval.models.huggingface.HFLM.gather_object", lambda *_, got=gathered: got
        )
        assert lm.gather_object(gathered[0]) == [{"t": expected}]


def test_the_first_process_says_warnings_and_bars(monkeypatch, tmp_path):
    jobs = []
    monkeypatch.setattr(workers, "_joined", lambda *_: None)
    silenced = []
    monkeypatch.setattr("logging.disable", silenced.append)
    for rank in (0, 1):
        workers._work(
            rank, lambda **job: jobs.append(job), {"progress": True}, "cuda", 2, 0, tmp_path
        )
    assert [job["progress"] for job in jobs] == [True, False]
    assert [job["device"] for job in jobs] == ["cuda:0", "cuda:1"]
    assert len(silenced) == 1


def in_this_process(function, *, args, nprocs, start_method, join):
    """Run the first of the processes here, as a launcher."""
    assert (nprocs, start_method, join) == (1, "spawn", False)
    try:
        function(0, *args)
    except Exception as error:
        raise workers.ProcessException("failed", 0, 0) from error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("no such task"), ValueError, "^no such task$"),
        (KeyError("x"), RuntimeError, "^KeyError: 'x'$"),
    ],
)
def test_an_error_of_a_process_is_passed_on(error, kind, message, monkeypatch):
    def fail(**_job):
        raise error

    monkeypatch.setattr(workers, "start_processes", in_this_process)
    with pytest.raises(kind, match=message):
        run_in_workers(fail, {"progress": False}, device="cpu", processes=1)


def test_a_process_that_is_killed_is_an_error(monkeypatch):
    def kill(*_, **__):
        raise workers.ProcessException("process 1 terminated with signal SIGKILL", 1, 1)

    monkeypatch.setattr(workers, "start_processes", kill)
    with pytest.raises(RuntimeError, match=r"ended early: .*SIGKILL"):
        run_in_workers(print, {"progress": False}, device="cpu", processes=2)


def test_a_worker_leaves_ctrl_c_to_a_main_process_that_lives():
    workers._leave_to(os.getppid(), signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        workers._leave_to(os.getppid() + 1, signal.SIGINT, None)


def test_workers_end_with_the_main_process_and_are_waited_for_before():
    class Workers:
        """Two processes that are done at the third look, or never."""

        def __init__(self, answers):
            self.answers, self.killed = iter(answers), []
            self.processes = [
                SimpleNamespace(kill=lambda n=n: self.killed.append(n)) for n in "ab"
            ]

        def join(self):
            answer = next(self.answers)
            if answer is None:
                raise KeyboardInterrupt
            return answer

    waited_for = Workers([False, False, True])
    workers._join(waited_for)
    assert waited_for.killed == []
    assert list(waited_for.answers) == []
    ended = Workers([False, None])
    with pytest.raises(KeyboardInterrupt):
        workers._join(ended)
    assert ended.killed == ["a", "b"]


def test_ctrl_c_is_held_while_processes_start():
    with workers._ctrl_c_held():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_more_processes_than_documents_are_refused_before_a_merge(suite):
    chosen = replace(suite("pick"), evaluator=Evaluator(processes=6))
    with pytest.raises(ValueError, match="got 6 for the 5 of pick"):
        build_tasks(chosen)
    with pytest.raises(ValueError, match="got 6 for the 3 of pick"):
        build_tasks(replace(chosen, limit=3))


@pytest.mark.slow
def test_two_processes_score_as_one(model, suite):
    chosen = suite()
    alone = evaluate(model, chosen, device="cpu", seed=0, progress=False)
    both = replace(chosen, evaluator=Evaluator(processes=2))
    together = evaluate(model, both, device="cpu", seed=0, progress=False)
    assert together.tasks == alone.tasks
    assert list(together.samples) == list(alone.samples)
    for task, samples in alone.samples.items():
        ours = together.samples[task]
        assert [s.doc_hash for s in ours] == [s.doc_hash for s in samples]
        values = [s.value for s in samples]
        assert [s.value for s in ours] == pytest.approx(values, rel=1e-5)

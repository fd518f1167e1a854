"""Worker processes: data parallel evaluation, or one process whose memory ends with it.

The processes are launched as ``accelerate launch`` does and talk as lm-eval's do: of n
processes each scores every n-th document, the first one gathers the results. No score depends on their number
but by rounding, as on the batch size, and by sampling, where answers are drawn.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import chain, zip_longest
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessException, start_processes

_WAIT = timedelta(weeks=52)
"""Longest wait for another process, as in lm-eval: their documents take unequal time."""
_NONE = object()


def run_in_workers(
    evaluate: Callable[..., Any], job: Mapping[str, Any], *, device: str, processes: int
) -> Any:  # noqa: ANN401
    """Evaluate in new processes and return the first one's result.

    Args:
        evaluate: ``eval.harness.score_here``.
        job: Its arguments but ``device`` and ``accelerator``; they can be pickled.
        device: ``cpu`` or ``cuda``; a process has the GPU of its number.
        processes: Their number; of several, each has its share of the documents.

    Raises:
        ValueError: If a process refused the model or a task, as ``score_here`` does.
        RuntimeError: If a process failed otherwise, or was killed.
    """
    with tempfile.TemporaryDirectory() as name:
        arguments = (evaluate, dict(job), device, processes, _free_port(), Path(name))
        try:
            with _ctrl_c_held():
                workers = start_processes(  # type: ignore[no-untyped-call]
                    _work, args=arguments, nprocs=processes, start_method="spawn", join=False
                )
            _join(workers)
        except ProcessException as failure:
            for path in sorted(Path(name).glob("error-*")):
                raise pickle.loads(path.read_bytes()) from None
            raise RuntimeError(f"a process of the evaluation ended early: {failure}") from None
        return pickle.loads((Path(name) / "result").read_bytes())


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back for the block; processes begun in it hold it until they are ready."""
    ensure_running()  # else it ends the hold when the first process starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _join(workers: Any) -> None:  # noqa: ANN401 (torch's types are not followed)
    """Wait for the processes; end them where this one is told to end."""
    try:
        while not workers.join():
            pass
    except KeyboardInterrupt:
        for process in workers.processes:
            process.kill()  # they hold nothing that the next run does not make again
        raise


def in_order(ranks: Sequence[Sequence[Any]]) -> list[Any]:
    """Put the documents of all processes in the data's order; process r has r, r + n, ..."""
    rounds = zip_longest(*ranks, fillvalue=_NONE)
    return [item for item in chain.from_iterable(rounds) if item is not _NONE]


def _work(
    rank: int,
    evaluate: Callable[..., Any],
    job: dict[str, Any],
    device: str,
    processes: int,
    port: int,
    folder: Path,
) -> None:
    """Evaluate in this process; leave the result, or the error, in the folder."""
    if (parent := multiprocessing.parent_process()) is not None:
        signal.signal(signal.SIGINT, partial(_leave_to, parent.pid))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if rank > 0:
        logging.disable(logging.WARNING)  # the first one says it
    progress = job["progress"] if rank == 0 else False
    try:
        accelerator = _joined(rank, device, processes, port) if processes > 1 else None
        own = f"cuda:{rank}" if device == "cuda" and processes > 1 else device
        job |= {"device": own, "accelerator": accelerator, "progress": progress}
        result = evaluate(**job)
        if rank == 0:
            (folder / "result").write_bytes(pickle.dumps(result))
        if accelerator is not None:
            accelerator.end_training()
    except Exception as error:
        known = isinstance(error, ValueError)
        passed_on = error if known else RuntimeError(f"{type(error).__name__}: {error}")
        (folder / f"error-{rank}").write_bytes(pickle.dumps(passed_on))
        raise


def _leave_to(parent: int | None, _number: int, _frame: object) -> None:
    """Leave Ctrl-C to the main process, which may finish the run; end where that has ended."""
    if os.getppid() != parent:
        raise KeyboardInterrupt


def _joined(rank: int, device: str, processes: int, port: int) -> Any:  # noqa: ANN401
    """Join the group of processes, with a share of the cores on a CPU."""
    from accelerate import Accelerator  # noqa: PLC0415 (slow to load)
    from accelerate.utils import InitProcessGroupKwargs  # noqa: PLC0415

    n_threads = max(1, torch.get_num_threads() // processes)
    torch.set_num_threads(n_threads)
    size, number = str(processes), str(rank)
    os.environ |= {
        "OMP_NUM_THREADS": str(n_threads),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
    }
    waiting = InitProcessGroupKwargs(timeout=_WAIT)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[waiting])


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port

"""Processes that run a small sweep: started anew, or forked from this one with all loaded.

Most of a short sweep is imports, in which nothing is written. A forked one begins after them,
and is as any other from there on: own session, own streams, own signal handlers.
"""

import atexit
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from seme_bench.start import start

_ROOT = Path(__file__).resolve().parents[2]
_ARGUMENTS = (
    "-m",
    "method=average,ties",
    "models=custom",
    "models.pivot=eval/zoo/models/base",
    "models.sources=[eval/zoo/models/code]",
    "suite.limit=2",
    "quiet=true",
)
_LOADED = (
    "hydra._internal.core_plugins.basic_sweeper",
    "seme_bench.run",
    "eval.override_errors",
    "eval.harness",
    "eval.leaderboard.tables",
    "eval.tracking.trackers",
    "wandb.sdk.launch.inputs.internal",
    "baselines.average",
    "baselines.ties",
)
_LONGEST_SECONDS = 600
_TERM = 1 << (signal.SIGTERM - 1)


@dataclass(slots=True)
class Sweep:
    """A running or ended process of a sweep."""

    pid: int
    folder: Path
    """The sweep's results folder; its output is in files beside it."""
    code: int | None = None
    """Exit code, or the negative number of the signal that it died of; None while it runs."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    @property
    def handles_signals(self) -> bool:
        """Whether the program has set its signal handlers: before it is the interpreter's."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return False
        caught = next((li for li in status.splitlines() if li.startswith("SigCgt")), "x:0")
        return bool(int(caught.partition(":")[2], 16) & _TERM)

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        """Send a signal, unless it has ended."""
        if self.is_running:
            (os.killpg if to_group else os.kill)(self.pid, number)

    def wait(self) -> int:
        """Wait for the end; return the code.

        Raises:
            TimeoutError: If it hangs; it is killed then.
        """
        deadline = time.monotonic() + _LONGEST_SECONDS
        while self.is_running:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"{self.folder}: no end in {_LONGEST_SECONDS} s")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def text(self, stream: str) -> str:
        """Return what it has written to ``output`` or ``error`` so far."""
        return _stream(self.folder, self.pid, stream).read_text(errors="replace")


def load() -> None:
    """Load what a sweep loads, for those forked later."""
    for name in _LOADED:
        importlib.import_module(name)


def start_sweep(folder: Path, *, anew: bool) -> Sweep:
    """Start a sweep into a results folder.

    Args:
        folder: The results folder.
        anew: In a new interpreter; else forked, see :func:`load`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    arguments = [str(_ROOT / "run.py"), *_ARGUMENTS, f"output={folder.resolve()}"]
    names = [folder.with_name(f".{folder.name}.{stream}") for stream in ("output", "error")]
    with names[0].open("wb") as output, names[1].open("wb") as error:
        if anew:
            pid = _new_process(arguments, output, error)
        else:
            pid = _fork(arguments, output, error)
    for name, stream in zip(names, ("output", "error"), strict=True):
        name.rename(_stream(folder, pid, stream))
    return Sweep(pid, folder)


def _stream(folder: Path, pid: int, stream: str) -> Path:
    return folder.with_name(f"{folder.name}.{pid}.{stream}")


def _new_process(arguments: list[str], output: IO[bytes], error: IO[bytes]) -> int:
    child = subprocess.Popen(
        [sys.executable, *arguments], stdout=output, stderr=error, start_new_session=True
    )
    child.returncode = 0  # it is waited for by its pid
    return child.pid


def _fork(arguments: list[str], output: IO[bytes], error: IO[bytes]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        atexit._clear()  # what this process has to do at its end
        os.setsid()
        os.dup2(output.fileno(), 1)
        os.dup2(error.fileno(), 2)
        _run(arguments)
    return pid


def _run(arguments: list[str]) -> NoReturn:
    """Run a sweep and end the process as the interpreter does."""
    code, sys.argv = 1, arguments
    try:
        start(_ROOT)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

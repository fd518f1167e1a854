"""Signals of a run: a first Ctrl-C waits for the run in hand, other signals end at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LINE = "interrupted; finished runs are kept; the same command goes on"
WAITS = "ending after this run, which is kept; Ctrl-C again ends at once"


@dataclass(slots=True)
class _State:
    """What signals have asked of this process."""

    in_run: bool = False
    """A model is being merged or scored."""
    asked: bool = False
    """A first Ctrl-C came during a run."""
    ending: bool = False
    """A signal has ended what ran by ``KeyboardInterrupt``."""
    number: signal.Signals = signal.SIGINT
    """The signal that ends the process."""


_state = _State()
_LONGEST_END = 30.0
"""Seconds that libraries have to end what they run, after an interruption."""


def exit_code() -> int:
    """Return the exit code after a signal, 128 and its number, as shells have it."""
    return 128 + _state.number


def is_ending() -> bool:
    """Say whether a signal ends the process: one came, or a run after a first Ctrl-C is done."""
    return _state.ending


def ends_after_run() -> bool:
    """Say whether a first Ctrl-C came during a run, after which no other is begun."""
    return _state.asked


def raise_if_interrupted(error: Exception) -> None:
    """Raise ``KeyboardInterrupt`` instead of an error that came of it.

    A library that a signal stops between opening a file and the block that closes it fails in that
    block by an error of its own, which takes the place of the interruption.

    Raises:
        KeyboardInterrupt: If a signal has ended what ran.
    """
    if is_ending():
        raise KeyboardInterrupt from error


def say_interrupted() -> None:
    """Say on standard error that the process ends; a new line leaves progress bars alone."""
    sys.stderr.write(f"\n{LINE}\n")


def limit_end() -> None:
    """End the process for good if its end takes long, after an interruption.

    A signal between the taking of a lock and the block that gives it back leaves the lock taken;
    threads that a library waits for at exit may wait for it. What they had to write is made good
    from the records by the next run.
    """
    timer = threading.Timer(_LONGEST_END, os._exit, [exit_code()])
    timer.daemon = True
    timer.start()


def end_at_once() -> None:
    """Let signals end the process at once, while modules are imported and at its end.

    An exception in the midst of an import, or of what a library does at exit, is not passed on.
    """
    _handle(_exit)


def end_after_runs() -> None:
    """Let signals end the process by ``KeyboardInterrupt``; a first Ctrl-C only after the run.

    What is open is closed and removed on the way.
    """
    _handle(_interrupt)


@contextmanager
def finishing_run() -> Iterator[None]:
    """Finish the block after a first Ctrl-C; the next such block is not begun.

    Raises:
        KeyboardInterrupt: If Ctrl-C came during an earlier block, or a signal has ended it.
    """
    if _state.asked or is_ending():
        _state.ending = True
        raise KeyboardInterrupt
    _state.in_run = True
    try:
        yield
    finally:
        _state.in_run = False


def _handle(handler: "signal._HANDLER") -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, handler)


def _exit(number: int, _: object) -> None:
    os.write(2, f"\n{LINE}\n".encode())
    os._exit(128 + number)


def _interrupt(number: int, _: object) -> None:
    if number == signal.SIGINT and _state.in_run and not _state.asked:
        _state.asked = True
        os.write(2, f"\n{WAITS}\n".encode())  # standard error may be in the midst of a write
        return
    _state.number = signal.Signals(number)
    _state.ending = True
    raise KeyboardInterrupt

"""Wall-clock seconds per stage, collected without a stopwatch in every signature."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[dict[str, float]] = ContextVar("seconds by stage")


@contextmanager
def collect_seconds(seconds: dict[str, float]) -> Iterator[None]:
    """Add the seconds of every :func:`stage` entered inside to ``seconds``, by name."""
    token = _collected.set(seconds)
    try:
        yield
    finally:
        _collected.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time the block or, as a decorator, every call; dropped where nobody collects.

    Stages are not nested: the inner one's seconds would count twice.
    """
    start = time.perf_counter()
    yield
    seconds = _collected.get({})
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

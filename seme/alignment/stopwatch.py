"""Seconds of named stages, added up."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(slots=True, kw_only=True)
class Stopwatch:
    """Seconds of each stage, added up by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, stage: str, work: Callable[[], _T]) -> _T:
        """Do the work and count its time to the stage."""
        start = time.perf_counter()
        found = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return found

"""A run and an error in words: what it took and gave, and what went wrong, as records hold it."""

import re
from pathlib import Path

from eval.records import Record
from eval.statistics.scores import overall_mean
from eval.tables import with_error

_LONGEST_ERROR = 4000
"""Characters of an error that are kept."""


def outcome(record: Record) -> str:
    """Say what a run took and gave: ``  merged 0.3 s  scored 11 s  mean 39.33 ± 0.48``."""
    stages = (("merged", record.merge_cost), ("scored", record.evaluation_cost))
    seconds = [f"  {stage} {cost.seconds:.1f} s" for stage, cost in stages if cost is not None]
    return "".join(seconds) + mean_of(record)


def mean_of(record: Record) -> str:
    """Say a finished run's mean over domains in per cent, if it has one."""
    if record.suite is None or not record.domains:
        return ""
    mean = overall_mean(record.scores, record.domains, record.groups)
    return f"  mean {with_error(mean)}"


def describe_error(error: Exception) -> str:
    """Format an error with its notes, shortened, as text that a record can hold.

    Paths are relative to the working folder, or to ``~`` in the user's home.
    """
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    text = "\n".join([f"{kind}{error}", *getattr(error, "__notes__", [])])
    text = text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
    text = text.encode(errors="backslashreplace").decode()
    for folder, prefix in ((str(Path.cwd()), ""), (str(Path("~").expanduser()), "~/")):
        if len(folder) > 1:
            text = re.sub(rf"(?<![\w./-]){re.escape(folder)}/", prefix, text)
    return text

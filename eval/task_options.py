"""Options of a suite put over a task's own: generation, shots, code execution."""

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from eval.suite import Suite, SuiteTask
from eval.suite_options import thawed

_CODE_EVAL = "HF_ALLOW_CODE_EVAL"
"""Environment variable that ``evaluate`` asks for before it runs code."""


def generation_entries(name: str, own: Mapping[str, Any], suite: Suite) -> dict[str, Any]:
    """Put the suite's entries over a task's own ``generation_kwargs``.

    Raises:
        ValueError: If transformers knows no such entry, or one has no effect.
    """
    wanted = thawed(suite.gen_kwargs)
    known = {"max_gen_toks", "until", *vars(GenerationConfig())}
    if unknown := sorted(wanted.keys() - known):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"gen_kwargs {unknown} are unknown to transformers{hint}")
    entries = {**own, **wanted}
    if wanted.get("temperature") and entries.get("do_sample") is False:
        raise ValueError(
            f"gen_kwargs: temperature {wanted['temperature']} has no effect on {name}, which "
            "does not sample; add do_sample: true"
        )
    return entries


def shots_of(task: SuiteTask, suite: Suite, entries: Mapping[str, Any]) -> int | None:
    """Number of shots that the suite asks for; None leaves the task's own.

    As in lm-eval, a task whose file says 0 keeps it; rolling tasks have no prompt.
    """
    if task.num_fewshot is not None or suite.num_fewshot is None:
        return task.num_fewshot
    fixed = entries.get("output_type") == "loglikelihood_rolling"
    return None if fixed or entries.get("num_fewshot") == 0 else suite.num_fewshot


@contextmanager
def code_execution(suite: Suite) -> Iterator[None]:
    """Set ``HF_ALLOW_CODE_EVAL`` for the block where the suite allows code execution."""
    before = os.environ.get(_CODE_EVAL)
    if suite.allow_code_execution:
        os.environ[_CODE_EVAL] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_CODE_EVAL, None)
        else:
            os.environ[_CODE_EVAL] = before


def check_code(name: str, entries: Mapping[str, Any], suite: Suite) -> None:
    """Refuse a task that runs what a model writes, unless the suite allows it.

    Raises:
        ValueError: If the task's YAML says ``unsafe_code: true`` and the suite does not allow it.
    """
    if entries.get("unsafe_code") and not suite.allow_code_execution:
        raise ValueError(
            f"task {name} runs the code that a model writes, on this machine and with your "
            "rights: it may delete files or use the network. In a container or a virtual machine "
            "set suite.allow_code_execution=true; else leave the task out"
        )

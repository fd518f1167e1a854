"""The plan of a run, ``plan=true``: memory and disk of the merge, data of the suite."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seme.binding import bind_method
from seme.job import MergeJob, job_from_config
from seme.pool import terms_of_pool
from seme_bench.entries import check_entries, suite_of
from seme_bench.folders import with_embedded


def print_plan(config: Mapping[str, Any], method_name: str, label: str, *, root: Path) -> None:
    """Print the plan of the merge and of the data; no weights are read, nothing is written.

    Args:
        config: The resolved configuration in plain values.
        method_name: Stem of the method's file in ``conf/method``.
        label: First line of the plan.
        root: Folder that relative folders start from.

    Raises:
        ValueError: If the configuration or a model cannot be used.
    """
    from seme.outline import open_outline  # noqa: PLC0415 (loads the conversion of GGUF)

    check_entries(config)
    config = with_embedded(config, root)
    suite = suite_of(config, root)
    method = bind_method(config["method"])
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(
        label, *terms_of_pool(config["models"]), sep="\n", markup=False, highlight=False
    )
    job = job_from_config(config, method_name, method, root=root, opener=open_outline)
    kept = config["merged_dir"] or f"{config['output']}/scratch-{method_name}-plan"
    table = _table_of(job, root / kept, memory_budget=config["memory_budget"])
    console.print(table, markup=False, highlight=False)
    if suite is not None and (lacking := suite.evaluator.lacking()):
        console.print(lacking, markup=False, highlight=False, soft_wrap=True)
    if suite is not None and not suite.has_own_data:
        from eval.data_plan import plan_data  # noqa: PLC0415 (loads lm-eval)

        table, lines = plan_data(suite)
        console.print(table, *lines, sep="\n", soft_wrap=True, markup=False, highlight=False)


def _table_of(job: MergeJob, destination: Path, *, memory_budget: str) -> Table:
    """Plan a merge to a model, or to one LoRA, as a table."""
    from seme.adapter_plan import adapter_plan_table, plan_adapter  # noqa: PLC0415 (loads
    from seme.plan import plan_merge, plan_table  # noqa: PLC0415  SeMe's alignment)

    sources = [source.checkpoint for source in job.sources]
    if job.settings.as_adapter:
        adapter = plan_adapter(
            job.method, job.base, sources, destination, settings=job.settings
        )
        return adapter_plan_table(adapter, memory_budget=memory_budget)
    plan = plan_merge(
        job.method,
        job.base,
        sources,
        destination,
        settings=job.settings,
        bases=job.own_bases,
    )
    return plan_table(plan, memory_budget=memory_budget)

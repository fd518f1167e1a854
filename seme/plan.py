"""Merge plan: tensors, bytes, memory and disk, from headers alone (no weights loaded).

Shards may be absent: config and index are enough; see :mod:`seme.outline`.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from seme.alignment.activations import activations_bytes, reasons_not_to_run
from seme.alignment.head_comparison import comparing_bytes, match_row_for_row
from seme.alignment.options import samples_texts
from seme.binding import check_method
from seme.budget import allocate, cached_bytes, rewritten_bytes
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Weights
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import refuse_existing
from seme.compatibility import (
    other_bases,
    reasons_to_copy,
    refuse_float64,
    warnings_before,
)
from seme.engine import sizes_of
from seme.interface import traits_of
from seme.outline import gigabytes, pickled_only
from seme.own_base import FittedSources, fit_all
from seme.settings import MergeSettings
from seme.tensor_methods import TensorMethods, bind_overrides
from seme.whole_tensor import memory_for_whole, peak_of_whole

_N_NAMED = 5
"""Tensors named per reason in the table."""
_N_SETS = 12
"""Sets of overridden values in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Tensors, bytes and memory of a merge."""

    merged: tuple[str, ...]
    """Tensors merged."""
    copied: Mapping[str, str]
    """Tensors copied from the pivot, with the reason."""
    dropped: Mapping[str, str]
    """Stored tensors of the pivot that are left out, with the reason."""
    overridden: tuple[str, ...]
    """Values that overrides give to tensors, one line for each set."""
    n_parameters: int
    """Parameters of the merged model."""
    read_bytes: int
    """Bytes read by the walk: every tensor once."""
    is_prepared: bool
    """The method's preparation reads the models too, before or during the walk."""
    written_bytes: int
    """Bytes of the merged tensors."""
    peak_bytes: int
    """Estimated peak memory, excluding the Python process."""
    rewritten_bytes: int | None
    """Estimated peak memory if sources have to be rewritten to fit the pivot, tensor by tensor;
    None for methods that merge only models of the same shape."""
    free_bytes: int
    """Free bytes on the destination's disk; ``written_bytes`` are needed."""
    warnings: tuple[str, ...]
    """Differences between the models that do not stop the merge; the merge also compares a
    sample of the weights."""

    @property
    def fits_the_disk(self) -> bool:
        return self.written_bytes <= self.free_bytes


def plan_merge(
    method: partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    settings: MergeSettings,
    bases: Sequence[Checkpoint | None] = (),
) -> Plan:
    """Plan a merge from the headers, or outlines, of its models; no weights are read.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: As for :func:`seme.engine.merge_checkpoints`; or an outline without shards.
        sources: Models merged from, at least one.
        destination: The folder that would be made.
        settings: Merge settings common to all methods.
        bases: As for the merge.

    Raises:
        CheckpointMismatchError: If the merge would be refused for a source that does not fit.
        ValueError: If it would be refused for its method, patterns, budget or destination.
    """
    check_method(method, len(sources))
    refuse_existing(destination)
    traits = traits_of(method)
    copied = reasons_to_copy(pivot, settings.include, settings.exclude)
    own_bases = tuple(bases) or (None,) * len(sources)
    fitted = fit_all(
        method, pivot, sources, own_bases, copied, any_shape=traits.any_shape, settings=settings
    )
    merged = tuple(name for name in pivot.names if name not in copied)
    refuse_float64(pivot, merged, settings.dtype)
    sizes = {name: _numel(pivot.spec(name)) for name in merged}
    methods = bind_overrides(method, settings.overrides, merged, len(sources))
    peak = _peak_bytes(methods, pivot, len(sources), len(fitted.read), sizes, settings)
    return Plan(
        merged=merged,
        copied=copied,
        dropped=pivot.dropped,
        overridden=tuple(methods.described()),
        n_parameters=sum(_numel(pivot.spec(name)) for name in pivot.names),
        read_bytes=bytes_of_walk(pivot, fitted.read, merged, copied),
        is_prepared=traits.preparation is not None,
        written_bytes=sum(_written(pivot.spec(n), settings.dtype) for n in pivot.names),
        peak_bytes=peak,
        rewritten_bytes=peak + _rewriting(method, pivot, fitted, sizes)
        if traits.any_shape
        else None,
        free_bytes=shutil.disk_usage(nearest_folder(destination)).free,
        warnings=(
            *warnings_before(pivot, fitted.origins),
            *fitted.notes,
            *_not_runnable(method, pivot, fitted),
            *other_bases(sources),
            *pickled_only((pivot, *sources, *filter(None, own_bases))),
        ),
    )


def _rewriting(
    method: partial[Tensor], pivot: Checkpoint, fitted: FittedSources, sizes: Mapping[str, int]
) -> int:
    """Estimate what rewriting sources takes, and running them where activations are compared."""
    need = rewritten_bytes(sizes, len(fitted.read))
    if samples_texts(method):
        running = (
            activations_bytes(pivot, origin, same_tokens=match_row_for_row(pivot, origin))
            for origin in fitted.origins
        )
        need = max(need, *running)
    return need


def _not_runnable(
    method: partial[Tensor], pivot: Checkpoint, fitted: FittedSources
) -> list[str]:
    """Name the sources whose activations cannot be compared; the merge refuses them."""
    if not samples_texts(method):
        return []
    return [
        f"{origin.path} will be refused unless it is in the pivot's frame: {reason}"
        for origin in fitted.origins
        for reason in reasons_not_to_run(
            pivot, origin, same_tokens=match_row_for_row(pivot, origin)
        )
    ]


def _peak_bytes(
    methods: TensorMethods,
    pivot: Checkpoint,
    n_sources: int,
    n_read: int,
    sizes: Mapping[str, int],
    settings: MergeSettings,
) -> int:
    """Estimate the peak memory of a merge of tensors with these numbers of elements.

    Args:
        methods: The method.
        pivot: The model merged into.
        n_sources: What the method merges.
        n_read: Models that are read for them: a source with a base of its own takes two.
        sizes: Elements of the tensors to be merged, by name.
        settings: Merge settings common to all methods.
    """
    traits, budget = traits_of(methods.method), settings.memory_budget
    allocation = allocate(
        budget, n_read, settings.n_threads, settings.device, sizes_of(pivot, traits)
    )
    peak = allocation.working_bytes
    whole = {n: sizes[n] for n in methods.whole_names({n: pivot.shape(n) for n in sizes})}
    if whole:
        memory = memory_for_whole(
            whole, n_sources, traits, allocation=allocation, budget=budget
        )
        peak += peak_of_whole(whole, n_sources, traits, memory=memory, allocation=allocation)
    elif traits.preparation is not None:
        cached = cached_bytes(n_sources) * allocation.n_threads * max(sizes.values(), default=0)
        peak += min(allocation.cache_bytes, cached)
    if traits.any_shape:
        peak = max(peak, comparing_bytes(pivot, n_sources))
    return peak


def bytes_of_walk(
    pivot: Checkpoint,
    sources: Sequence[Weights],
    merged: Sequence[str],
    copied: Mapping[str, str],
) -> int:
    """Sum the bytes of every tensor that a walk reads, each once.

    All tensors of a source whose names differ from the pivot's count.
    """
    total = sum(pivot.spec(name).nbytes for name in (*merged, *copied))
    for source in sources:
        names = merged if set(merged) <= set(source.names) else source.names
        total += sum(math.prod(source.shape(n)) * source.dtype(n).itemsize for n in names)
    return total


def plan_table(plan: Plan, *, memory_budget: str) -> Table:
    """Lay out a plan as a table of two columns.

    Args:
        plan: The plan.
        memory_budget: As the user gave it, such as ``2GiB``.
    """
    table = Table(
        title="Merge plan (no weights loaded)", title_justify="left", show_header=False
    )
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_row(
        "merged", f"{len(plan.merged)} tensors of a model of {plan.n_parameters:,} parameters"
    )
    table.add_row("copied", with_reasons(plan.copied))
    table.add_row("dropped", with_reasons(plan.dropped))
    if plan.overridden:
        table.add_row("overrides", first_lines(plan.overridden))
    more = " per pass; the method's preparation adds passes" if plan.is_prepared else ""
    table.add_row("to read", f"{gigabytes(plan.read_bytes)}{more}")
    table.add_row("to write", gigabytes(plan.written_bytes))
    verdict = "" if plan.fits_the_disk else ": NOT ENOUGH"
    table.add_row("disk free", f"{gigabytes(plan.free_bytes)}{verdict}")
    table.add_row("peak memory", _memory(plan, memory_budget))
    for warning in plan.warnings:
        table.add_row("warning", warning)
    return table


def first_lines(lines: Sequence[str]) -> str:
    """Join the first lines and count the others."""
    more = len(lines) - _N_SETS
    return "\n".join([*lines[:_N_SETS], *([f"and {more} more sets"] if more > 0 else [])])


def _memory(plan: Plan, memory_budget: str) -> str:
    peak = f"+{gigabytes(plan.peak_bytes)} over the Python process (budget {memory_budget})"
    if plan.rewritten_bytes is None:
        return peak
    return f"{peak}; +{gigabytes(plan.rewritten_bytes)} if sources must be rewritten"


def _written(spec: TensorSpec, dtype: torch.dtype | None) -> int:
    if dtype is None or not spec.dtype.is_floating_point:
        return spec.nbytes
    return _numel(spec) * dtype.itemsize


def _numel(spec: TensorSpec) -> int:
    return spec.nbytes // spec.dtype.itemsize


def nearest_folder(path: Path) -> Path:
    """Return the nearest parent of a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def with_reasons(reasons: Mapping[str, str]) -> str:
    """Count tensors by reason and name the first few of each."""
    if not reasons:
        return "none"
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return "\n".join(
        f"{len(names)} {reason}: {', '.join(names[:_N_NAMED])}"
        + (", ..." if len(names) > _N_NAMED else "")
        for reason, names in grouped.items()
    )
